"""Labellers of real images: what the samples are called, and what cannot be learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.errors import MemscanError, TrainDataError
from pytest_memscan.results import SurrogateTraining
from pytest_memscan.surrogates.labellers import (
    AUXILIARY_LABELS,
    TRAINING_LABELS,
    check_labels,
    labelled_by,
    labels_of_scores,
)
from pytest_memscan.surrogates.labels import MIN_SAMPLES, Labels
from pytest_memscan.surrogates.training import Training

NAMES = ("dark", "bright", "striped")
TRAINING = Training(num_steps=40, batch_size=16, is_timed=False, held_out=0.2)


def drawn(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Noisy 8x8 pictures, dark, bright or striped."""
    rng = np.random.default_rng(seed)
    means = np.array([60, 190, 125])[labels][:, None, None, None]
    stripes = np.where(np.arange(8) % 2, 65, -65)[None, :, None, None]
    pixels = means + stripes * (labels == 2)[:, None, None, None]
    noise = rng.normal(0, 15, (len(labels), 8, 8, 1))
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def label(
    labels: np.ndarray,
    samples: np.ndarray,
    folder: Path,
    *,
    images: np.ndarray | None = None,
    scheduler: DDPMScheduler | None = None,
) -> tuple[Labels, SurrogateTraining]:
    return labelled_by(
        drawn(labels, seed=1) if images is None else images,
        labels,
        NAMES,
        samples,
        maker=TRAINING_LABELS,
        scheduler=scheduler,
        training=TRAINING,
        folder=folder,
        device="cpu",
        progress=lambda done, of: None,
    )


def known(num: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(num) % 3)


def test_samples_are_labelled_as_the_real_images_were(tmp_path: Path) -> None:
    truth = known(90, seed=5)
    scheduler = DDPMScheduler()
    made, training = label(known(300), drawn(truth, seed=2), tmp_path, scheduler=scheduler)
    np.testing.assert_array_equal(made.classes, truth)
    assert (made.num_classes, made.has_rest) == (3, False)
    assert made.record.maker == "training labels"
    assert "trained on the training images and their labels" in made.record.sentence
    assert not any(name in made.record.sentence for name in NAMES)
    assert not training.is_timed
    assert training.accuracies[0].accuracy.value > 0.9
    assert training.accuracies[-1].timestep == 999
    again, _ = label(known(300), drawn(truth, seed=2), tmp_path, scheduler=scheduler)
    assert again.fingerprint == made.fingerprint


def test_a_class_that_no_sample_falls_into_cannot_be_asked_for(tmp_path: Path) -> None:
    truth = np.where(known(60, seed=5) == 0, 1, 2)
    truth[:2] = 0
    made, _ = label(known(300), drawn(truth, seed=2), tmp_path)
    np.testing.assert_array_equal(made.classes, np.where(truth == 0, 2, truth - 1))
    assert (made.num_classes, made.has_rest, made.record.num_rest) == (2, True, 2)
    assert "1 of its 3 classes have fewer than 4 samples" in made.record.sentence


def test_labels_that_belong_to_other_images_teach_nothing(tmp_path: Path) -> None:
    with pytest.raises(MemscanError, match="trained on the training images learnt nothing") as told:
        label(
            known(300), drawn(known(60), seed=2), tmp_path, images=drawn(known(300, seed=9), seed=1)
        )
    assert "of 60 held-out images" in str(told.value)


def test_a_timed_labeller_or_images_of_another_shape_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for samples of"):
        label(known(30), np.zeros((9, 4, 4, 1), dtype=np.uint8), tmp_path)
    with pytest.raises(ValueError, match="told no timestep"):
        labelled_by(
            drawn(known(30), seed=1),
            known(30),
            NAMES,
            drawn(known(9), seed=2),
            maker=AUXILIARY_LABELS,
            training=replace(TRAINING, is_timed=True),
            folder=tmp_path,
            device="cpu",
            progress=lambda done, of: None,
        )


def refusal(labels: np.ndarray | None, names: tuple[str, ...], num_images: int) -> str:
    with pytest.raises(TrainDataError) as raised:
        check_labels(labels, names, num_images=num_images, what="the training images")
    return str(raised.value)


def test_images_without_labels_are_told_what_to_do() -> None:
    assert "the training images have no labels" in refusal(None, NAMES, 10)
    assert "into a folder of its own" in refusal(None, NAMES, 10)


def test_one_class_is_nothing_to_tell_apart() -> None:
    assert "have 1 class" in refusal(np.zeros(9, dtype=np.int64), ("only",), 9)


def test_classes_of_few_images_are_named_and_counted() -> None:
    names = ("a\x1b[31m", "b", "c", "d", "e")
    labels = np.repeat(np.arange(5), [4, 5, 0, 2, 1])
    message = refusal(labels, names, len(labels))
    assert "4 of the 5 classes of the training images have fewer than 5 images" in message
    assert "'a\\x1b[31m' (4), 'c' (0), 'd' (2) and 1 others" in message


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([0, 1, 3]), np.array([0, -1, 1])])
def test_labels_that_are_not_of_these_images_are_a_mistake(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a class from 0 to 2 for each image"):
        check_labels(labels, NAMES, num_images=3, what="the training images")


def test_labels_that_can_be_learnt_from_are_given_back() -> None:
    labels = known(15)
    assert check_labels(labels, NAMES, num_images=15, what="the training images") is labels


@given(
    st.integers(8, 60),
    st.integers(2, 8),
    st.integers(1, 6),
    st.sampled_from(["rest", "nearest"]),
    st.integers(0, 999),
)
def test_every_sample_has_its_likeliest_class_that_is_left(
    num: int, num_classes: int, least: int, assignment: str, seed: int
) -> None:
    scores = np.random.default_rng(seed).normal(size=(num, num_classes)).astype(np.float32)
    scores += np.linspace(0, 2, num_classes, dtype=np.float32)  # some classes are rare
    first = [max(range(num_classes), key=lambda k: row[k]) for row in scores]
    kept = [k for k in range(num_classes) if first.count(k) >= least]
    expected = []
    for row, likeliest in zip(scores, first, strict=True):
        if likeliest in kept:
            expected.append(kept.index(likeliest))
        elif assignment == "rest" or not kept:
            expected.append(len(kept))
        else:
            expected.append(kept.index(max(kept, key=lambda k: row[k])))
    if not kept or len(set(expected)) < 2:
        with pytest.raises(MemscanError, match="no two to tell apart"):
            labels_of_scores(
                scores, maker="labeller", sentence="", assignment=assignment, least_samples=least
            )
        return
    made = labels_of_scores(
        scores, maker="labeller", sentence="", assignment=assignment, least_samples=least
    )
    np.testing.assert_array_equal(made.classes, expected)
    assert made.num_classes == len(kept)
    assert min(made.record.sizes) >= least
    assert ("classes have fewer" in made.record.sentence) == (len(kept) < num_classes)


def test_scores_that_name_one_class_only_are_an_error_with_a_remedy() -> None:
    scores = np.eye(3, dtype=np.float32)[[0] * 20]
    with pytest.raises(MemscanError, match=f"{MIN_SAMPLES} or more of the 20 samples into only 1"):
        labels_of_scores(scores, maker="labeller", sentence="")


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        labels_of_scores(np.full((9, 2), np.nan), maker="labeller", sentence="")
    with pytest.raises(ValueError, match="nearest, rest, not drop"):
        labels_of_scores(np.eye(2), maker="labeller", sentence="", assignment="drop")
