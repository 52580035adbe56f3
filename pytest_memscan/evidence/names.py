"""Names of training files and texts of prompts, kept for the evidence and for nothing else.

Only the process that scans knows them, and another one may write the evidence. They are kept
while a run lasts, in its own folder, and only where somebody asked for what they are for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pytest_memscan.reports.prompt_text import is_canary, is_memorised, prompt_name
from pytest_memscan.results import CheckOutcome

_FOLDER = "names"


@dataclass(frozen=True, kw_only=True)
class Names:
    """What people call what reports number.

    Attributes:
        train: Name of each training image by its id, by the place of the fine-tune in a set; 0
            where there is no set.
        texts: ``"prompt#00017"`` and ``"canary#00003"`` -> text.
    """

    train: Mapping[int, Sequence[str]] = field(default_factory=dict, repr=False)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def train_name(self, train_id: int | None, concept: int = 0) -> str | None:
        """Of a training image; None where it is not known."""
        names = self.train.get(concept, ())
        known = train_id is not None and train_id < len(names)
        return names[train_id] if known and train_id is not None else None


def save_train_names(work_dir: Path, names: Sequence[str], *, concept: int = 0) -> None:
    """Keep the names of training images.

    Args:
        work_dir: Of the run; removed when it ends.
        names: By training id.
        concept: Place of the fine-tune in a set.
    """
    _save(work_dir, f"train-{concept}", list(names))


def save_texts(work_dir: Path, prompts: Sequence[str], canaries: Sequence[str] = ()) -> None:
    """Keep the texts of prompts.

    Args:
        work_dir: Of the run.
        prompts: By their ids, from 0.
        canaries: Planted strings, which are numbered on their own.
    """
    texts = {f"prompt#{number:05d}": text for number, text in enumerate(prompts)}
    planted = {f"canary#{number:05d}": text for number, text in enumerate(canaries)}
    _save(work_dir, "texts", texts | planted)


def load_names(work_dir: Path) -> Names:
    """What was kept in the folder of a run; nothing where nothing was."""
    folder, train, texts = work_dir / _FOLDER, {}, {}
    for file in sorted(folder.glob("train-*.json")):
        train[int(file.stem.removeprefix("train-"))] = json.loads(file.read_text("utf-8"))
    with suppress(FileNotFoundError):
        texts = json.loads((folder / "texts.json").read_text("utf-8"))
    return Names(train=train, texts=texts)


def shown_texts(checks: Sequence[CheckOutcome], names: Names) -> dict[str, str]:
    """Texts of the prompts that came out, for the reports of those who ask for them.

    A prompt that is not memorised says nothing about the checkpoint, and is left out. So is a
    planted string: it is a secret of those who planted it, who know it by its line, and once it
    stands in a report it proves nothing any more.

    Args:
        checks: Of the run.
        names: Kept by it.

    Returns:
        ``{"prompt#00017": text}``, in the order of the ids.
    """
    found = {name for check in checks for name in _prompts_of(check)}
    return {name: names.texts[name] for name in sorted(found) if name in names.texts}


def _prompts_of(check: CheckOutcome) -> Iterator[str]:
    if check.prompt_scan is not None:
        for memorised in check.prompt_scan.findings:
            if is_memorised(memorised) and not is_canary(memorised):
                yield prompt_name(memorised)
    if check.keys is not None:
        for key in check.keys.findings:
            if key.flagged and not is_canary(key):
                yield prompt_name(key)
    if check.splitting is not None:
        for copy in check.splitting.copies:
            if copy.finding.confirmed and copy.prompt_id is not None:
                yield f"prompt#{copy.prompt_id:05d}"


def _save(work_dir: Path, name: str, value: object) -> None:
    folder = work_dir / _FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    half_done = folder / f"{name}.{os.getpid()}"
    # Names of files need not be UTF-8; JSON escapes what is not.
    half_done.touch(mode=0o600)
    half_done.write_text(json.dumps(value), encoding="utf-8")
    half_done.replace(folder / f"{name}.json")
