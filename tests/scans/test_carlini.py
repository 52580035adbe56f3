"""The scan on generated images whose origin is known, without a model in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from numpy.typing import NDArray
from pictures import smooth_images

from pytest_memscan.errors import TrainDataError
from pytest_memscan.generation import ALONE, FLAT, PLANNED, plan_rows
from pytest_memscan.results import Coverage, ScanResult
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.carlini import carlini
from pytest_memscan.similarity.reference import prepare
from pytest_memscan.store import ImageStore, StoredImage

Images = NDArray[np.uint8]


def strangers(count: int, seed: int) -> Images:
    return smooth_images(count, seed=seed)


def noisy(images: Images, amount: int) -> Images:
    noise = np.random.default_rng(7).integers(-amount, amount + 1, images.shape)
    return np.clip(images.astype(int) + noise, 0, 255).astype(np.uint8)


def no_model(dtype: str) -> NoReturn:
    raise AssertionError("everything is in the store")


def scan(
    folder: Path,
    generated: Images,
    train: Images,
    *,
    invalid: Sequence[int] = (),
    invalid_alone: Sequence[int] = (),
    alone: Images | None = None,
    holdout: Images | None = None,
) -> ScanResult:
    store = ImageStore(folder / "store", spec={})
    rows = plan_rows(len(generated), seed=0)
    kinds = (
        (PLANNED, generated, invalid),
        (ALONE, generated if alone is None else alone, [*invalid, *invalid_alone]),
    )
    for kind, images, unusable in kinds:
        stored = [
            StoredImage(
                sample_id=row.sample_id,
                seed=row.seed,
                invalid=FLAT if row.sample_id in unusable else "",
                pixels=images[row.sample_id],
            )
            for row in rows
        ]
        store.add(kind, stored)
    sampler = Sampler(
        load_pipeline=no_model,
        store=store,
        num_images=len(generated),
        seed=0,
        batch_size=8,
        steps=50,
        dtype="float32",
    )
    coverage = Coverage(planned=0, generated=0, valid=0, train_found=len(train))
    result = carlini(
        sampler, prepare(train), holdout=holdout, coverage=coverage, provenance={"a": "b"}
    )
    store.close()
    return result


def test_planted_copies_are_counted_and_named(tmp_path: Path) -> None:
    train = strangers(100, seed=0)
    generated = strangers(40, seed=1)
    generated[[3, 9, 20]] = noisy(train[[50, 51, 50]], 10)
    result = scan(tmp_path, generated, train)
    assert result.metrics["extracted"].value == 2
    assert result.metrics["leak_rate"].value == 3 / 40
    assert result.num_confirmed_images == 3
    assert result.metrics["ums_confirmed"].value == 2 / 40
    assert {(f.train_id, f.confirmed) for f in result.findings} == {(50, True), (51, True)}
    assert {f.sample_id for f in result.findings} <= {3, 9, 20}
    assert result.denoiser_calls == 40 * 50
    assert all(control.passed for control in result.controls)


def test_strangers_are_not_confirmed(tmp_path: Path) -> None:
    result = scan(tmp_path, strangers(300, seed=1), strangers(100, seed=0))
    assert result.metrics["extracted"].value == 0
    assert result.metrics["leak_rate"].upper == pytest.approx(1 - 0.05 ** (1 / 300))
    assert result.excluded_rate == pytest.approx(1 - 0.05 ** (1 / 300))
    assert result.calibration.expected_false_matches <= 0.05 + 1e-12


def test_copies_of_near_duplicates_count_once(tmp_path: Path) -> None:
    train = strangers(100, seed=0)
    train[60] = noisy(train[5], 3)
    generated = strangers(20, seed=1)
    generated[0], generated[1] = train[5], train[60]
    result = scan(tmp_path, generated, train)
    assert result.metrics["extracted"].value == 1
    assert result.num_confirmed_images == 2
    assert result.coverage.train_groups == 99


def test_invalid_images_never_enter_the_denominator(tmp_path: Path) -> None:
    train = strangers(100, seed=0)
    generated = strangers(20, seed=1)
    generated[0] = generated[1] = train[5]
    result = scan(tmp_path, generated, train, invalid=[1, 2, 3])
    assert result.coverage.valid == 17
    assert result.coverage.generated == 20
    assert result.coverage.invalid == {FLAT: 3}
    assert result.metrics["leak_rate"].value == 1 / 17
    assert result.metrics["leak_rate"].num_trials == 17


def test_no_valid_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainDataError, match="none of the 5 generated images is valid"):
        scan(tmp_path, strangers(5, seed=1), strangers(50, seed=0), invalid=range(5))


def blend(share: float, near: Images, far: Images) -> Images:
    return (share * near + (1 - share) * far).round().astype(np.uint8)


def test_near_the_cut_the_image_generated_alone_decides(tmp_path: Path) -> None:
    train = strangers(100, seed=0)
    far = strangers(1, seed=2)[0]
    cut = scan(tmp_path / "cut", far[None], train).calibration.confirmed_cut
    shares = np.linspace(0, 1, 400)
    ratios = (
        prepare(train)
        .nearest(np.stack([blend(share, train[7], far) for share in shares]))
        .dissimilarities[:, 0]
    )
    just_inside = blend(shares[int(np.argmax(ratios <= cut))], train[7], far)[None]
    kept = scan(tmp_path / "kept", just_inside, train)
    assert kept.metrics["extracted"].value == 1
    assert kept.findings[0].regenerated_score == pytest.approx(kept.findings[0].score)
    dropped = scan(tmp_path / "dropped", just_inside, train, alone=far[None])
    assert dropped.metrics["extracted"].value == 0
    undecided = scan(tmp_path / "undecided", just_inside, train, alone=far[None], invalid_alone=[0])
    assert undecided.metrics["extracted"].value == 1
    assert undecided.findings[0].regenerated_score is None
    far_from_it = scan(tmp_path / "far", train[7:8], train, alone=far[None])
    assert far_from_it.metrics["extracted"].value == 1
    assert far_from_it.findings[0].regenerated_score is None


def test_held_out_images_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    train = strangers(100, seed=0)
    holdout = strangers(50, seed=3)
    holdout[4] = noisy(train[31], 5)
    with pytest.raises(TrainDataError, match=r"1 of 50 .* holdout#00004 = train#00031"):
        scan(tmp_path, strangers(20, seed=1), train, holdout=holdout)


def test_few_training_images_need_held_out_ones(tmp_path: Path) -> None:
    train = strangers(6, seed=0)
    generated = strangers(30, seed=1)
    generated[2] = train[4]
    with pytest.raises(TrainDataError, match="--memscan-holdout"):
        scan(tmp_path / "alone", generated, train)
    result = scan(tmp_path / "helped", generated, train, holdout=strangers(200, seed=3))
    assert result.calibration.source == "held-out"
    assert result.metrics["extracted"].value == 1


def test_the_stricter_of_two_nulls_is_used(tmp_path: Path) -> None:
    train = strangers(100, seed=0)
    holdout = blend(0.35, train, strangers(100, seed=3))
    generated = strangers(30, seed=1)
    alone = scan(tmp_path / "alone", generated, train)
    helped = scan(tmp_path / "helped", generated, train, holdout=holdout)
    assert helped.calibration.confirmed_cut <= alone.calibration.confirmed_cut


def test_the_curve_passes_through_what_was_seen(tmp_path: Path) -> None:
    train = strangers(100, seed=0)
    generated = strangers(40, seed=1)
    generated[:10] = noisy(train[:10], 5)
    curve = {p.num_generated: p for p in scan(tmp_path, generated, train).curve}
    assert curve[40].expected == pytest.approx(10)
    assert not curve[40].extrapolated
    assert curve[80].extrapolated
