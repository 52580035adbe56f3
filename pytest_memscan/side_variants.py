"""Labels and classifiers of every variant of SIDE that the inputs allow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError, OptionError, TrainDataError
from pytest_memscan.generation import Progress, ProgressCallback
from pytest_memscan.inputs import Inputs
from pytest_memscan.results import SurrogateTraining
from pytest_memscan.side_settings import CONTROLS, VARIANTS, SideSettings
from pytest_memscan.store import canonical_hash
from pytest_memscan.surrogates.clusters import NoClustersError, cluster_labels
from pytest_memscan.surrogates.labellers import (
    AUXILIARY_LABELS,
    TRAINING_LABELS,
    check_labels,
    labelled_by,
    weights_hash,
)
from pytest_memscan.surrogates.labels import Assignment, Labels, random_labels
from pytest_memscan.surrogates.real_labels import RealLabels, real_labels, require_disjoint
from pytest_memscan.surrogates.training import (
    Trained,
    Training,
    learnt_something,
    train_classifier,
)

AUXILIARY = "--memscan-auxiliary"
NO_TRAIN_LABELS = (
    "the training images have no class labels (docs/training-images.md says how they are given)"
)
OPTIONAL = ("side_c_rest",)  # where next to nothing is repeated, nearly all samples are rest
NO_AUXILIARY = (
    "it needs other labelled images (--memscan-auxiliary) or an image classifier "
    "(--memscan-labeller)"
)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """Labels, and a classifier that knows them.

    Attributes:
        name: ``side_c``.
        labels: Of the samples.
        trained: The classifier that guides.
        num_asked: Classes that images are asked for, the first so many of the classifier.
    """

    name: str
    labels: Labels
    trained: Trained
    num_asked: int

    @property
    def title(self) -> str:
        """For people."""
        return VARIANTS[self.name]

    @property
    def is_control(self) -> bool:
        """Whether it is expected to bring out no more than plain sampling."""
        return self.name in CONTROLS

    @cached_property
    def fingerprint(self) -> str:
        """Of the classifier's weights."""
        return weights_hash(self.trained.classifier)

    def classes_of(self, sample_ids: list[int]) -> torch.Tensor:
        """Class that each row of the plan is asked for: all of them in turn."""
        return torch.tensor(sample_ids) % self.num_asked


