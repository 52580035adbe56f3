"""Which images are near-identical, wholly or in part, by thresholds that negatives give."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from unit.scans.worlds import (
    SIDE,
    distance,
    own_picture,
    random_picture,
    tiles_of,
)

from pytest_memscan.scans.carlini_prompts import (
    NEAR_IDENTICAL,
    SAME_PICTURE,
    edge_threshold,
    fixed_share,
    is_template,
    template_threshold,
)

Pixels = NDArray[np.uint8]
EDGE = 0.05  # a tenth of the distance of random pictures; copies are within 0.02
SHARE = 0.4  # below that of any random picture


def negatives(count: int, *, num_images: int = 4, seed: int = 0) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    return [np.stack([random_picture(rng) for _ in range(num_images)]) for _ in range(count)]


def share_of_fixed_tiles(images: Pixels) -> float:
    """From the definition, with the variance of each pixel on its own; a part is never all still.

    At most 1: what hardly varies at all has no part that is more fixed than the others.
    """
    spread = np.var(images / 255.0, axis=0)
    lowest = sorted(float(tile.mean()) for tile in tiles_of(spread))[:4]
    return min(1.0, max(sum(lowest) / 4, 1e-8) / float(spread.mean()))


# --- near-identical -----------------------------------------------------------------------------


def test_the_edge_is_a_tenth_of_the_median_distance_between_negatives() -> None:
    given = negatives(7)
    dim = [images // 4 for images in given]  # where the cap does not bind
    for each in (given, dim):
        pairs = itertools.combinations([images[0] for images in each], 2)
        typical = np.median([distance(one, other) for one, other in pairs])
        assert edge_threshold(each) == pytest.approx(min(0.15, 0.1 * typical), rel=1e-12)


def test_the_edge_is_never_above_what_is_called_the_same_picture() -> None:
    black, white = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 255, np.uint8)
    # Two thirds of the pairs are at distance 1, and a tenth of that is below the cap ...
    assert edge_threshold([black, white, white]) == pytest.approx(NEAR_IDENTICAL)
    # ... which is why it can only bind for another share.
    assert NEAR_IDENTICAL < SAME_PICTURE


@given(order=st.permutations(range(6)), seed=st.integers(0, 100))
def test_the_order_of_negatives_and_their_later_images_do_not_matter_to_the_edge(
    order: list[int], seed: int
) -> None:
    given = negatives(6, seed=seed)
    expected = edge_threshold(given)
    assert edge_threshold([given[index] for index in order]) == pytest.approx(expected)
    assert edge_threshold([images[:1] for images in given]) == expected


@given(seed=st.integers(0, 100), factor=st.integers(2, 5))
def test_the_edge_grows_with_the_contrast(seed: int, factor: int) -> None:
    faint = [images // 5 for images in negatives(6, seed=seed)]
    strong = [images * np.uint8(factor) for images in faint]
    assert edge_threshold(strong) == pytest.approx(factor * edge_threshold(faint))


def test_negatives_that_all_look_alike_give_no_edge() -> None:
    same = negatives(1) * 5
    with pytest.raises(ValueError, match="images of different prompts are equal"):
        edge_threshold(same)


# --- templates ----------------------------------------------------------------------------------

few_images = arrays(np.uint8, st.tuples(st.integers(2, 5), st.just(4), st.just(8), st.just(3)))


@given(images=few_images)
def test_the_fixed_share_is_the_variance_of_the_stillest_quarter(images: Pixels) -> None:
    if (images == images[0]).all():
        assert fixed_share(images) == 1.0
        return
    expected = share_of_fixed_tiles(images)
    assert fixed_share(images) == pytest.approx(expected, rel=1e-9)
    assert 0 < fixed_share(images) <= 1


@given(images=few_images, data=st.data())
def test_the_fixed_share_knows_no_order_of_images_or_tiles(
    images: Pixels, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(images))))
    columns = data.draw(st.permutations(range(4)))
    moved = np.concatenate([images[:, :, 2 * each : 2 * each + 2] for each in columns], axis=2)
    for other in (images[order], moved, 255 - images):
        assert fixed_share(other) == pytest.approx(fixed_share(images))


@given(seed=st.integers(0, 100), factor=st.integers(2, 5))
def test_the_fixed_share_knows_no_contrast(seed: int, factor: int) -> None:
    faint = negatives(1, seed=seed)[0] // 5
    assert fixed_share(faint * np.uint8(factor)) == pytest.approx(fixed_share(faint))


def test_a_share_is_never_above_one_however_little_differs() -> None:
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[0, 0, 0, 0] = 1
    assert 0 < fixed_share(images) <= 1


def test_by_hand_a_quarter_that_is_fixed_has_no_variance() -> None:
    images = np.zeros((2, 4, 4, 1), np.uint8)
    images[1, 1:] = 255
    assert fixed_share(images) == pytest.approx(0, abs=1e-6)
    images[1, 0] = 255
    images[1, 1] = 0  # another row, and one row more would not be enough
    assert fixed_share(images) == pytest.approx(0, abs=1e-6)
    images[1, 1] = 255
    assert fixed_share(images) == pytest.approx(1)


@pytest.mark.parametrize("num_prompts", [1, 10, 1000])
def test_the_template_threshold_is_a_prediction_of_log_shares(num_prompts: int) -> None:
    given = negatives(24)
    logs = np.log([share_of_fixed_tiles(images) for images in given])
    spread = logs.std(ddof=1) * math.sqrt(1 + 1 / 24)
    limit = math.exp(logs.mean() + spread * stats.t.ppf(0.05 / num_prompts, 23))
    assert template_threshold(given, num_prompts) == pytest.approx(limit, rel=1e-6)


def test_more_prompts_need_stiller_parts() -> None:
    given = negatives(24)
    limits = [template_threshold(given, number) for number in (0, 1, 10, 100, 10**4)]
    assert limits[0] == limits[1]
    assert limits[1:] == sorted(limits[1:], reverse=True)
    assert len(set(limits)) == 4


def test_hardly_a_random_prompt_looks_like_a_template() -> None:
    given = negatives(24, num_images=10)
    threshold = template_threshold(given, 100)
    others = negatives(400, num_images=10, seed=9)
    # Each with a chance of 0.05 / 100: 0.2 are to be expected, and three have one of 0.001.
    assert sum(fixed_share(images) < threshold for images in others) < 3


def with_top(noise: int, *, seed: int = 3) -> Pixels:
    """Ten random pictures with the same top row of tiles, but for noise."""
    rng = np.random.default_rng(seed)
    images = np.stack([random_picture(rng) for _ in range(10)])
    top = 100 + rng.integers(0, noise + 1, (10, SIDE // 4, SIDE, 3))
    images[:, : SIDE // 4] = top.astype(np.uint8)
    return images


@pytest.mark.parametrize(
    ("noise", "threshold", "expected"),
    [
        (0, SHARE, True),
        (2, SHARE, True),
        (2, 1e-6, False),  # fixed, but no more than chance explains
        (80, SHARE, False),  # less of the variance, but far from near-identical
    ],
)
def test_a_template_is_near_identical_in_part_and_by_no_chance(
    noise: int, threshold: float, expected: bool
) -> None:
    images = with_top(noise)
    assert is_template(images, edge=EDGE, threshold=threshold) is expected
    # The parts of two images are as far apart as the rule says, but for pairs with themselves.
    apart = [
        np.mean((tiles_of(one)[0] / 255 - tiles_of(other)[0] / 255) ** 2)
        for one, other in itertools.product(images, images)
    ]
    tile = np.var(tiles_of(np.moveaxis(images, 0, -1).reshape(SIDE, SIDE, -1))[0] / 255)
    assert np.mean(apart) <= 2 * tile + 1e-12


def test_random_and_equal_images_are_no_templates() -> None:
    assert not is_template(negatives(1, num_images=10)[0], edge=EDGE, threshold=SHARE)
    same = np.stack([own_picture(0)] * 10)
    assert not is_template(same, edge=EDGE, threshold=SHARE)
