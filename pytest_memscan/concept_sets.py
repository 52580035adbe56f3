"""A set of fine-tunes in one TOML file: what each was trained on, and their base.

::

    base = "org/base"            # of every concept that names no other

    [[concept]]
    model = "vase-lora"          # folder, LoRA, .safetensors file, Hub id or builtin:NAME
    train_data = "vase"          # as --memscan-train-data
    prompt = "a photo of sks vase"   # or prompts = FILE, as --memscan-prompts

Paths start at the file. Nothing heavy is imported, since this runs when pytest starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_memscan.data.prompts import PromptSource
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import OptionError, shown_path
from pytest_memscan.settings import Given, parse_base, parse_prompts, parse_train_source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SUFFIX = ".toml"
_KEYS = {"model", "base", "train_data", "prompt", "prompts"}
_MAX_CAPTION = 1_000  # characters


@dataclass(frozen=True, kw_only=True)
class Concept:
    """One fine-tune of a set."""

    model: str = field(repr=False)
    base: str | None = field(repr=False)
    train_source: DataSource | None
    prompt_source: PromptSource | None
    caption: str | None = field(repr=False)


def is_set(model: str) -> bool:
    """Whether ``--memscan`` names a set rather than one checkpoint."""
    return model.endswith(SUFFIX) and not os.path.isdir(os.path.expanduser(model))


def read_set(model: str) -> tuple[Concept, ...]:
    """The concepts of a file, at least one.

    Raises:
        OptionError: It cannot be read, or an entry cannot be used: with its number and key.
    """
    path = Path(os.path.expanduser(model))
    name = f"--memscan {shown_path(path)}"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"{name} cannot be read as a set of fine-tunes: {reason}") from None
    unknown = sorted(set(content) - {"base", "concept"})
    if unknown:
        raise OptionError(f"{name}: unknown key {unknown[0]!r}; known keys are base and concept")
    entries = content.get("concept")
    if not isinstance(entries, list) or not entries:
        raise OptionError(f"{name} has no [[concept]]; write one for each fine-tune")
    return tuple(
        _concept(entry, name, number, content.get("base"), path.resolve().parent)
        for number, entry in enumerate(entries, start=1)
    )


def _concept(entry: object, name: str, number: int, base: object, folder: Path) -> Concept:
    where = f"{name}: concept {number}"
    if not isinstance(entry, Mapping):
        raise OptionError(f"{where} is not a table; write [[concept]]")
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        known = ", ".join(sorted(_KEYS))
        raise OptionError(f"{where}: unknown key {unknown[0]!r}; known keys are {known}")
    if "model" not in entry:
        raise OptionError(f"{where} has no model")
    caption = entry.get("prompt")
    if caption is not None and not (isinstance(caption, str) and 0 < len(caption) <= _MAX_CAPTION):
        raise OptionError(f"{where}: prompt is not a text of 1 to {_MAX_CAPTION} characters")
    if caption is not None and "prompts" in entry:
        raise OptionError(f"{where} has both prompt and prompts; give one of them")

    def read(key: str, parse: Any, value: object) -> Any:
        if value is None:
            return None
        return parse(Given(value=value, source=where, base=folder, key=key))

    return Concept(
        model=read("model", parse_base, entry["model"]),
        base=read("base", parse_base, entry.get("base", base)),
        train_source=read("train_data", parse_train_source, entry.get("train_data")),
        prompt_source=read("prompts", parse_prompts, entry.get("prompts")),
        caption=caption,
    )