@dataclass(frozen=True, kw_only=True)
class SideVariants:
    """Makes the variants of one scan.

    Attributes:
        inputs: Checkpoint, training images and settings.
        folder: Where classifiers are kept.
        samples: ``(num_samples, height, width, channels)`` uint8, the checkpoint's own images.
        report: Told how training goes on.
    """

    inputs: Inputs = field(repr=False)
    folder: Path = field(repr=False)
    samples: NDArray[np.uint8] = field(repr=False)
    report: ProgressCallback = field(repr=False)
    _clustered: dict[str, Labels] = field(default_factory=dict, repr=False)

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Variants that the inputs do not allow, and why.

        Raises:
            OptionError: One of them was asked for by name.
        """
        asked = {name: self._why_not(name) for name in self._asked}
        reasons = {name: reason for name, reason in asked.items() if reason}
        for name in self._settings.variants:
            if name in reasons:
                raise OptionError(f"--memscan-side-variants: {name} cannot run: {reasons[name]}")
        return reasons

    def attacks(self) -> Iterator[Attack]:
        """Every variant, trained one after the other.

        Raises:
            MemscanError: Labels cannot be made, or a classifier learnt nothing.
        """
        for name in self._asked:
            if name in self.left_out:
                continue
            attack = self._attack(name)
            if attack.is_control or learnt_something(attack.trained.record):
                yield attack
            elif name in OPTIONAL and name not in self._settings.variants:
                self.left_out[name] = _learnt_nothing(name, attack.trained.record)
            else:
                raise MemscanError(_learnt_nothing(name, attack.trained.record))

    @property
    def _settings(self) -> SideSettings:
        return self.inputs.config.side

    @property
    def _asked(self) -> tuple[str, ...]:
        return self._settings.variants or tuple(n for n in VARIANTS if n != "random_labels")

    def _why_not(self, name: str) -> str:
        if name in ("side_o", "ol_ti"):
            return self._why_no_labeller
        if name == "side_a":
            return self._why_no_others
        if name in ("side_c", "side_c_rest"):
            try:
                self._clusters(name)
            except NoClustersError as error:
                return str(error)
        return ""

    @cached_property
    def _why_no_labeller(self) -> str:
        """Why nothing can be learnt from the labels of the training images, or ""."""
        try:
            known = self._train
            if known is not None:
                check_labels(
                    known.labels,
                    _numbered(known.names),
                    num_images=len(known.labels),
                    what="the training images",
                )
        except TrainDataError as error:
            return str(error)
        return NO_TRAIN_LABELS if known is None else ""

    @property
    def _why_no_others(self) -> str:
        """Why nobody labels the samples who never saw the training images, or ""."""
        auxiliary, labeller = self._settings.auxiliary, self._settings.labeller
        if auxiliary is not None and labeller is not None:
            raise OptionError(
                f"{AUXILIARY} and --memscan-labeller are two ways to the labels of side_a; leave "
                "one of them out"
            )
        return NO_AUXILIARY if auxiliary is None and labeller is None else ""

    def _attack(self, name: str) -> Attack:
        if name == "ol_ti":
            labels, labeller = self._of_training_images
            num_asked = len(self._train.names) if self._train else 0
            return Attack(name=name, labels=labels, trained=labeller, num_asked=num_asked)
        labels = self._labels(name)
        trained = self._trained(
            self.samples, labels.classes, num_classes=labels.num_outputs, name=name, is_timed=True
        )
        return Attack(name=name, labels=labels, trained=trained, num_asked=labels.num_classes)

    def _labels(self, name: str) -> Labels:
        if name == "side_o":
            return self._of_training_images[0]
        if name == "side_a":
            return self._of_others
        if name == "random_labels":
            num_classes = min(self._settings.clusters_of(name), len(self.samples) // 10)
            return random_labels(len(self.samples), num_classes, seed=self._seed)
        return self._clusters(name)

    def _clusters(self, name: str) -> Labels:
        assignment: Assignment = "rest" if name == "side_c_rest" else "nearest"
        if name not in self._clustered:
            self._clustered[name] = cluster_labels(
                self._descriptors,
                num_clusters=self._settings.clusters_of(name),
                least_cohesion=self._settings.cohesion_of(name),
                assignment=assignment,
                seed=self._seed,
            )
        return self._clustered[name]

    @cached_property
    def _descriptors(self) -> NDArray[np.float32]:
        return self.inputs.descriptor.describe(self.samples)

    @cached_property
    def _train(self) -> RealLabels | None:
        """None where the training images have no labels at all."""
        inputs = self.inputs
        if inputs.train_is_index or not any(each is not None for each in inputs.train_data.labels):
            return None
        return real_labels(inputs.train_data, option="--memscan-train-data")

    @cached_property
    def _of_training_images(self) -> tuple[Labels, Trained]:
        if self._train is None:
            raise TrainDataError(NO_TRAIN_LABELS)
        return self._labelled(self._train, maker=TRAINING_LABELS)

    @cached_property
    def _of_others(self) -> Labels:
        settings, inputs = self._settings, self.inputs
        if settings.labeller is not None:
            from pytest_memscan.surrogates.image_classifier import classified_by

            return classified_by(
                settings.labeller,
                self.samples,
                device=inputs.device,
                offline=inputs.config.offline,
            )
        if inputs.auxiliary is None:
            raise OptionError(NO_AUXILIARY)
        if inputs.train_pixels is None:
            raise OptionError(
                f"{AUXILIARY}: whether these are training images cannot be told from an index of "
                "descriptors; pass the training images themselves with --memscan-train-data"
            )
        known = real_labels(inputs.auxiliary, option=AUXILIARY)
        require_disjoint(known.images, inputs.train_pixels, device=inputs.device)
        return self._labelled(known, maker=AUXILIARY_LABELS)[0]

    def _labelled(self, known: RealLabels, *, maker: str) -> tuple[Labels, Trained]:
        training = self._training(is_timed=False)
        folder = self._folder(known.images, known.labels, training)
        labels, _ = labelled_by(
            known.images,
            known.labels,
            _numbered(known.names),
            self.samples,
            maker=maker,
            training=training,
            scheduler=self._scheduler,
            folder=folder,
            device=self.inputs.device,
            progress=self._told("labeller"),
        )
        trained = self._trained(
            known.images,
            known.labels,
            num_classes=len(known.names),
            name="labeller",
            is_timed=False,
        )
        return labels, trained

    def _trained(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        *,
        num_classes: int,
        name: str,
        is_timed: bool,
    ) -> Trained:
        training = self._training(is_timed=is_timed)
        return train_classifier(
            images,
            labels,
            num_classes=num_classes,
            scheduler=self._scheduler,
            training=training,
            folder=self._folder(images, labels, training),
            device=self.inputs.device,
            progress=self._told(name),
        )

    def _training(self, *, is_timed: bool) -> Training:
        return Training(num_steps=self._settings.training, seed=self._seed, is_timed=is_timed)

    @property
    def _seed(self) -> int:
        return self.inputs.config.seed

    @property
    def _scheduler(self) -> Any:
        return self.inputs.pipeline(self.inputs.config.dtype).scheduler

    def _folder(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], training: Training
    ) -> Path:
        known = {
            "images": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(),
            "labels": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
            "files": self.inputs.integrity.files,
            "training": repr(training),
        }
        return self.folder / canonical_hash(known)

    def _told(self, name: str) -> Callable[[int, int], None]:
        unit, first = f"steps of training {name}", 0

        def tell(done: int, total: int) -> None:
            nonlocal first
            first = first or done  # the clock of the display starts when it is first told
            self.report(Progress(done=done, total=total, resumed=first, unit=unit))

        return tell


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """What messages call classes: their own names may be those of people."""
    return tuple(f"class#{number:05d}" for number in range(len(names)))


def _learnt_nothing(name: str, record: SurrogateTraining) -> str:
    clean = record.accuracies[0].accuracy
    return (
        f"the classifier of {name} learnt nothing: it names {100 * clean.value:.1f} % of "
        f"{record.num_held_out} held-out samples rightly, and the same answers in random order "
        f"{100 * record.chance:.1f} %, so it cannot guide; raise --memscan-side-training or "
        "--memscan-side-samples, or leave the variant out with --memscan-side-variants"
    )
