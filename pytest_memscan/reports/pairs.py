"""Pictures for the report, kept by the process that scanned for the one that writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.reports.html import MAX_GROUPS, MAX_MEMBERS, MAX_PAIRS, Group, Pair
from pytest_memscan.reports.json import dump, load
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
from pytest_memscan.results import Duplicates, Finding, KeyFinding, PromptFinding, Repeats


def save_pairs(
    folder: Path,
    findings: Sequence[Finding],
    generated: Callable[[int], NDArray[np.uint8]],
    train: NDArray[np.uint8] | None,
) -> None:
    """Keep the first findings with both images; the folder is removed when the run ends.

    Args:
        folder: Created, readable by its owner only, since it holds training images.
        findings: Closest first.
        generated: Pixels of a generated image by its sample id.
        train: ``(num_train, height, width, channels)`` uint8, by training id; None where only
            their descriptors are known, and nothing is kept.
    """
    if train is None:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for position, finding in enumerate(findings[:MAX_PAIRS]):
        np.savez(
            folder / f"{position:03d}.npz",
            finding=np.array(dump(finding)),
            generated=generated(finding.sample_id),
            train=train[finding.train_id],
        )


def load_pairs(folder: Path) -> list[Pair]:
    """What `save_pairs` kept, in the same order; empty where no scan ended."""
    pairs = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as kept:
            pairs.append(
                Pair(
                    finding=load(str(kept["finding"]), Finding),
                    generated=kept["generated"],
                    train=kept["train"],
                )
            )
    return pairs


def save_groups(folder: Path, duplicates: Duplicates, train: NDArray[np.uint8] | None) -> None:
    """Keep the first images of the largest groups; the folder is removed when the run ends.

    Args:
        folder: Created, readable by its owner only, since it holds training images.
        duplicates: Names the groups.
        train: As for `save_pairs`.
    """
    if train is None:
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for position, group in enumerate(duplicates.largest[:MAX_GROUPS]):
        shown = np.array(group[:MAX_MEMBERS])
        np.savez(
            folder / f"{position:03d}.npz",
            ids=shown,
            size=np.array(len(group)),
            images=train[shown],
        )


def load_groups(folder: Path) -> list[Group]:
    """What `save_groups` kept, in the same order; empty where nothing was found."""
    groups = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as kept:
            ids, images = tuple(kept["ids"].tolist()), kept["images"]
            groups.append(Group(train_ids=ids, images=images, size=int(kept["size"])))
    return groups


def save_prompts(
    folder: Path,
    findings: Sequence[PromptFinding],
    images: Callable[[PromptFinding], NDArray[np.uint8]],
    train: NDArray[np.uint8] | None,
) -> None:
    """Keep some images of the first memorised prompts; the folder is removed when the run ends.

    Args:
        folder: Created, readable by its owner only.
        findings: Most certain first; those that are not memorised are passed over.
        images: Of a finding, ``(num_images, height, width, channels)`` uint8: its representative,
            then further members of its clique; what follows the fourth is left out. A finding
            without any is passed over.
        train: As for `save_pairs`; without it the prompts are kept all the same.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    memorised = [finding for finding in findings if is_memorised(finding)]
    for position, finding in enumerate(memorised[:MAX_PROMPTS]):
        shown = images(finding)[:MAX_IMAGES]
        if len(shown):
            np.savez(
                folder / f"{position:03d}.npz",
                finding=np.array(dump(finding)),
                images=shown,
                train=_train_image(finding, train),
            )


def load_prompts(folder: Path) -> list[PromptPicture]:
    """What `save_prompts` kept, in the same order; empty where no scan ended."""
    prompts = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as kept:
            prompts.append(
                PromptPicture(
                    finding=load(str(kept["finding"]), PromptFinding),
                    images=kept["images"],
                    train=kept["train"] if kept["train"].size else None,
                )
            )
    return prompts


def save_keys(
    folder: Path,
    findings: Sequence[KeyFinding],
    mean_image: Callable[[KeyFinding], NDArray[np.uint8]],
    train: NDArray[np.uint8] | None,
) -> None:
    """Keep the mean images of the first flagged keys; the folder is removed when the run ends.

    Args:
        folder: Created, readable by its owner only.
        findings: Lowest variance first; those that are not flagged are passed over.
        mean_image: Of a finding, ``(height, width, channels)`` uint8.
        train: As for `save_prompts`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    flagged = [finding for finding in findings if finding.flagged]
    for position, finding in enumerate(flagged[:MAX_KEYS]):
        np.savez(
            folder / f"{position:03d}.npz",
            finding=np.array(dump(finding)),
            mean_image=mean_image(finding),
            train=_train_image(finding, train),
        )


def load_keys(folder: Path) -> list[KeyPicture]:
    """What `save_keys` kept, in the same order; empty where no scan ended."""
    keys = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as kept:
            keys.append(
                KeyPicture(
                    finding=load(str(kept["finding"]), KeyFinding),
                    mean_image=kept["mean_image"],
                    train=kept["train"] if kept["train"].size else None,
                )
            )
    return keys


def save_repeats(
    folder: Path, repeats: Repeats, generated: Callable[[int], NDArray[np.uint8]]
) -> None:
    """Keep the first images of the largest groups; the folder is removed when the run ends.

    Args:
        folder: Created, readable by its owner only.
        repeats: Names the groups.
        generated: Pixels of a generated image by its sample id.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for position, group in enumerate(repeats.largest[:MAX_REPEATS]):
        shown = group[:MAX_IMAGES]
        np.savez(
            folder / f"{position:03d}.npz",
            ids=np.array(shown),
            size=np.array(len(group)),
            images=np.stack([generated(sample_id) for sample_id in shown]),
        )


def load_repeats(folder: Path) -> list[RepeatPicture]:
    """What `save_repeats` kept, in the same order; empty where nothing was found."""
    groups = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file, allow_pickle=False) as kept:
            ids, images = tuple(kept["ids"].tolist()), kept["images"]
            groups.append(RepeatPicture(sample_ids=ids, images=images, size=int(kept["size"])))
    return groups


def _train_image(
    finding: PromptFinding | KeyFinding, train: NDArray[np.uint8] | None
) -> NDArray[np.uint8]:
    """The nearest training image; an empty array where none is known."""
    if train is None or finding.train_id is None:
        return np.empty(0, np.uint8)
    image: NDArray[np.uint8] = train[finding.train_id]
    return image
