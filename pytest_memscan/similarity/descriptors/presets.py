"""What ``--memscan-descriptor`` may say, and the descriptor it means.

Imported when pytest starts: torch, numpy and the libraries that load models only inside functions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.errors import DescriptorError, OptionError, shown_path
from pytest_memscan.reports.text import escape
from pytest_memscan.similarity.descriptors.encoder_files import choose_files, fetch, names_in
from pytest_memscan.similarity.descriptors.weights import (
    PUBLISHED,
    PublishedModel,
    find_weights,
    how_to_get,
    read_weights,
)

if TYPE_CHECKING:
    from pytest_memscan.similarity.descriptors.descriptor import Descriptor

PIXELS = "pixels"  # compares pixels; no descriptor
COPY = "builtin:copy"
CPU_BATCH_SIZE = 4  # larger batches are no faster on a core, and padding costs
GPU_BATCH_SIZE = 64
# Cosine similarities from which a match counts: mid and high are printed in SIDE
# (arXiv:2410.02467v7), low is inferred from its numbers.
SSCD_LOW, SSCD_MID, SSCD_HIGH = 0.4, 0.5, 0.6
_HUB_ID = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w][\w./-]*))?",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class SscdPreset:
    """A published model with one of the pipelines it is used with.

    Attributes:
        model: Whose weights.
        crop: Short side 256 and a centre crop of 224 with 0.5/0.5, as FineXtract, DCR and Wen et
            al.; else 320 square with ImageNet statistics, as SSCD's README recommends.
    """

    model: PublishedModel
    crop: bool


SSCD_PRESETS: Mapping[str, SscdPreset] = {
    "sscd": SscdPreset(model=PUBLISHED["sscd_disc_mixup"], crop=False),
    "sscd-crop224": SscdPreset(model=PUBLISHED["sscd_disc_mixup"], crop=True),
    "sscd-large": SscdPreset(model=PUBLISHED["sscd_disc_large"], crop=False),
    "sscd-large-crop224": SscdPreset(model=PUBLISHED["sscd_disc_large"], crop=True),
}
NAMES = (PIXELS, COPY, *SSCD_PRESETS)


def check_descriptor(spec: str, *, cache_dir: Path | None = None) -> None:
    """Check what can be checked when pytest starts: no network, nothing heavy.

    Args:
        spec: One of `NAMES`, a folder, or "ORG/NAME[@REVISION]".
        cache_dir: Where memscan keeps its files.

    Raises:
        OptionError: Not a descriptor, SSCD's weights are not on this machine, or a folder that
            holds no image encoder.
    """
    if spec in (PIXELS, COPY):
        return
    if spec in SSCD_PRESETS:
        model = SSCD_PRESETS[spec].model
        if find_weights(model, cache_dir) is None:
            raise OptionError(f"--memscan-descriptor {spec}: {how_to_get(model, cache_dir)}")
        return
    folder = folder_of(spec)
    if folder is None and hub_id_of(spec) is None:
        raise OptionError(
            f"--memscan-descriptor: there is no descriptor '{escape(spec)}'; it is one of "
            f"{', '.join(NAMES)}, or an image encoder: a folder, or a Hub model ORG/NAME[@REVISION]"
        )
    if folder is not None:
        try:
            choose_files(
                names_in(folder, label=label_of(folder, spec)), label=label_of(folder, spec)
            )
        except DescriptorError as error:
            raise OptionError(f"--memscan-descriptor: {error}") from None


def load_descriptor(
    spec: str, *, device: str = "cpu", offline: bool = False, cache_dir: Path | None = None
) -> Descriptor:
    """The descriptor, ready to run.

    Args:
        spec: As for `check_descriptor`, other than "pixels". A folder that exists wins over a Hub
            model of the same name.
        device: Where it runs.
        offline: Take Hub models from the local Hub cache only.
        cache_dir: Where memscan keeps its files.

    Raises:
        OptionError: As `check_descriptor`.
        MemscanError: The weights or the Hub model cannot be had, trusted or loaded.
        ValueError: "pixels" has no descriptor.
    """
    if spec == PIXELS:
        raise ValueError("pixels are compared as they are, without a descriptor")
    check_descriptor(spec, cache_dir=cache_dir)
    if spec == COPY:
        from pytest_memscan.similarity.descriptors.copy_descriptor import load_copy_descriptor

        return load_copy_descriptor(device)
    if spec in SSCD_PRESETS:
        return _load_sscd(spec, device=device, cache_dir=cache_dir)
    from pytest_memscan.similarity.descriptors.encoders import load_encoder

    folder = folder_of(spec)
    if folder is not None:
        return load_encoder(folder, label=label_of(folder, spec), device=device)
    repo, revision = hub_id_of(spec) or (spec, None)
    folder, commit = fetch(repo, revision, offline=offline)
    return load_encoder(folder, label=f"{repo}@{commit[:7]}", device=device)


def _load_sscd(spec: str, *, device: str, cache_dir: Path | None) -> Descriptor:
    from pytest_memscan.metrics import similarity_levels
    from pytest_memscan.similarity.descriptors.descriptor import Descriptor
    from pytest_memscan.similarity.descriptors.preprocess import CROP_224, SKEW_320
    from pytest_memscan.similarity.descriptors.sscd import ARCHITECTURES, build

    preset = SSCD_PRESETS[spec]
    path = find_weights(preset.model, cache_dir)
    if path is None:
        raise DescriptorError(how_to_get(preset.model, cache_dir))
    weights = read_weights(path, preset.model)
    architecture = ARCHITECTURES[preset.model.architecture]
    preprocess = CROP_224 if preset.crop else SKEW_320
    return Descriptor(
        name=spec,
        network=build(architecture, weights.tensors).to(device),
        preprocess=preprocess,
        dimension=architecture.dimension,
        levels=similarity_levels(SSCD_LOW, SSCD_MID, SSCD_HIGH),
        record={
            "descriptor": "sscd",
            "preset": spec,
            "architecture": preset.model.architecture,
            "preprocessing": preprocess.text,
            "weights_sha256": weights.sha256,
        },
        device=device,
        batch_size=CPU_BATCH_SIZE if device == "cpu" else GPU_BATCH_SIZE,
    )


def hub_id_of(spec: str) -> tuple[str, str | None] | None:
    """Repository and revision."""
    found = _HUB_ID.fullmatch(spec)
    return None if found is None else (found["repo"], found["revision"])


def folder_of(spec: str) -> Path | None:
    """The folder that the text names, if there is one."""
    try:
        path = Path(os.path.expanduser(spec))  # Path.expanduser raises for ~nobody
        return path.resolve() if spec and path.is_dir() else None
    except (OSError, ValueError):  # a name too long, a NUL character
        return None


def label_of(folder: Path, spec: str) -> str:
    """The folder as a report may show it."""
    return shown_path(folder) if os.path.isabs(os.path.expanduser(spec)) else escape(spec)
