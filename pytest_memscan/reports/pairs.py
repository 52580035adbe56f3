"""Pictures for the report, kept by the process that scanned for the one that writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.reports.html import MAX_GROUPS, MAX_MEMBERS, MAX_PAIRS, Group, Pair
from pytest_memscan.reports.json import dump, load
from pytest_memscan.results import Duplicates, Finding


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
