"""SSCD's weights on this machine: where they are looked for, and what must hold of them.

They are somebody else's work (Pizzi et al., MIT licence) and not part of this package; `convert`
makes the safetensors file that is read here. Nothing heavy is imported before a file is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_memscan.errors import DescriptorError, shown_path
from pytest_memscan.reports.text import escape

if TYPE_CHECKING:
    import torch

FOLDER_VARIABLE = "MEMSCAN_SSCD_DIR"
BASE_URL = "https://dl.fbaipublicfiles.com/sscd-copy-detection"
METADATA_KEY = "memscan"
CONVERT_COMMAND = "python -m pytest_memscan.similarity.convert"
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """One of the models in SSCD's README.

    Attributes:
        name: As published.
        architecture: Key of `sscd.ARCHITECTURES`.
        sha256: Of the published TorchScript file, where it is known; SSCD's authors give none.
    """

    name: str
    architecture: str
    sha256: str | None = None

    @property
    def download_name(self) -> str:
        """The file that is fetched: TorchScript, the only format both models come in."""
        return f"{self.name}.torchscript.pt"

    @property
    def file_name(self) -> str:
        """The converted file."""
        return f"{self.name}.safetensors"


PUBLISHED: Mapping[str, PublishedModel] = {
    model.name: model
    for model in (
        PublishedModel(
            name="sscd_disc_mixup",
            architecture="resnet50",
            # Not from SSCD's authors: the value that independent public projects pin for the
            # file at BASE_URL (docs/descriptors.md).
            sha256="9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56",
        ),
        PublishedModel(name="sscd_disc_large", architecture="resnext101_32x4d"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of one model.

    Attributes:
        tensors: Name -> float32 tensor, exactly those the architecture has.
        sha256: Of names, shapes and values, see `tensors_sha256`.
        origin: What the converter wrote about them: model, source and its sha256.
    """

    tensors: Mapping[str, torch.Tensor] = field(repr=False)
    sha256: str
    origin: Mapping[str, str]


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where memscan keeps its files unless ``--memscan-cache-dir`` says otherwise."""
    if environ.get("MEMSCAN_CACHE_DIR"):
        return Path(environ["MEMSCAN_CACHE_DIR"]).expanduser().resolve()
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "pytest-memscan"


def weights_folder(cache_dir: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """``MEMSCAN_SSCD_DIR``, or ``descriptors`` in the cache folder."""
    if environ.get(FOLDER_VARIABLE):
        return Path(environ[FOLDER_VARIABLE]).expanduser().resolve()
    return (cache_dir or default_cache_dir(environ)) / "descriptors"


def find_weights(model: PublishedModel, cache_dir: Path | None) -> Path | None:
    """The converted file, if it is there."""
    path = weights_folder(cache_dir) / model.file_name
    return path if path.is_file() else None


def how_to_get(model: PublishedModel, cache_dir: Path | None) -> str:
    """What is missing and the commands that put it there, as one sentence."""
    target, whose = _target_option(cache_dir)
    confirmed = "" if model.sha256 else " --sha256 HASH"
    hint = (
        ""
        if model.sha256
        else ", HASH being the file's sha256 (without the option it is shown, and nothing opened)"
    )
    return (
        f"the weights of {model.name} are not in "
        f"{shown_path(weights_folder(cache_dir))}: fetch and convert them with "
        f"`{CONVERT_COMMAND} --download {model.name}{confirmed}{target}`{hint}{whose}; or, without "
        f"network, convert a copy of {BASE_URL}/{model.download_name} with "
        f"`{CONVERT_COMMAND} {model.download_name}{confirmed}{target}`; or name the folder that "
        f"holds {model.file_name} in {FOLDER_VARIABLE}"
    )


def _target_option(cache_dir: Path | None) -> tuple[str, str]:
    """What the converter must be told for its output to be found, and what it means."""
    if os.environ.get(FOLDER_VARIABLE) or cache_dir in (None, default_cache_dir()):
        return "", ""
    shown = shown_path(weights_folder(cache_dir))
    if not shown.startswith("..."):
        return f" --to {shown}", ""
    return " --to CACHE/descriptors", ", CACHE being the folder of --memscan-cache-dir"


def read_weights(path: Path, model: PublishedModel) -> Weights:
    """The tensors in a converted file, all of them right for the model.

    Raises:
        DescriptorError: Not a whole safetensors file, another model's, or `check_tensors`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        data = path.read_bytes()
    except OSError as error:
        raise DescriptorError(f"{path.name} cannot be read: {error.strerror}") from None
    try:
        tensors = load(data)
        origin = _origin(data)
    except (SafetensorError, ValueError, KeyError):
        raise DescriptorError(
            f"{path.name} is not a whole safetensors file; convert it again with "
            f"`{CONVERT_COMMAND}` (docs/descriptors.md)"
        ) from None
    made_for = origin.get("model", model.name)
    if made_for != model.name:
        raise DescriptorError(
            f"{path.name} holds the weights of '{escape(made_for)}', not of {model.name}; "
            "convert the right file"
        )
    check_tensors(tensors, model, path.name)
    return Weights(tensors=tensors, sha256=tensors_sha256(tensors), origin=origin)


def write_weights(
    path: Path, tensors: Mapping[str, torch.Tensor], *, origin: Mapping[str, str]
) -> None:
    """Write a converted file, all of it or nothing.

    Raises:
        DescriptorError: The folder cannot be written to.
    """
    from safetensors.torch import save

    # One key: safetensors orders several of them at random, and equal weights should give
    # equal files.
    metadata = {METADATA_KEY: json.dumps(dict(origin), sort_keys=True)}
    data = save(dict(tensors), metadata)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise DescriptorError(f"{shown_path(path)} cannot be written: {error.strerror}") from None


def check_tensors(tensors: Mapping[str, torch.Tensor], model: PublishedModel, name: str) -> None:
    """Check that these are the tensors of this architecture, and numbers.

    Args:
        tensors: Name -> tensor.
        model: What they are said to be.
        name: File, for messages.

    Raises:
        DescriptorError: A tensor is missing, too many, of another shape or type, or not finite.
    """
    import torch

    from pytest_memscan.similarity.descriptors.sscd import ARCHITECTURES, expected_shapes

    expected = expected_shapes(ARCHITECTURES[model.architecture])
    missing, extra = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"also holds '{escape(extra[0])}'"
        raise DescriptorError(
            f"{name} does not hold a {model.architecture} as {model.name} is: it {what} "
            f"({len(missing)} tensors missing, {len(extra)} too many)"
        )
    for key, shape in expected.items():
        tensor = tensors[key]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise DescriptorError(
                f"{name} does not hold a {model.architecture} as {model.name} is: {key} is "
                f"{tensor.dtype} {tuple(tensor.shape)}, not float32 {shape}"
            )
        if not torch.isfinite(tensor).all():
            raise DescriptorError(
                f"{name}: {key} holds values that are not finite; the file is damaged"
            )


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, shapes and values, however the tensors were stored.

    The same weights taken from the TorchScript and from the weight file have it in common, while
    the files that hold them differ.

    Args:
        tensors: Name -> float32 tensor.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _origin(data: bytes) -> dict[str, str]:
    """What `write_weights` noted in the header."""
    length = int.from_bytes(data[:8], "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError("a header that long is not ours")
    header: Any = json.loads(data[8 : 8 + length])
    noted = json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}"))
    if not isinstance(noted, dict):
        raise ValueError("metadata is not a table")
    return {str(key): str(value) for key, value in noted.items()}
