"""What the scan counts, held against counting by hand: images that are known, nothing generated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import smooth_images

from pytest_memscan.errors import TrainDataError
from pytest_memscan.generation import PLANNED
from pytest_memscan.results import (
    Coverage,
    SideScan,
    SideVariant,
    SurrogateLabels,
    SurrogateTraining,
)
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.side import Prepared, Side
from pytest_memscan.scans.side_measures import ERROR
from pytest_memscan.similarity.reference import prepare
from pytest_memscan.statistics import proportion
from pytest_memscan.store import ImageStore, StoredImage

NUM_IMAGES, NUM_SAMPLES = 20, 30
TRAIN = smooth_images(80, seed=1)
OTHERS = smooth_images(300, seed=2)
LABELS = SurrogateLabels(
    maker="clusters", sentence="clusters", num_samples=30, num_classes=2, sizes=(20, 10)
)
TRAINING = SurrogateTraining(
    network="ResNet",
    is_timed=True,
    num_parameters=1,
    num_samples=27,
    num_held_out=3,
    num_steps=1,
    batch_size=2,
    learning_rate=1e-3,
    seed=0,
    chance=0.5,
    accuracies=(),
)


def unreachable(_: str) -> Any:
    raise AssertionError("every image is in the store already")


INVALID = -1


def sampler_of(folder: Path, copies: Sequence[int | None], *, strangers: int) -> Sampler:
    """Row i is a copy of training image ``copies[i]``, an image that is nobody's, or no image."""
    store = ImageStore(folder, spec={})
    store.add(
        PLANNED,
        [
            StoredImage(
                sample_id=row,
                seed=row,
                invalid="constant" if copied == INVALID else "",
                pixels=OTHERS[strangers + row] if copied is None else TRAIN[copied],
            )
            for row, copied in enumerate(copies)
        ],
    )
    return Sampler(
        load_pipeline=unreachable,
        store=store,
        num_images=len(copies),
        seed=0,
        batch_size=4,
        steps=5,
        dtype="float32",
    )


def scan(
    folder: Path,
    plain: Sequence[int | None],
    samples: Sequence[int | None],
    variants: Mapping[str, Mapping[float, Sequence[int | None]]],
) -> SideScan:
    prepared, strangers = [], 60
    for name, settings in variants.items():
        samplers = []
        for scale, copies in settings.items():
            place = folder / f"{name}-{scale}"
            samplers.append((scale, sampler_of(place, copies, strangers=strangers)))
            strangers += NUM_IMAGES
        prepared.append(
            Prepared(
                name=name,
                title=name,
                labels=LABELS,
                training=TRAINING,
                samplers=tuple(samplers),
                is_control=name == "random_labels",
            )
        )
    side = Side(
        plain=sampler_of(folder / "plain", [*plain, *samples], strangers=0),
        num_images=len(plain),
        variants=prepared,
        left_out={"side_a": "no auxiliary images"},
        reference=prepare(TRAIN, device="cpu"),
    )
    coverage = Coverage(planned=0, generated=0, valid=0, train_found=80, train_used=80)
    return side.scan(coverage=coverage, provenance={"checkpoint": "x"})


def padded(*copies: int) -> list[int | None]:
    return [*copies, *([None] * (NUM_IMAGES - len(copies)))]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> SideScan:
    return scan(
        tmp_path_factory.mktemp("side"),
        plain=padded(3, 3),
        samples=[7, *[None] * (NUM_SAMPLES - 1)],
        variants={
            "side_c": {1.0: padded(3, 4, 4), 5.0: padded(4, 5, 6, 6, 3), 9.0: padded()},
            "random_labels": {5.0: padded(8)},
        },
    )


def variant_of(result: SideScan, name: str) -> SideVariant:
    return next(each for each in result.variants if each.name == name)


def test_copies_are_counted_lambda_by_lambda(result: SideScan) -> None:
    settings = variant_of(result, "side_c").settings
    assert [each.scale for each in settings] == [1.0, 5.0, 9.0]
    assert [each.num_images for each in settings] == [NUM_IMAGES] * 3
    assert [each.num_copies for each in settings] == [3, 5, 0]
    assert [each.num_copied for each in settings] == [2, 4, 0]
    assert [each.num_new for each in settings] == [1, 3, 0]  # all but 3, which plain sampling has
    assert result.plain.num_copies == 2
    assert result.plain.num_copied == 1
    assert result.plain.num_new == 0


def test_samples_are_counted_apart_from_plain_sampling(result: SideScan) -> None:
    assert (result.num_samples, result.num_samples_copied) == (NUM_SAMPLES, 1)
    found = {each.finding.train_id: each for each in result.findings if each.finding.confirmed}
    assert set(found) == {3, 4, 5, 6, 7, 8}
    assert (found[7].variant, found[7].scale) == ("plain", 0.0)
    assert found[7].finding.sample_id == NUM_IMAGES
    assert (found[5].variant, found[5].scale) == ("side_c", 5.0)
    assert result.metrics["side_extracted"].value == 6


