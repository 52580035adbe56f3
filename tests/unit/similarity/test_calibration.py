"""The confirmed cut: what it is worth on images whose origin is known."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_memscan.similarity.calibration import FALSE_MATCHES, calibrate, fit_null
from pytest_memscan.similarity.pixels import NDArray, nearest_neighbours
from pytest_memscan.similarity.reference import prepare

HIGH = 1.35


def correlated_images(count: int, seed: int) -> NDArray[np.uint8]:
    """Images of about 12 free numbers: low-dimensional enough to come close by chance."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(42).normal(size=(12, 192))
    pixels = 127 + 18 * rng.normal(size=(count, 12)) @ basis / np.sqrt(3)
    return np.clip(pixels, 0, 255).astype(np.uint8).reshape(count, 8, 8, 3)


def confirmed_cut(train: NDArray[np.uint8], num_generated: int) -> float:
    null = prepare(train).null
    return calibrate(
        null,
        source="leave-one-out",
        num_generated=num_generated,
        num_train=len(train),
        level_cut=HIGH,
    ).confirmed_cut


def test_published_cuts_alone_would_accuse_images_that_are_not_copies() -> None:
    train, fresh = correlated_images(400, 0), correlated_images(2000, 1)
    ratios = nearest_neighbours(fresh, train).ratios[:, 0]
    assert (ratios <= HIGH).mean() > 0.01


@pytest.mark.parametrize("num_train", [60, 400, 1500])
def test_fresh_images_are_hardly_ever_confirmed(num_train: int) -> None:
    """Over 20 scans of 500 fresh images the rule allows 20 * 0.05 = 1 false match."""
    false_matches = 0
    for repeat in range(20):
        train = correlated_images(num_train, 10 + repeat)
        fresh = correlated_images(500, 1000 + repeat)
        near = nearest_neighbours(fresh, train)
        false_matches += int((near.ratios[:, 0] <= confirmed_cut(train, 500)).sum())
    # Poisson(1) exceeds 4 once in 270 times.
    assert false_matches <= 4


def test_slightly_noisy_copies_are_confirmed() -> None:
    train = correlated_images(400, 0)
    noise = np.random.default_rng(1).integers(-6, 7, train.shape)
    copies = np.clip(train.astype(int) + noise, 0, 255).astype(np.uint8)
    near = nearest_neighbours(copies, train)
    assert (near.ratios[:, 0] <= confirmed_cut(train, 500)).all()
    np.testing.assert_array_equal(near.train_ids[:, 0], np.arange(400))


def test_more_generated_images_ask_for_a_closer_match_until_the_floor() -> None:
    train = correlated_images(400, 0)
    cuts = [confirmed_cut(train, n) for n in (100, 1_000, 5_000, 50_000, 10**6)]
    assert cuts[0] > cuts[1] > cuts[2]
    assert cuts[2] == pytest.approx(cuts[3]) == pytest.approx(cuts[4])


def test_expected_false_matches_are_stated() -> None:
    null = prepare(correlated_images(400, 0)).null

    def expected(num_generated: int) -> float:
        return calibrate(
            null, source="x", num_generated=num_generated, num_train=400, level_cut=HIGH
        ).expected_false_matches

    assert expected(1000) == pytest.approx(FALSE_MATCHES)
    assert expected(10**6) == pytest.approx(10.0)


def test_the_cut_never_exceeds_the_published_level() -> None:
    far_apart = np.linspace(1.9, 2.0, 200)
    made = calibrate(
        far_apart, source="leave-one-out", num_generated=300, num_train=200, level_cut=HIGH
    )
    assert made.confirmed_cut == HIGH
    assert made.expected_false_matches < FALSE_MATCHES


def test_small_sets_say_which_rule_applied() -> None:
    null = prepare(correlated_images(40, 0)).null
    made = calibrate(null, source="leave-one-out", num_generated=300, num_train=40, level_cut=HIGH)
    assert made.tail_size == 20
    assert "only 40 training images" in made.rule
    assert "--memscan-holdout" in made.rule


def test_too_few_real_images_are_refused() -> None:
    with pytest.raises(ValueError, match="9 real images"):
        fit_null(np.linspace(1, 2, 9))
