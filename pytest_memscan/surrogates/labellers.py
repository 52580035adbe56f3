"""SIDE-O and SIDE-A: a labeller of real images gives the checkpoint's samples their labels.

SIDE-O trains it on the labels of the training images, SIDE-A on those of other images
(arXiv:2410.02467). It sees clean images only, and is told no timestep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError, TrainDataError
from pytest_memscan.reports.text import escape
from pytest_memscan.results import SurrogateTraining
from pytest_memscan.surrogates.labels import (
    ASSIGNMENTS,
    MIN_SAMPLES,
    REST,
    Assignment,
    Labels,
    numbered,
)
from pytest_memscan.surrogates.training import (
    Progress,
    Training,
    learnt_something,
    train_classifier,
)

MIN_IMAGES = 5  # of a class, so that one can be held out
BATCH_SIZE = 64  # samples that are labelled at a time
_NAMED = 3  # classes that a message names

TRAINING_LABELS = "training labels"
AUXILIARY_LABELS = "auxiliary labels"
_OF = {TRAINING_LABELS: "the training images", AUXILIARY_LABELS: "the auxiliary images"}


def labelled_by(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    names: Sequence[str],
    samples: NDArray[np.uint8],
    *,
    maker: str,
    training: Training,
    folder: Path,
    device: str,
    progress: Progress,
    scheduler: Any = None,
    assignment: Assignment = "rest",
    least_samples: int = MIN_SAMPLES,
) -> tuple[Labels, SurrogateTraining]:
    """Train a labeller on labelled images, and label the samples with it.

    Args:
        images: ``(num_images, height, width, channels)``, real ones.
        labels: ``(num_images,)``, 0 to ``len(names) - 1``; None where they have none.
        names: Of the classes; messages name them, the record does not.
        samples: ``(num_samples, height, width, channels)`` of the checkpoint, of the same shape.
        maker: `TRAINING_LABELS` (SIDE-O) or `AUXILIARY_LABELS` (SIDE-A).
        training: Of a classifier that is not timed.
        folder: Where the labeller is kept, so that a second run trains nothing.
        device: Where it is trained and run.
        progress: Told the number of steps done and of all.
        scheduler: The target's, for a record that also says how accurate the labeller is at its
            noise levels; None: on clean images alone.
        assignment: As in `labels_of_scores`.
        least_samples: As in `labels_of_scores`.

    Returns:
        Labels of the samples, and how the labeller was trained.

    Raises:
        TrainDataError: The images have no labels, fewer than two classes, or classes of too few
            images.
        MemscanError: The labeller learnt nothing, or fewer than two classes of samples are left.
        ValueError: Shapes that do not fit, or a timed training.
    """
    if images.shape[1:] != samples.shape[1:]:
        raise ValueError(f"images of {images.shape[1:]} for samples of {samples.shape[1:]}")
    if training.is_timed:
        raise ValueError("a labeller sees clean images, and is told no timestep")
    known = check_labels(labels, names, num_images=len(images), what=_OF[maker])
    trained = train_classifier(
        images,
        known,
        num_classes=len(names),
        scheduler=scheduler,
        training=training,
        folder=folder,
        device=device,
        progress=progress,
    )
    require_learnt(trained.record, what=_OF[maker])
    labelled = labels_of_scores(
        classifier_scores(trained.classifier, samples, device=device),
        maker=maker,
        sentence=f"a classifier of {len(names)} classes, trained on {_OF[maker]} and their labels, "
        "labelled the checkpoint's own images",
        assignment=assignment,
        least_samples=least_samples,
        depends_on={"labeller_sha256": weights_hash(trained.classifier)},
    )
    return labelled, trained.record


def check_labels(
    labels: NDArray[np.int64] | None, names: Sequence[str], *, num_images: int, what: str
) -> NDArray[np.int64]:
    """The labels, if a labeller can be trained on them.

    Raises:
        TrainDataError: None, or fewer than two classes, or classes of fewer than `MIN_IMAGES`.
        ValueError: Not one class of `names` for each image.
    """
    if labels is None:
        raise TrainDataError(
            f"{what} have no labels, which a labeller needs; put the images of each class into a "
            "folder of its own, or leave this variant out"
        )
    if labels.shape != (num_images,) or not ((labels >= 0) & (labels < len(names))).all():
        raise ValueError(f"there must be a class from 0 to {len(names) - 1} for each image")
    if len(names) < 2:
        raise TrainDataError(
            f"{what} have {len(names)} class, and a labeller needs at least two to tell apart"
        )
    counts = np.bincount(labels, minlength=len(names))
    scarce = np.flatnonzero(counts < MIN_IMAGES)
    if len(scarce):
        shown = ", ".join(f"'{escape(names[each])}' ({counts[each]})" for each in scarce[:_NAMED])
        more = f" and {len(scarce) - _NAMED} others" if len(scarce) > _NAMED else ""
        raise TrainDataError(
            f"{len(scarce)} of the {len(names)} classes of {what} have fewer than {MIN_IMAGES} "
            f"images: {shown}{more}; add images, or remove these classes"
        )
    return labels


def require_learnt(record: SurrogateTraining, *, what: str) -> None:
    """Refuse a labeller that tells clean held-out images no better than chance.

    Raises:
        MemscanError: Its accuracy may be that of its answers in random order.
    """
    if not learnt_something(record):
        clean = record.accuracies[0].accuracy
        raise MemscanError(
            f"the labeller trained on {what} learnt nothing: it names {clean.value:.0%} of "
            f"{record.num_held_out} held-out images rightly, and its answers in random order "
            f"{record.chance:.0%}; check that the labels belong to the images, or give it more "
            "images or steps"
        )


def classifier_scores(
    classifier: torch.nn.Module, samples: NDArray[np.uint8], *, device: str
) -> NDArray[np.float32]:
    """Logits ``(num_samples, num_classes)`` of clean samples.

    Args:
        classifier: Called with images in [-1, 1] and timesteps, which it ignores.
        samples: ``(num_samples, height, width, channels)``.
        device: Where the classifier is.
    """
    classifier.eval()
    scores = []
    for start in range(0, len(samples), BATCH_SIZE):
        batch = torch.from_numpy(samples[start : start + BATCH_SIZE]).to(device)
        pixels = batch.permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            logits = classifier(pixels, torch.zeros(len(pixels), device=device))
        scores.append(logits.float().cpu().numpy())
    return np.concatenate(scores)


def labels_of_scores(
    scores: NDArray[np.float32],
    *,
    maker: str,
    sentence: str,
    assignment: Assignment = "rest",
    least_samples: int = MIN_SAMPLES,
    depends_on: Mapping[str, str] | None = None,
) -> Labels:
    """The class with the highest score, for classes with enough samples to be asked for.

    Classes keep their order; those of fewer samples are left out, and the sentence says how many.

    Args:
        scores: ``(num_samples, num_classes)``.
        maker: As in `SurrogateLabels`.
        sentence: What gave the scores.
        assignment: "rest": samples of the classes left out become the class "rest". "nearest":
            they take the class with the highest score of the others.
        least_samples: That a class needs.
        depends_on: As in `Labels`.

    Raises:
        MemscanError: Fewer than two classes are left.
        ValueError: Scores that are not finite, or an assignment that is neither.
    """
    if assignment not in ASSIGNMENTS:
        raise ValueError(f"assignment must be one of {', '.join(ASSIGNMENTS)}, not {assignment}")
    if not np.isfinite(scores).all():
        raise ValueError("the labeller gives scores that are not finite")
    named = scores.argmax(axis=1)
    num_all = scores.shape[1]
    kept = np.flatnonzero(np.bincount(named, minlength=num_all) >= max(1, least_samples))
    if assignment == "nearest" and len(kept):
        classes = scores[:, kept].argmax(axis=1).astype(np.int64)
    else:
        new = np.full(num_all, REST, dtype=np.int64)
        new[kept] = np.arange(len(kept))
        classes = new[named]
    if not len(kept) or len(np.unique(classes)) < 2:
        raise MemscanError(
            f"the labeller puts {least_samples} or more of the {len(scores)} samples into only "
            f"{len(kept)} of its {num_all} classes, so there are no two to tell apart; raise "
            "--memscan-side-samples, or use a labeller whose classes fit the images"
        )
    num_left_out = num_all - len(kept)
    where = {
        "nearest": "their samples take the likeliest of the others",
        "rest": "their samples are a class that is not asked for",
    }[assignment]
    left_out = f"; {num_left_out} of its {num_all} classes have fewer than {least_samples} samples"
    return numbered(
        classes,
        maker=maker,
        sentence=sentence + (f"{left_out}, and {where}" if num_left_out else ""),
        depends_on={**(depends_on or {}), "assignment": assignment, "least": str(least_samples)},
    )


def weights_hash(network: torch.nn.Module) -> str:
    """SHA-256 of all parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
