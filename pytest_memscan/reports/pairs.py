"""Pictures for the report, kept by the process that scanned for the one that writes it.

Every ``save_*`` makes a folder that only its owner can read, since it holds training images, and
that is removed when the run ends. Images of which there may be hundreds are kept at the size at
which reports draw them. Every ``load_*`` gives back what was kept, in the same order;
nothing where no scan ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.reports.finetune_pictures import FinetunePicture, num_pictures
from pytest_memscan.reports.finetune_text import candidates
from pytest_memscan.reports.html import MAX_GROUPS, MAX_MEMBERS, MAX_PAIRS, Group, Pair
from pytest_memscan.reports.kept import keep, kept
from pytest_memscan.reports.pictures import shrunk
from pytest_memscan.reports.prompt_pictures import (
    MAX_IMAGES,
    MAX_KEYS,
    MAX_PROMPTS,
    MAX_REPEATS,
    KeyPicture,
    PromptPicture,
    RepeatPicture,
)
from pytest_memscan.reports.prompt_text import is_memorised
from pytest_memscan.reports.side_pictures import MAX_GUIDED, GuidedPicture
from pytest_memscan.reports.splitting_pictures import MAX_PICTURES, SteeredPicture
from pytest_memscan.results import (
    Duplicates,
    Finding,
    FinetuneScan,
    KeyFinding,
    PromptFinding,
    Repeats,
    SideScan,
    SplittingScan,
)

Pixels = NDArray[np.uint8]


def save_pairs(
    folder: Path,
    findings: Sequence[Finding],
    generated: Callable[[int], Pixels],
    train: Pixels | None,
) -> None:
    """Keep the first findings with both images.

    Args:
        folder: Where.
        findings: Closest first.
        generated: Pixels of a generated image by its sample id.
        train: ``(num_train, height, width, channels)`` uint8, by training id; None where only
            their descriptors are known, and nothing is kept.
    """
    if train is not None:
        pictures = (
            Pair(
                finding=each,
                generated=shrunk(generated(each.sample_id)),
                train=shrunk(train[each.train_id]),
            )
            for each in findings[:MAX_PAIRS]
        )
        keep(folder, pictures)


def load_pairs(folder: Path) -> list[Pair]:
    """What `save_pairs` kept."""
    return kept(folder, Pair)


def save_groups(folder: Path, duplicates: Duplicates, train: Pixels | None) -> None:
    """Keep the first images of the largest groups.

    Args:
        folder: Where.
        duplicates: Names the groups.
        train: As for `save_pairs`.
    """
    if train is not None:
        pictures = (
            Group(train_ids=shown, images=train[np.array(shown)], size=size)
            for shown, size in _firsts(duplicates.largest[:MAX_GROUPS], MAX_MEMBERS)
        )
        keep(folder, pictures)


def load_groups(folder: Path) -> list[Group]:
    """What `save_groups` kept."""
    return kept(folder, Group)


def save_prompts(
    folder: Path,
    findings: Sequence[PromptFinding],
    images: Callable[[PromptFinding], Pixels],
    train: Pixels | None,
) -> None:
    """Keep some images of the first memorised prompts.

    Args:
        folder: Where.
        findings: Most certain first; those that are not memorised are passed over.
        images: Of a finding, ``(num_images, height, width, channels)`` uint8: its representative,
            then further members of its clique; what follows the fourth is left out. A finding
            without any is passed over.
        train: As for `save_pairs`; without it the prompts are kept all the same.
    """
    memorised = [finding for finding in findings if is_memorised(finding)]
    shown = ((finding, images(finding)[:MAX_IMAGES]) for finding in memorised[:MAX_PROMPTS])
    pictures = (
        PromptPicture(finding=each, images=pixels, train=_train_image(train, each.train_id))
        for each, pixels in shown
        if len(pixels)
    )
    keep(folder, pictures)


def load_prompts(folder: Path) -> list[PromptPicture]:
    """What `save_prompts` kept."""
    return kept(folder, PromptPicture)


def save_keys(
    folder: Path,
    findings: Sequence[KeyFinding],
    mean_image: Callable[[KeyFinding], Pixels],
    train: Pixels | None,
) -> None:
    """Keep the mean images of the first flagged keys.

    Args:
        folder: Where.
        findings: Lowest variance first; those that are not flagged are passed over.
        mean_image: Of a finding, ``(height, width, channels)`` uint8.
        train: As for `save_prompts`.
    """
    flagged = [finding for finding in findings if finding.flagged]
    pictures = (
        KeyPicture(
            finding=each, mean_image=mean_image(each), train=_train_image(train, each.train_id)
        )
        for each in flagged[:MAX_KEYS]
    )
    keep(folder, pictures)


def load_keys(folder: Path) -> list[KeyPicture]:
    """What `save_keys` kept."""
    return kept(folder, KeyPicture)


def save_repeats(folder: Path, repeats: Repeats, generated: Callable[[int], Pixels]) -> None:
    """Keep the first images of the largest groups.

    Args:
        folder: Where.
        repeats: Names the groups.
        generated: Pixels of a generated image by its sample id.
    """
    pictures = (
        RepeatPicture(
            sample_ids=shown, images=np.stack([generated(each) for each in shown]), size=size
        )
        for shown, size in _firsts(repeats.largest[:MAX_REPEATS], MAX_IMAGES)
    )
    keep(folder, pictures)


def load_repeats(folder: Path) -> list[RepeatPicture]:
    """What `save_repeats` kept."""
    return kept(folder, RepeatPicture)


def save_finetunes(
    folder: Path,
    scan: FinetuneScan,
    images_of: Callable[[int, int], Pixels],
    train: Callable[[int], Pixels | None],
) -> None:
    """Keep the first extracted images of each fine-tune, each with the nearest training image.

    Args:
        folder: Where.
        scan: Names them.
        images_of: Pixels of a generated image of FineXtract, by the place of its fine-tune in
            the scan, from 0, and its sample id.
        train: Training images of a fine-tune, by the same place; each as for `save_prompts`.
    """
    keep(folder, _finetune_pictures(scan, images_of, train))


def _finetune_pictures(
    scan: FinetuneScan,
    images_of: Callable[[int, int], Pixels],
    train: Callable[[int], Pixels | None],
) -> Iterator[FinetunePicture]:
    for position, concept in enumerate(scan.concepts):
        train_images = train(position)
        for each in candidates(concept)[: num_pictures(scan)]:
            yield FinetunePicture(
                concept=position,
                sample_id=each.sample_id,
                train_id=each.train_id,
                generated=shrunk(images_of(position, each.sample_id)),
                train=_train_image(train_images, each.train_id),
            )


def load_finetunes(folder: Path) -> list[FinetunePicture]:
    """What `save_finetunes` kept."""
    return kept(folder, FinetunePicture)


def save_splitting(
    folder: Path,
    scan: SplittingScan,
    pixels_of: Callable[[int], Pixels],
    train: Pixels | None,
) -> None:
    """Keep the likeliest copies, each with its training image.

    Args:
        folder: Where.
        scan: Names them.
        pixels_of: Pixels of a generated image by its sample id, ``(height, width, channels)``
            uint8.
        train: As for `save_pairs`.
    """
    if train is not None:
        pictures = (
            SteeredPicture(
                finding=each.finding,
                steered=shrunk(pixels_of(each.finding.sample_id)),
                train=shrunk(train[each.finding.train_id]),
            )
            for each in scan.copies[:MAX_PICTURES]
        )
        keep(folder, pictures)


def load_splitting(folder: Path) -> list[SteeredPicture]:
    """What `save_splitting` kept."""
    return kept(folder, SteeredPicture)


def save_side(
    folder: Path,
    scan: SideScan,
    pixels_of: Callable[[str, float, int], Pixels],
    train: Pixels | None,
) -> None:
    """Keep the closest matches, each with its training image.

    Args:
        folder: Where.
        scan: Names them.
        pixels_of: Pixels of a generated image by its variant, lambda and sample id,
            ``(height, width, channels)`` uint8.
        train: As for `save_pairs`.
    """
    if train is not None:
        pictures = (
            GuidedPicture(
                found=each,
                generated=shrunk(pixels_of(each.variant, each.scale, each.finding.sample_id)),
                train=shrunk(train[each.finding.train_id]),
            )
            for each in scan.findings[:MAX_GUIDED]
        )
        keep(folder, pictures)


def load_side(folder: Path) -> list[GuidedPicture]:
    """What `save_side` kept."""
    return kept(folder, GuidedPicture)


def _firsts(
    groups: Iterable[tuple[int, ...]], num_shown: int
) -> Iterator[tuple[tuple[int, ...], int]]:
    """The first members of each group, and how many there are."""
    return ((group[:num_shown], len(group)) for group in groups)


def _train_image(train: Pixels | None, train_id: int | None) -> Pixels | None:
    return None if train is None or train_id is None else shrunk(train[train_id])
