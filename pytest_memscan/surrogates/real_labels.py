"""Class labels that real images came with, for the labellers that learn from them.

SIDE-O learns from the labels of the training images, SIDE-A from those of an auxiliary set, which
must be disjoint from them: what it says would else hold for nobody who lacks the training images.
Class names may be the names of people, so messages tell how many there are and never which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.data.images import ImageSet
from pytest_memscan.errors import TrainDataError
from pytest_memscan.similarity.duplicates import near_duplicate_groups, random_pair_distance
from pytest_memscan.similarity.matching.pixels import NUM_NEIGHBOURS, nearest_neighbours

_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
_HOW = "docs/training-images.md tells where class labels are read from"


@dataclass(frozen=True, kw_only=True)
class RealLabels:
    """Images with the classes they came with.

    Attributes:
        images: ``(num, height, width, channels)`` uint8; may be a memory map.
        labels: ``(num,)`` int64, positions in ``names``; every class has an image.
        names: ``(num_classes,)`` what each class is called, different, in numeric order where all
            are numbers, else in alphabetic order. Private.
    """

    images: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)


def real_labels(images: ImageSet, *, option: str) -> RealLabels:
    """The class labels of a set of images as numbers.

    Args:
        images: As they were read.
        option: What they were given with, for messages.

    Raises:
        TrainDataError: An image has no label, or all have the same one.
    """
    labels = [label for label in images.labels if label is not None]
    num_images = len(images.labels)
    if len(labels) < num_images:
        raise TrainDataError(
            f"{option}: {num_images - len(labels):,} of {num_images:,} images have no class label, "
            f"and a labeller that learns from these images needs one for each; {_HOW}"
        )
    names = sorted(set(labels))
    if len(names) < 2:
        raise TrainDataError(
            f"{option}: all {num_images:,} images have the same class label, and a labeller needs "
            f"at least 2 classes to tell apart; {_HOW}"
        )
    if all(map(_NUMBER.fullmatch, names)):
        names.sort(key=int)
    position = {name: index for index, name in enumerate(names)}
    return RealLabels(
        images=images.pixels,
        labels=np.array([position[label] for label in labels], dtype=np.int64),
        names=tuple(names),
    )


def require_disjoint(
    auxiliary: NDArray[np.uint8], train: NDArray[np.uint8], *, device: str = "cpu"
) -> None:
    """Make sure that no auxiliary image is, exactly or nearly, a training image.

    Nearly: by the rule that merges near-duplicate training images before a scan counts, see
    `near_duplicate_groups`. Pixels are compared as they are; a mirrored copy is not found.

    Args:
        auxiliary: ``(num_auxiliary, height, width, channels)`` uint8; may be a memory map.
        train: ``(num_train, height, width, channels)`` uint8; may be a memory map.
        device: Where distances are computed.

    Raises:
        TrainDataError: They overlap; says in how many images, and the first pair.
        ValueError: Either side is empty, or the images differ in size.
    """
    num_train = len(train)
    near = nearest_neighbours(auxiliary, train, k=NUM_NEIGHBOURS, device=device)
    to_normalised = np.sqrt(near.num_pixels) * 255.0
    rows = num_train + np.arange(len(auxiliary))
    groups = near_duplicate_groups(
        near.distances,
        near.train_ids,
        rows=rows,
        num_train=num_train + len(auxiliary),
        typical_distance=random_pair_distance(train) / to_normalised,
    )
    # Chains start at auxiliary images only, so one that is near no training image stays alone.
    found = np.flatnonzero(groups.representative_of(rows) < num_train)
    if not len(found):
        return
    first = int(found[0])
    raise TrainDataError(
        f"--memscan-auxiliary: {len(found):,} of {len(auxiliary):,} images are training images or "
        f"near-duplicates of them (the first: auxiliary#{first:05d} = "
        f"train#{int(near.train_ids[first, 0]):05d}); SIDE-A asks what is found without the "
        "training images, so remove these from the auxiliary images, or let SIDE-O learn from the "
        "labels of the training images"
    )
