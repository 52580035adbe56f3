"""The confirmed cut: what it is worth on images whose origin is known."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_memscan.results import RATIO, Measure
from pytest_memscan.similarity.calibration import (
    FALSE_MATCHES,
    calibrate,
    fit_null,
    levels_of_null,
)
from pytest_memscan.similarity.matching.pixels import NDArray, nearest_neighbours
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
        level_cut=HIGH,
        measure=RATIO,
    )[1]


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
            null, source="x", num_generated=num_generated, level_cut=HIGH, measure=RATIO
        )[0].expected_false_matches

    assert expected(1000) == pytest.approx(FALSE_MATCHES)
    assert expected(10**6) == pytest.approx(10.0)


def test_the_cut_never_exceeds_the_published_level() -> None:
    far_apart = np.linspace(1.9, 2.0, 200)
    made, cut = calibrate(
        far_apart, source="leave-one-out", num_generated=300, level_cut=HIGH, measure=RATIO
    )
    assert made.confirmed_cut == cut == HIGH
    assert made.expected_false_matches < FALSE_MATCHES


def test_small_sets_say_which_rule_applied() -> None:
    reference = prepare(correlated_images(40, 0))
    assert "only 40 training images" in reference.caveat
    made, _ = calibrate(
        reference.null,
        source="leave-one-out",
        num_generated=300,
        level_cut=HIGH,
        measure=RATIO,
        caveat=reference.caveat,
    )
    assert made.tail_size == 20
    assert "--memscan-holdout" in made.rule


def test_a_similarity_is_calibrated_in_its_own_units() -> None:
    """The same numbers as dissimilarities: the cut is one minus theirs."""
    null = np.linspace(0.3, 0.9, 300)
    measure = Measure(name="cosine", word="similarity", higher_is_closer=True)
    settings = {"source": "held-out", "num_generated": 500, "level_cut": 0.4}
    as_ratio, cut = calibrate(null, **settings, measure=RATIO)  # type: ignore[arg-type]
    as_cosine, same_cut = calibrate(null, **settings, measure=measure)  # type: ignore[arg-type]
    assert same_cut == cut == as_ratio.confirmed_cut
    assert as_cosine.confirmed_cut == 1 - cut
    assert as_cosine.null_closest == pytest.approx(0.7)
    assert as_cosine.null_quantiles["0.5"] == pytest.approx(0.4)
    assert "similarity of at least" in as_cosine.rule
    assert as_cosine.false_match_probability == as_ratio.false_match_probability


def test_levels_of_a_null_are_reached_by_one_in_ten_hundred_and_thousand() -> None:
    null = 0.9 * np.random.default_rng(0).random(20_000) ** (1 / 6)  # P(d < r) = (r / 0.9) ** 6
    fresh = 0.9 * np.random.default_rng(1).random(200_000) ** (1 / 6)
    for level, share in zip(levels_of_null(null), (0.1, 0.01, 0.001), strict=True):
        assert (fresh <= level.cut).mean() == pytest.approx(share, rel=0.35)


def test_too_few_real_images_are_refused() -> None:
    with pytest.raises(ValueError, match="9 real images"):
        fit_null(np.linspace(1, 2, 9))
