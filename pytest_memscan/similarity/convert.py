"""``python -m pytest_memscan.similarity.convert``: SSCD's published files -> safetensors.

Published are TorchScript files and pickled state dicts, both of which hand bytes from the
internet to code that was not written to withstand them. So a file is opened only here, in a
process of its own that a person started, from memory, after the sha256 of these very bytes was
compared with the one the person gave or, for ``sscd_disc_mixup``, the documented one. Scans read
only the safetensors file that comes out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_memscan.errors import DescriptorError, MemscanError, shown_path
from pytest_memscan.reports.text import escape
from pytest_memscan.similarity.descriptors.download import download, shown_url
from pytest_memscan.similarity.descriptors.layouts import torchvision_names
from pytest_memscan.similarity.descriptors.weights import (
    BASE_URL,
    CONVERT_COMMAND,
    PUBLISHED,
    PublishedModel,
    check_tensors,
    read_weights,
    tensors_sha256,
    weights_folder,
    write_weights,
)

if TYPE_CHECKING:
    import torch

CONVERTER_VERSION = "1"
PROBE_SIDE = 96  # pixels: six squares of 16
MAX_PROBE_DIFFERENCE = 1e-4  # of any value of a unit vector; float32 sums differ by 1e-6
NOT_CONFIRMED = 2  # exit status: the file's sha256 is shown, nothing was opened
_DESCRIPTION = "Convert SSCD's published TorchScript and weight files to safetensors."
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a published file held.

    Attributes:
        kind: "TorchScript", "state dict" or "safetensors".
        tensors: As named in it.
        network: The TorchScript module; None for other kinds.
    """

    kind: str
    tensors: Mapping[str, torch.Tensor]
    network: Any = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert as the command line says.

    Returns:
        0 converted; 1 it failed; 2 bad usage, or the hash still has to be confirmed.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if (given.file is None) == (given.download is None):
        parser.error("name a file, or --download MODEL")
    if given.sha256 is not None and not _SHA256.fullmatch(given.sha256.lower()):
        parser.error("--sha256 takes 64 hexadecimal digits")
    try:
        return _run(given)
    except MemscanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def convert(
    data: bytes, model: PublishedModel, *, name: str
) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors for `sscd.build` and the kind of file they come from.

    Args:
        data: A published file whose sha256 was confirmed.
        model: Which one.
        name: File, for messages.

    Raises:
        DescriptorError: Not a file that can be converted, not this model, or a TorchScript whose
            own output differs from that of the converted network.
    """
    opened = _open(data, name)
    if opened.network is not None and not opened.tensors:
        raise DescriptorError(
            f"{name} is a frozen TorchScript, which holds no named weights; convert "
            f"{model.name}.classy.pt or {model.name}.torchvision.pt instead"
        )
    tensors = {
        key: tensor.detach().contiguous()
        for key, tensor in torchvision_names(opened.tensors).items()
    }
    check_tensors(tensors, model, name)
    if opened.network is not None:
        _compare_outputs(opened.network, tensors, model, name)
    return tensors, opened.kind


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=CONVERT_COMMAND, description=_DESCRIPTION)
    parser.add_argument("file", nargs="?", type=Path, help="a published file on this machine")
    parser.add_argument("--download", choices=sorted(PUBLISHED), help="fetch it first")
    parser.add_argument("--model", choices=sorted(PUBLISHED), help="default: from the file's name")
    parser.add_argument("--sha256", help="of the published file; confirms that it may be opened")
    parser.add_argument("--to", type=Path, help="folder; default: where scans look for weights")
    parser.add_argument("--base-url", default=BASE_URL, help="mirror to fetch from")
    return parser


def _run(given: argparse.Namespace) -> int:
    folder = weights_folder(None) if given.to is None else given.to
    model = _model(given)
    path = given.file
    if path is None:
        path = folder / model.download_name
        if not path.is_file():
            print(f"fetching {model.download_name} from {shown_url(given.base_url)}")
            download(f"{given.base_url.rstrip('/')}/{model.download_name}", path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DescriptorError(f"{shown_path(path)} cannot be read: {error.strerror}") from None
    found = hashlib.sha256(data).hexdigest()
    if not _is_confirmed(path, found, model, given):
        return NOT_CONFIRMED
    tensors, kind = convert(data, model, name=path.name)
    _write(folder / model.file_name, tensors, model, kind=kind, source=(path.name, found))
    return 0


def _is_confirmed(path: Path, found: str, model: PublishedModel, given: argparse.Namespace) -> bool:
    """Whether the file may be opened; if nobody said which hash it should have, say how.

    Raises:
        DescriptorError: It should have another hash. A file that was fetched is deleted.
    """
    is_original = path.name == model.download_name
    expected = given.sha256.lower() if given.sha256 else model.sha256 if is_original else None
    if expected is None:
        _ask_to_confirm(path, found)
        return False
    if found == expected:
        return True
    documented = "" if given.sha256 else " (the documented one; --sha256 names another)"
    deleted = ""
    if given.file is None:
        path.unlink()
        deleted = " and was deleted, so that the next try fetches it again"
    raise DescriptorError(
        f"{path.name} has sha256 {found}, not {expected}{documented}; it was not opened{deleted}"
    )


def _model(given: argparse.Namespace) -> PublishedModel:
    name = given.download or given.model
    if name is None:
        name = next((each for each in PUBLISHED if given.file.name.startswith(each)), None)
    if name is None:
        raise DescriptorError(
            f"which model {escape(given.file.name)} is cannot be told from its name; add --model "
            f"{' or --model '.join(sorted(PUBLISHED))}"
        )
    return PUBLISHED[name]


def _ask_to_confirm(path: Path, found: str) -> None:
    print(
        f"sha256 of {path.name}:\n  {found}\n"
        "Nothing was opened: such a file is handed to PyTorch's unpickler or TorchScript "
        "interpreter. Compare the hash with one that you have from a source you trust (a "
        f"colleague, another mirror, an earlier download), then confirm it with --sha256 {found}",
        file=sys.stderr,
    )


def _write(
    target: Path,
    tensors: Mapping[str, torch.Tensor],
    model: PublishedModel,
    *,
    kind: str,
    source: tuple[str, str],
) -> None:
    origin = {
        "model": model.name,
        "architecture": model.architecture,
        "source": source[0],
        "source_sha256": source[1],
        "source_kind": kind,
        "converter": CONVERTER_VERSION,
    }
    write_weights(target, tensors, origin=origin)
    digest = read_weights(target, model).sha256
    if digest != tensors_sha256(tensors):
        raise DescriptorError(f"{shown_path(target)} does not hold what was written; try again")
    print(f"wrote {shown_path(target)}\nsha256 of the weights: {digest}")


def _open(data: bytes, name: str) -> Opened:
    """Hand the bytes to the library that reads their format."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if data[8:9] == b"{":
        try:
            return Opened(kind="safetensors", tensors=load(data))
        except SafetensorError:
            raise DescriptorError(f"{name} is not a whole safetensors file") from None
    members = _members(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript as a whole
            if any(member.endswith("/constants.pkl") for member in members):
                network = _torchscript(data)
                return Opened(kind="TorchScript", tensors=network.state_dict(), network=network)
            # weights_only: an unpickler that makes tensors and plain containers, nothing else.
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise DescriptorError(
            f"{name} cannot be opened as a TorchScript or as a state dict of tensors "
            f"({type(error).__name__})"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise DescriptorError(f"{name} is not a state dict: it holds more than named tensors")
    return Opened(kind="state dict", tensors=state)


def _torchscript(data: bytes) -> Any:
    import torch

    return torch.jit.load(io.BytesIO(data), map_location="cpu").eval()  # type: ignore[no-untyped-call]


def _members(data: bytes, name: str) -> list[str]:
    """Names in the zip archive that both PyTorch formats are."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.namelist()
    except zipfile.BadZipFile:
        raise DescriptorError(
            f"{name} is neither a safetensors file nor a PyTorch archive, or it is cut off; fetch "
            "it again"
        ) from None


def _compare_outputs(
    network: Any, tensors: Mapping[str, torch.Tensor], model: PublishedModel, name: str
) -> None:
    """The file's own program and ours agree on an image: same layers, pooling and norm."""
    import torch

    from pytest_memscan.similarity.descriptors.sscd import ARCHITECTURES, build

    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(2, 3, PROBE_SIDE, PROBE_SIDE, generator=generator)
    coarse = torch.randn(2, 3, 6, 6, generator=generator).repeat_interleave(16, 2)
    probe = torch.cat([fine, coarse.repeat_interleave(16, 3)])
    ours = build(ARCHITECTURES[model.architecture], tensors)
    try:
        with torch.inference_mode():
            difference = float((network(probe) - ours(probe)).abs().max())
    except Exception as error:
        raise DescriptorError(f"{name} does not run ({type(error).__name__})") from None
    if not difference <= MAX_PROBE_DIFFERENCE:  # also refuses NaN
        raise DescriptorError(
            f"{name} is not {model.name} as published: with the same weights its descriptors "
            f"differ from this package's by up to {difference:.2g}"
        )


if __name__ == "__main__":
    sys.exit(main())
