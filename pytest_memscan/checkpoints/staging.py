"""A folder that holds the vetted files of a checkpoint and nothing else, to load from.

Libraries look for more than the files they need (adapters, templates, older formats, code). What
is not there cannot be found.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_memscan.checkpoints.components import Parts
from pytest_memscan.checkpoints.families import MODEL_INDEX
from pytest_memscan.checkpoints.verify import Vetted


@contextmanager
def vetted_folder(folder: Path, vetted: Vetted) -> Iterator[Path]:
    """Links to the files that were vetted, and a model_index.json that names them only.

    The folder is gone when the block ends.
    """
    with tempfile.TemporaryDirectory(prefix="memscan-", ignore_cleanup_errors=True) as name:
        staged = Path(name)
        for file in vetted.names():
            if file != MODEL_INDEX:
                _link((folder / file).resolve(), staged / file)
        index = json.dumps(_index(vetted.files.parts), indent=2)
        (staged / MODEL_INDEX).write_text(index, encoding="utf-8")
        yield staged


def _index(parts: Parts) -> dict[str, Any]:
    """What diffusers needs to know, without the components that are left out."""
    family = parts.family
    absent = [*family.left_out, *(key for key in family.components if key not in parts.classes)]
    loaded = {key: [family.components[key].library, name] for key, name in parts.classes.items()}
    return {"_class_name": family.pipeline, **loaded, **{key: [None, None] for key in absent}}


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source, target)
    except OSError:  # Windows, without the privilege
        shutil.copyfile(source, target)
