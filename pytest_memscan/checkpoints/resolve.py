"""What the user typed after ``--memscan`` -> a folder to load from.

Imported when pytest starts: no torch, no diffusers, and huggingface_hub only inside functions.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pytest_memscan.checkpoints import hub, layout
from pytest_memscan.checkpoints.components import kind_of, read_parts
from pytest_memscan.checkpoints.families import MODEL_INDEX, Kind
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.errors import CheckpointError, OptionError

BUILTIN_PREFIX = "builtin:"
_BUILTIN_TRAIN_DATA = "train_images.safetensors"
_BUILTIN_PROMPTS = "prompts.txt"
_BUILTIN_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]*")
_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w][\w./-]*))?",
    re.ASCII,
)
_WHAT_IT_CAN_BE = "expected a diffusers folder, a Hub id ORG/NAME[@REVISION] or builtin:NAME"


@dataclass(frozen=True, kw_only=True)
class ResolvedCheckpoint:
    """A checkpoint that has been found; load it from `folder` and nowhere else."""

    spec: str = field(repr=False)  # as typed
    label: str  # for people and reports: holds no private absolute path
    folder: Path = field(repr=False)
    commit: str | None = None  # 40 hex digits; Hub only
    train_data: Path | None = field(default=None, repr=False)  # builtin only, where it has one
    prompts: Path | None = field(default=None, repr=False)  # builtin only, where it has some

    @property
    def kind(self) -> Kind:
        """Whether it makes images from prompts; reads model_index.json.

        Raises:
            CheckpointError: That file is missing or names what is not supported.
        """
        return kind_of(self.folder)


def check_spec(spec: str) -> None:
    """Check what can be checked when pytest starts: no network, no heavy import.

    Raises:
        OptionError: Empty, an unknown builtin, a folder that is missing or cannot be scanned,
            or neither a path nor a Hub id.
    """
    if spec.startswith(BUILTIN_PREFIX):
        _check_folder(_builtin_folder(spec), spec)
    elif _hub_id(spec) is None:
        _check_folder(_local_folder(spec), _local_label(spec))


def resolve(spec: str, *, offline: bool) -> ResolvedCheckpoint:
    """Find the checkpoint; a Hub model is resolved to a commit and downloaded.

    Args:
        spec: "builtin:NAME", a folder, or "ORG/NAME[@REVISION]". A folder that exists wins
            over a Hub id of the same name, as in diffusers.
        offline: Use the local Hub cache only.

    Raises:
        OptionError: As `check_spec`.
        CheckpointError: The Hub model cannot be found, accessed, reached or trusted.
    """
    check_spec(spec)
    if spec.startswith(BUILTIN_PREFIX):
        folder = _builtin_folder(spec)
        return ResolvedCheckpoint(
            spec=spec,
            label=spec,
            folder=folder,
            train_data=_if_there(folder / _BUILTIN_TRAIN_DATA),
            prompts=_if_there(folder / _BUILTIN_PROMPTS),
        )
    hub_id = _hub_id(spec)
    if hub_id is None:
        folder = _local_folder(spec).resolve()
        return ResolvedCheckpoint(spec=spec, label=_local_label(spec), folder=folder)
    repo, revision = hub_id
    folder, commit = hub.fetch(repo, revision, offline=offline)
    return ResolvedCheckpoint(spec=spec, label=f"{repo}@{commit[:7]}", folder=folder, commit=commit)


def known_kind(spec: str) -> Kind | None:
    """The kind of checkpoint, as far as it is known before anything is fetched.

    Args:
        spec: As for `resolve`.

    Returns:
        None for a Hub id, and where `check_spec` has something to complain about.
    """
    try:
        if spec.startswith(BUILTIN_PREFIX):
            return kind_of(_builtin_folder(spec))
        return kind_of(_local_folder(spec)) if _hub_id(spec) is None else None
    except (OptionError, CheckpointError):
        return None


def has_builtin_train_data(spec: str) -> bool:
    """Whether the text names a builtin checkpoint that comes with its training images."""
    try:
        is_builtin = spec.startswith(BUILTIN_PREFIX)
        return is_builtin and (_builtin_folder(spec) / _BUILTIN_TRAIN_DATA).is_file()
    except OptionError:
        return False


def _hub_id(spec: str) -> tuple[str, str | None] | None:
    """Repository and revision, if the text is a Hub id and no file or folder has that name."""
    found = _HUB_ID.fullmatch(spec)
    if found is None or ".." in spec or "--" in found["repo"] or os.path.exists(spec):
        return None
    return found["repo"], found["revision"]


def _local_folder(spec: str) -> Path:
    """The folder that the text names; may not exist."""
    if not spec.strip():
        raise OptionError(f"--memscan is empty; {_WHAT_IT_CAN_BE}")
    if "://" in spec:
        raise OptionError(
            f"--memscan {shown(spec)} is a URL; give the Hub id ORG/NAME[@REVISION] instead"
        )
    if "\x00" in spec:
        raise OptionError(f"--memscan {shown(spec)} is not a path; {_WHAT_IT_CAN_BE}")
    try:
        return Path(spec).expanduser()
    except RuntimeError:  # ~nobody
        raise OptionError(f"--memscan {shown(spec)}: no such home folder") from None


def _local_label(spec: str) -> str:
    """The folder as typed if it is relative; of an absolute path, only the name."""
    path = Path(spec).expanduser()
    if path.is_absolute():
        return f".../{path.name}"
    return path.as_posix() if path.parts[:1] == ("..",) else f"./{path.as_posix()}"


def _builtin_folder(spec: str) -> Path:
    """The folder of an embedded checkpoint: in the wheel, or in the repository."""
    name = spec.removeprefix(BUILTIN_PREFIX)
    package = Path(__file__).resolve().parents[1]
    homes = [package / "builtin", package.parent / "fixtures"]
    if _BUILTIN_NAME.fullmatch(name):
        for home in homes:
            if _is_builtin(home / name):
                return home / name
    found = {folder.name for home in homes for folder in home.glob("*") if _is_builtin(folder)}
    available = sorted(found)
    listed = ", ".join(BUILTIN_PREFIX + name for name in available) or "none in this installation"
    raise OptionError(f"--memscan {shown(spec)}: no such builtin checkpoint; available: {listed}")


def _is_builtin(folder: Path) -> bool:
    return (folder / MODEL_INDEX).is_file()


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _check_folder(folder: Path, label: str) -> None:
    option = f"--memscan {shown(label)}"
    # os.path, not pathlib: False instead of an exception for names that are too long.
    if not os.path.exists(folder):
        raise OptionError(f"{option}: no such folder; {_WHAT_IT_CAN_BE}")
    if not os.path.isdir(folder):
        raise OptionError(f"{option} {layout.describe_file(folder.name)}")
    try:
        names = layout.list_names(folder)
        if MODEL_INDEX not in names:
            raise CheckpointError(f"no {MODEL_INDEX}: {layout.describe_without_index(names)}")
        layout.files_to_load(names, read_parts(folder))
    except CheckpointError as error:
        raise OptionError(f"{option}: {error}") from None