def test_the_best_lambda_is_compared_with_plain_sampling(result: SideScan) -> None:
    side_c = variant_of(result, "side_c")
    assert side_c.best_scale == 5.0
    assert side_c.gain.ams.value == pytest.approx(
        side_c.settings[1].levels[1].num_matched / result.plain.levels[1].num_matched
    )
    assert side_c.gain.ams.confidence == pytest.approx(1 - ERROR / 3)
    assert side_c.gain.ams.lower < side_c.gain.ams.value < side_c.gain.ams.upper
    assert side_c.gain.ums.lower <= side_c.gain.ums.value


def test_lambdas_of_the_paper_are_averaged(result: SideScan) -> None:
    side_c = variant_of(result, "side_c")
    for row, level in enumerate(("low", "mid", "high")):
        averaged = [side_c.settings[1].levels[row], side_c.settings[2].levels[row]]
        assert side_c.mean_ams[level] == pytest.approx(np.mean([e.ams.value for e in averaged]))
        assert side_c.mean_ums[level] == pytest.approx(np.mean([e.ums.value for e in averaged]))


def test_the_worst_setting_is_the_one_that_the_gate_hears_of(result: SideScan) -> None:
    num_settings = 5  # plain sampling, three lambdas, one lambda
    worst = proportion(5, NUM_IMAGES, confidence=1 - ERROR / num_settings)
    rate = result.metrics["side_leak_rate"]
    assert (rate.value, rate.lower, rate.upper) == (worst.value, worst.lower, worst.upper)
    for level in ("low", "mid", "high"):
        every = [result.plain, *(each for v in result.variants for each in v.settings)]
        scores = [next(e for e in each.levels if e.name == level) for each in every]
        assert result.metrics[f"side_ams_{level}"].value == max(e.ams.value for e in scores)
        assert result.metrics[f"side_ums_{level}"].value == max(e.ums.value for e in scores)


def test_shares_of_the_closest_images_are_of_those_there_are(result: SideScan) -> None:
    top = result.plain.top
    assert list(top) == ["0.05"]  # of 20 images, a smaller share is less than one
    assert top["0.05"] < 0.1  # an exact copy but for rounding


def test_what_was_done_is_added_up(result: SideScan) -> None:
    guided = 4 * NUM_IMAGES
    assert result.coverage.planned == NUM_IMAGES + NUM_SAMPLES + guided
    assert result.coverage.valid == result.coverage.planned
    assert result.denoiser_calls == 5 * result.coverage.planned
    assert result.classifier_calls == 5 * guided
    assert result.left_out == {"side_a": "no auxiliary images"}
    assert not result.variants[0].is_control
    assert result.variants[1].is_control


def test_without_a_copy_there_is_nothing(tmp_path: Path) -> None:
    clean = scan(tmp_path, padded(), [None] * NUM_SAMPLES, {"side_c": {2.0: padded()}})
    assert clean.metrics["side_extracted"].value == 0
    assert clean.metrics["side_leak_rate"].value == 0
    assert clean.variants[0].gain.ams.lower < 1
    assert not [each for each in clean.findings if each.finding.confirmed]


def test_a_gain_over_nothing_is_infinite(tmp_path: Path) -> None:
    result = scan(
        tmp_path, padded(), [None] * NUM_SAMPLES, {"side_c": {2.0: padded(*range(10, 20))}}
    )
    if not result.plain.levels[1].num_matched:
        assert result.variants[0].gain.ams.value == math.inf
    assert result.variants[0].gain.ams.lower > 1
    assert result.variants[0].settings[0].num_new == 10


def test_a_gain_is_over_rows_that_are_valid_in_both(tmp_path: Path) -> None:
    result = scan(
        tmp_path,
        padded(INVALID, 3, 3, 4, 5, 6, 7),
        [None] * NUM_SAMPLES,
        {"side_c": {2.0: padded(9, INVALID, *range(10, 22))}},
    )
    gain = result.variants[0].gain
    assert gain.ams.num_trials == gain.ums.num_trials == NUM_IMAGES - 2
    assert gain.ums.value == pytest.approx(12 / 5, rel=0.3)  # strangers may match at mid level
    assert result.coverage.invalid == {"constant": 2}


def test_a_lambda_without_a_valid_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainDataError, match=r"side_c at lambda 9: .*leave this lambda out"):
        scan(
            tmp_path,
            padded(),
            [None] * NUM_SAMPLES,
            {"side_c": {9.0: [INVALID] * NUM_IMAGES}},
        )


def test_plain_sampling_without_a_valid_image_is_an_error(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "plain", spec={})
    flat = np.zeros_like(TRAIN[0])
    images = [
        StoredImage(
            sample_id=row,
            seed=row,
            invalid="constant" if row < 2 else "",
            pixels=flat if row < 2 else OTHERS[row],
        )
        for row in range(6)
    ]
    store.add(PLANNED, images)
    side = Side(
        plain=Sampler(
            load_pipeline=unreachable,
            store=store,
            num_images=6,
            seed=0,
            batch_size=2,
            steps=5,
            dtype="float32",
        ),
        num_images=2,
        variants=(),
        reference=prepare(TRAIN, device="cpu"),
    )
    with pytest.raises(TrainDataError, match="none of the first 2 generated images is valid"):
        side.scan(coverage=Coverage(planned=0, generated=0, valid=0), provenance={})
