"""Surrogate labels: classes for images that a checkpoint never had classes for.

Every maker is a function of the checkpoint's own samples that gives `Labels`: clusters of their
descriptors (`clusters`), a labeller trained on labelled images (`labellers`), somebody else's image
classifier (`image_classifier`), or chance (`random_labels`). Source of the first three:
arXiv:2410.02467, where they are SIDE-C, SIDE-O and SIDE-A.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError
from pytest_memscan.results import SurrogateLabels

Assignment = Literal["nearest", "rest"]  # where samples of a class that was dropped go
ASSIGNMENTS: tuple[Assignment, ...] = ("nearest", "rest")
MIN_SAMPLES = 4  # of a class that images can be asked for
REST = -1  # marks, before they are numbered, samples of no class that is kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """A class for every sample.

    Attributes:
        classes: ``(num_samples,)``, 0 to ``num_outputs - 1``. Every class has a sample.
        num_classes: Those that images can be asked for; they come first.
        has_rest: Whether one more class, the last, holds the samples of none of them.
        record: What the report says about them.
        depends_on: What made them besides the samples, such as the sha256 of a labeller's weights.
    """

    classes: NDArray[np.int64] = field(repr=False)
    num_classes: int
    has_rest: bool
    record: SurrogateLabels
    depends_on: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.classes.ndim != 1 or self.classes.dtype != np.int64:
            raise ValueError(
                f"classes must be int64 (num_samples,), not {self.classes.dtype} "
                f"{self.classes.shape}"
            )
        if self.num_classes < 1 or self.num_outputs < 2:
            raise ValueError("there must be a class to ask for, and another to tell it from")
        if not len(self.classes) or self.classes.min() < 0:
            raise ValueError("every sample needs a class, and there must be samples")
        counts = np.bincount(self.classes, minlength=self.num_outputs)
        if len(counts) != self.num_outputs or not counts.all():
            raise ValueError(f"every class from 0 to {self.num_outputs - 1}, and no other, needs "
                             "a sample")  # fmt: skip
        sizes, num_rest = tuple(counts[: self.num_classes].tolist()), counts[self.num_classes :]
        said = (self.record.num_samples, self.record.num_classes, self.record.sizes)
        if said != (len(self.classes), self.num_classes, sizes):
            raise ValueError("the record does not describe these classes")
        if self.record.num_rest != num_rest.sum():
            raise ValueError("the record counts other samples of the class 'rest'")

    @property
    def num_outputs(self) -> int:
        """Classes that a classifier of these labels tells apart: with the class "rest"."""
        return self.num_classes + self.has_rest

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the classes, their record, and what they depend on."""
        known = json.dumps([self.num_classes, asdict(self.record), sorted(self.depends_on.items())])
        digest = hashlib.sha256(known.encode())
        digest.update(self.classes.astype("<i8").tobytes())
        return digest.hexdigest()


def numbered(
    kept: NDArray[np.int64],
    *,
    maker: str,
    sentence: str,
    num_clusters: int = 0,
    cohesion: tuple[float, ...] = (),
    depends_on: Mapping[str, str] | None = None,
) -> Labels:
    """Labels of classes that were numbered already, with `REST` for samples of none of them.

    Args:
        kept: ``(num_samples,)``, `REST` or 0 to the number of classes less one, all of which occur.
        maker: As in `SurrogateLabels`; so are the others.
        sentence: How they were made.
        num_clusters: Before any was dropped.
        cohesion: Of each class.
        depends_on: As in `Labels`.
    """
    is_rest = kept == REST
    num_classes = int(kept.max()) + 1
    record = SurrogateLabels(
        maker=maker,
        sentence=sentence,
        num_samples=len(kept),
        num_classes=num_classes,
        sizes=tuple(np.bincount(kept[~is_rest], minlength=num_classes).tolist()),
        num_rest=int(is_rest.sum()),
        num_clusters=num_clusters,
        cohesion=cohesion,
    )
    return Labels(
        classes=np.where(is_rest, num_classes, kept).astype(np.int64),
        num_classes=num_classes,
        has_rest=bool(is_rest.any()),
        record=record,
        depends_on=dict(depends_on or {}),
    )


def random_labels(num_samples: int, num_classes: int, *, seed: int) -> Labels:
    """Labels that say nothing about the samples: the control.

    All classes are equally large, to within one sample, and drawn without regard to the images.

    Raises:
        MemscanError: Fewer than 2 classes, or more classes than samples.
    """
    if not 2 <= num_classes <= num_samples:
        raise MemscanError(
            f"{num_samples} samples cannot have {num_classes} random classes: there must be at "
            "least 2 classes, and a sample for each"
        )
    balanced = np.arange(num_samples, dtype=np.int64) % num_classes
    return numbered(
        np.random.default_rng(seed).permutation(balanced),
        maker="random",
        sentence=f"{num_classes} classes of equal size, drawn at random",
        depends_on={"seed": str(seed)},
    )
