"""What the user typed after ``--memscan`` -> a folder to load from.

Imported when pytest starts: no torch, no diffusers, and huggingface_hub only inside functions.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pytest_memscan.checkpoints import hub, layout
from pytest_memscan.checkpoints.adapter_files import find_adapter
from pytest_memscan.checkpoints.claims import Claims, claims_of
from pytest_memscan.checkpoints.components import kind_of, read_parts
from pytest_memscan.checkpoints.families import MODEL_INDEX, Kind
from pytest_memscan.checkpoints.files import shown
from pytest_memscan.checkpoints.single_file import check_single_file, is_single_file
from pytest_memscan.errors import CheckpointError, OptionError

BUILTIN_PREFIX = "builtin:"
_BUILTIN_TRAIN_DATA = "train_images.safetensors"
_BUILTIN_PROMPTS = "prompts.txt"
_BUILTIN_ADAPTER = "pytorch_lora_weights.safetensors"
_BUILTIN_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]*")
_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w][\w./-]*))?",
    re.ASCII,
)
_WHAT_IT_CAN_BE = (
    "expected a diffusers folder, a LoRA, a .safetensors file, a Hub id ORG/NAME[@REVISION] or "
    "builtin:NAME"
)
MODEL, BASE = "--memscan", "--memscan-base"  # the options that name a checkpoint
Form = Literal["pipeline", "lora", "single file"]  # how its weights are stored
FORM_TEXTS: dict[Form, str] = {"pipeline": "pipeline", "lora": "LoRA", "single file": "single file"}


@dataclass(frozen=True, kw_only=True)
class ResolvedCheckpoint:
    """A checkpoint that has been found; load it from `folder` and nowhere else."""

    spec: str = field(repr=False)  # as typed
    label: str  # for people and reports: holds no private absolute path
    folder: Path = field(repr=False)  # of a single file or a LoRA in one file, that file
    form: Form = "pipeline"  # anything else needs the pipeline it was made from
    commit: str | None = None  # 40 hex digits; Hub only
    train_data: Path | None = field(default=None, repr=False)  # builtin only, where it has one
    prompts: Path | None = field(default=None, repr=False)  # builtin only, where it has some

    @property
    def kind(self) -> Kind:
        """Whether it makes images from prompts; reads model_index.json.

        Raises:
            CheckpointError: That file is missing or names what is not supported.
        """
        return _kind(self.folder, self.form)

    @property
    def claims(self) -> Claims:
        """What its files say of the base and of the prompts it was fine-tuned with."""
        return claims_of(self.folder)


def check_spec(spec: str, *, option: str = MODEL) -> None:
    """Check what can be checked when pytest starts: no network, no heavy import.

    Args:
        spec: As for `resolve`.
        option: Where it was given; a base has to be a whole pipeline.

    Raises:
        OptionError: Empty, an unknown builtin, a folder that is missing or cannot be scanned,
            or neither a path nor a Hub id.
    """
    if spec.startswith(BUILTIN_PREFIX):
        _check_path(_builtin_folder(spec, option), spec, option)
    elif _hub_id(spec) is None:
        _check_path(_local_path(spec, option), _local_label(spec), option)


def resolve(spec: str, *, offline: bool, option: str = MODEL) -> ResolvedCheckpoint:
    """Find the checkpoint; a Hub model is resolved to a commit and downloaded.

    Args:
        spec: "builtin:NAME", a folder, a .safetensors file, or "ORG/NAME[@REVISION]". A folder
            that exists wins over a Hub id of the same name, as in diffusers.
        offline: Use the local Hub cache only.
        option: Where it was given, for messages.

    Raises:
        OptionError: As `check_spec`.
        CheckpointError: The Hub model cannot be found, accessed, reached or trusted.
    """
    check_spec(spec, option=option)
    if spec.startswith(BUILTIN_PREFIX):
        folder = _builtin_folder(spec, option)
        return ResolvedCheckpoint(
            spec=spec,
            label=spec,
            folder=folder,
            form=_form(folder),
            train_data=_if_there(folder / _BUILTIN_TRAIN_DATA),
            prompts=_if_there(folder / _BUILTIN_PROMPTS),
        )
    hub_id = _hub_id(spec)
    if hub_id is None:
        path = _local_path(spec, option).resolve()
        return ResolvedCheckpoint(
            spec=spec, label=_local_label(spec), folder=path, form=_form(path)
        )
    repo, revision = hub_id
    folder, commit = hub.fetch(repo, revision, offline=offline)
    path = _only_file(folder) or folder
    form = _form(path)
    label = f"{repo}@{commit[:7]}"
    if option == BASE and form != "pipeline":
        raise CheckpointError(f"{BASE} {label}: {_needs_pipeline(form)}")
    if form == "pipeline" and not _is_pipeline(path):
        check_single_file(path)  # says what it is instead
    return ResolvedCheckpoint(spec=spec, label=label, folder=path, form=form, commit=commit)


def known_form(spec: str) -> Form | None:
    """How the weights are stored, as far as `known_kind` knows anything."""
    path = _known_path(spec)
    try:
        return None if path is None else _form(path)
    except CheckpointError:
        return None


def known_claims(spec: str) -> Claims | None:
    """What the files say of themselves, as far as `known_kind` knows anything."""
    path = _known_path(spec)
    return None if path is None else claims_of(path)


def known_kind(spec: str) -> Kind | None:
    """The kind of checkpoint, as far as it is known before anything is fetched.

    Args:
        spec: As for `resolve`.

    Returns:
        None for a Hub id, and where `check_spec` has something to complain about.
    """
    path = _known_path(spec)
    try:
        return None if path is None else _kind(path, _form(path))
    except CheckpointError:
        return None


def has_builtin_train_data(spec: str) -> bool:
    """Whether the text names a builtin checkpoint that comes with its training images."""
    try:
        is_builtin = spec.startswith(BUILTIN_PREFIX)
        return is_builtin and (_builtin_folder(spec, MODEL) / _BUILTIN_TRAIN_DATA).is_file()
    except OptionError:
        return False


def _hub_id(spec: str) -> tuple[str, str | None] | None:
    """Repository and revision, if the text is a Hub id and no file or folder has that name."""
    found = _HUB_ID.fullmatch(spec)
    if found is None or ".." in spec or "--" in found["repo"] or os.path.exists(spec):
        return None
    return found["repo"], found["revision"]


def _known_path(spec: str) -> Path | None:
    """The folder or file, if it is on this machine and named without a mistake."""
    try:
        if spec.startswith(BUILTIN_PREFIX):
            return _builtin_folder(spec, MODEL)
        path = _local_path(spec, MODEL) if _hub_id(spec) is None else None
    except OptionError:
        return None
    return path if path is not None and os.path.exists(path) else None


def _form(path: Path) -> Form:
    """How the weights are stored.

    Raises:
        CheckpointError: An adapter of a kind, or with files, that cannot be scanned.
    """
    if os.path.isdir(path) and _is_pipeline(path):
        return "pipeline"
    if find_adapter(path) is not None:
        return "lora"
    return "single file" if is_single_file(path) else "pipeline"


def _only_file(folder: Path) -> Path | None:
    """The single file of a repository that holds no folder of a pipeline or an adapter."""
    if _is_pipeline(folder) or find_adapter(folder) is not None:
        return None
    files = sorted(folder.glob("*.safetensors"))
    return files[0] if len(files) == 1 else None


def _kind(path: Path, form: Form) -> Kind:
    """Only what makes images of prompts is fine-tuned by a LoRA, or kept in a single file."""
    return kind_of(path) if form == "pipeline" else "text-to-image"


def _needs_pipeline(form: Form) -> str:
    return f"this is a {FORM_TEXTS[form]}; a base has to be a whole diffusers pipeline"


def _local_path(spec: str, option: str) -> Path:
    """The folder or file that the text names; may not exist."""
    if not spec.strip():
        raise OptionError(f"{option} is empty; {_WHAT_IT_CAN_BE}")
    if "://" in spec:
        raise OptionError(
            f"{option} {shown(spec)} is a URL; give the Hub id ORG/NAME[@REVISION] instead"
        )
    if "\x00" in spec:
        raise OptionError(f"{option} {shown(spec)} is not a path; {_WHAT_IT_CAN_BE}")
    try:
        return Path(spec).expanduser()
    except RuntimeError:  # ~nobody
        raise OptionError(f"{option} {shown(spec)}: no such home folder") from None


def _local_label(spec: str) -> str:
    """The folder as typed if it is relative; of an absolute path, only the name."""
    path = Path(spec).expanduser()
    if path.is_absolute():
        return f".../{path.name}"
    return path.as_posix() if path.parts[:1] == ("..",) else f"./{path.as_posix()}"


def _builtin_folder(spec: str, option: str) -> Path:
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
    raise OptionError(f"{option} {shown(spec)}: no such builtin checkpoint; available: {listed}")


def _is_builtin(folder: Path) -> bool:
    return _is_pipeline(folder) or (folder / _BUILTIN_ADAPTER).is_file()


def _is_pipeline(folder: Path) -> bool:
    return (folder / MODEL_INDEX).is_file()


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _check_path(path: Path, label: str, option: str) -> None:
    named = f"{option} {shown(label)}"
    # os.path, not pathlib: False instead of an exception for names that are too long.
    if not os.path.exists(path):
        raise OptionError(f"{named}: no such folder or file; {_WHAT_IT_CAN_BE}")
    try:
        form = _form(path)
        if form == "pipeline":
            _check_pipeline(path, named)
        elif option == BASE:
            raise CheckpointError(_needs_pipeline(form))
    except CheckpointError as error:
        raise OptionError(f"{named}: {error}") from None


def _check_pipeline(folder: Path, named: str) -> None:
    if not os.path.isdir(folder):
        if folder.suffix.lower() == ".safetensors":
            check_single_file(folder)  # says what it is instead
        raise OptionError(f"{named} {layout.describe_file(folder.name)}")
    names = layout.list_names(folder)
    if MODEL_INDEX not in names:
        raise CheckpointError(f"no {MODEL_INDEX}: {layout.describe_without_index(names)}")
    layout.files_to_load(names, read_parts(folder))
