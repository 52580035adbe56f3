"""Images of a memorised prompt repeat, wholly or in part, and it is left once that is known."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats
from unit.scans.worlds import SIDE, Painter, World, images_of, own_picture, random_picture

from pytest_memscan.scans.carlini_prompts import (
    NEAR_IDENTICAL,
    SAME_PICTURE,
    SampledPrompt,
    edge_threshold,
    fixed_share,
    is_template,
    num_first,
    sample_prompt,
    template_threshold,
)
from pytest_memscan.scans.prompt_images import PromptImages
from pytest_memscan.sequential import Decision, StoppingRule

Pixels = NDArray[np.uint8]
PUBLISHED = StoppingRule()  # 10 of 500
SMALL = StoppingRule(clique_size=3, max_images=24, batch=4, copy_rate=0.4, miss_probability=0.05)
EDGE = 0.05  # a tenth of the distance of random pictures; copies are within 0.02
SHARE = 0.4  # below that of any random picture


def negatives(count: int, *, num_images: int = 4, seed: int = 0) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    return [np.stack([random_picture(rng) for _ in range(num_images)]) for _ in range(count)]


def tiles_of(image: NDArray[np.generic]) -> list[NDArray[np.float64]]:
    """Sixteen parts, cut with plain slices, of an ``(height, width, channels)`` array."""
    rows = np.split(image.astype(float), 4, axis=0)
    return [tile for row in rows for tile in np.split(row, 4, axis=1)]


def distance(one: Pixels, other: Pixels) -> float:
    """Tiled L2 from its definition."""
    pairs = zip(tiles_of(one), tiles_of(other), strict=True)
    return max(math.sqrt(np.mean((a / 255 - b / 255) ** 2)) for a, b in pairs)


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


# --- sampling -----------------------------------------------------------------------------------


def sampled(
    world: World, *, rule: StoppingRule = PUBLISHED, text_id: int = 2, most: int | None = None
) -> tuple[SampledPrompt, PromptImages]:
    images = images_of(world, most=most)
    found = sample_prompt(images, text_id, rule=rule, edge=EDGE, template=SHARE)
    return found, images


def test_a_prompt_that_always_gives_its_picture_is_flagged_by_the_first_batch() -> None:
    found, images = sampled(World(rates={2: 1.0}))
    assert (found.decision, found.kind, found.is_settled) == (Decision.FLAG, "verbatim", True)
    assert found.num_images == images.asked == 10
    assert found.clique == tuple(range(1200, 1210))
    assert found.representative in found.clique
    pixels = [images.pixels_of(each) for each in found.clique]
    pairs = [distance(one, other) for one, other in itertools.combinations(pixels, 2)]
    assert found.clique_distance == pytest.approx(np.mean(pairs), rel=1e-9)
    means = [np.mean([distance(one, other) for other in pixels]) for one in pixels]
    assert found.representative == found.clique[int(np.argmin(means))]
    assert found.first is not None
    np.testing.assert_array_equal(found.first.pixels, pixels)


@pytest.mark.parametrize("rule", [PUBLISHED, SMALL])
def test_a_prompt_without_any_repeat_is_clean_at_the_first_boundary(rule: StoppingRule) -> None:
    found, images = sampled(World(), rule=rule)
    assert (found.decision, found.kind, found.is_settled) == (Decision.CLEAN, "", True)
    assert found.num_images == images.asked == rule.boundaries[0]
    assert len(found.clique) == 1
    assert found.clique_distance is None
    assert found.representative == 1200
    assert found.first is not None
    assert found.first.sample_ids.tolist() == list(range(1200, 1200 + num_first(rule)))


@pytest.mark.parametrize(("levels", "is_flagged"), [(7, True), (8, True), (9, False)])
def test_images_are_near_identical_up_to_the_edge_itself(levels: int, is_flagged: bool) -> None:
    """One tile differs by some levels between every two images, of which eight are the edge."""

    class Spot(World):
        def __call__(self, text_id: int, number: int, rng: np.random.Generator) -> Pixels:
            image = np.full((SIDE, SIDE, 3), 100, np.uint8)
            row, column = 2 * (number // 4), 2 * (number % 4)
            image[row : row + 2, column : column + 2] += np.uint8(levels)
            return image

    rule = StoppingRule(clique_size=3, max_images=3, batch=3, copy_rate=0.999)
    images = images_of(Spot())
    found = sample_prompt(images, 0, rule=rule, edge=8 / 255, template=1e-9)
    assert (found.kind == "verbatim") is is_flagged


def test_the_other_pictures_of_a_flagged_prompt_are_not_in_its_clique() -> None:
    found, images = sampled(World(rates={2: 0.5}))
    assert found.kind == "verbatim"
    assert len(found.clique) == 10 < found.num_images == images.asked
    for each in found.clique:
        assert distance(images.pixels_of(each), own_picture(2)) < 0.01


@pytest.mark.parametrize("rate", [0.15, 0.4, 0.7])
def test_decisions_come_as_often_and_as_late_as_the_rule_computes(rate: float) -> None:
    number = 150
    images = images_of(World(rates=dict.fromkeys(range(number), rate)), rows_per_text=24)
    found = [
        sample_prompt(images, text_id, rule=SMALL, edge=EDGE, template=1e-9)
        for text_id in range(number)
    ]
    flagged = sum(each.decision is Decision.FLAG for each in found)
    chance = SMALL.flag_probability_at(rate)
    assert abs(flagged - number * chance) <= 4 * math.sqrt(number * chance * (1 - chance)) + 1
    spent = np.array([each.num_images for each in found])
    error = spent.std() / math.sqrt(number)
    assert abs(spent.mean() - SMALL.expected_images(rate)) <= 4 * error + 0.01
    assert images.asked == spent.sum()


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64, 100, 500])
def test_a_template_ends_sampling_whatever_the_batch(batch: int) -> None:
    """With large batches the first look is late enough to call a prompt clean."""
    rule = StoppingRule(batch=batch)
    found, images = sampled(World(templates=[2]), rule=rule)
    assert (found.kind, found.is_template, found.is_settled) == ("template", True, True)
    assert found.num_images == images.asked == num_first(rule)


def test_first_images_are_whole_batches_and_enough_for_a_clique() -> None:
    sizes = {batch: num_first(StoppingRule(batch=batch)) for batch in (1, 3, 10, 11, 64, 500)}
    assert sizes == {1: 10, 3: 12, 10: 10, 11: 11, 64: 64, 500: 500}
    tight = StoppingRule(clique_size=10, max_images=10, batch=7, copy_rate=0.999)
    assert num_first(tight) == 10


def test_a_memorised_picture_is_verbatim_and_no_template() -> None:
    found, _ = sampled(World(rates={2: 1.0}), rule=StoppingRule(batch=100))
    assert (found.kind, found.is_template) == ("verbatim", False)


def test_a_template_is_seen_although_an_early_image_is_invalid() -> None:
    world = World(templates=[2], invalid=lambda _, number: number == 3)
    found, images = sampled(world)
    assert found.kind == "template"
    assert (found.num_images, images.asked) == (19, 20)
    assert found.first is not None
    assert len(found.first) == 10
    assert 1203 not in found.first.sample_ids


@pytest.mark.parametrize(("most", "num_images"), [(25, 20), (10, 10), (59, 50)])
def test_where_the_budget_ends_nothing_is_settled(most: int, num_images: int) -> None:
    found, images = sampled(World(), most=most)
    assert (found.decision, found.kind, found.is_settled) == (Decision.CONTINUE, "", False)
    assert found.num_images == images.asked == num_images


def test_without_any_budget_there_is_nothing_to_show() -> None:
    found, images = sampled(World(), most=9)
    assert (found.num_images, images.asked, found.is_settled) == (0, 0, False)
    assert (found.clique, found.representative, found.first) == ((), None, None)
    assert found.clique_distance is None


def test_invalid_images_alone_settle_nothing_and_break_nothing() -> None:
    found, images = sampled(World(rates={2: 1.0}, invalid=lambda *_: True))
    assert (found.num_images, found.is_settled, found.kind) == (0, False, "")
    assert (found.clique, found.representative, found.first) == ((), None, None)
    assert images.asked == 500


@pytest.mark.parametrize(
    "bad",
    [
        lambda _, number: number < 10,
        lambda _, number: 10 <= number < 20,
        lambda _, number: number % 2 == 0,
        lambda _, number: number % 10 != 7,
    ],
    ids=["first batch", "second batch", "every other", "most"],
)
def test_invalid_images_only_make_it_longer(bad: object) -> None:
    memorised, images = sampled(World(rates={2: 1.0}, invalid=bad))  # type: ignore[arg-type]
    assert memorised.kind == "verbatim"
    assert len(memorised.clique) == 10
    assert images.asked - sum(images.invalid.values()) == memorised.num_images
    clean, images = sampled(World(invalid=bad))  # type: ignore[arg-type]
    if memorised.num_images == 10 and images.asked == 500:  # one valid image in ten: 50 of them
        assert (clean.num_images, clean.is_settled) == (50, False)
    else:
        assert clean.decision is Decision.CLEAN
        assert clean.num_images >= 60


def test_images_are_asked_for_in_whole_batches_and_never_beyond_the_protocol() -> None:
    rule = StoppingRule(batch=64, max_images=200)
    world = World(invalid=lambda *_: True)
    painter = Painter(paint=world, rows_per_text=256)
    images = PromptImages(sampler=painter, rows_per_text=256)  # type: ignore[arg-type]
    sample_prompt(images, 1, rule=rule, edge=EDGE, template=SHARE)
    assert painter.made == list(range(256, 456))


@settings(max_examples=20)
@given(rate=st.floats(0, 1), seed=st.integers(0, 10**6), batch=st.integers(1, 12))
def test_every_outcome_agrees_with_itself(rate: float, seed: int, batch: int) -> None:
    rule = StoppingRule(
        clique_size=3, max_images=24, batch=batch, copy_rate=0.4, miss_probability=0.1
    )
    images = images_of(World(rates={0: rate}), seed=seed)
    found = sample_prompt(images, 0, rule=rule, edge=EDGE, template=SHARE)
    assert found.num_images == images.asked <= 24
    assert 1 <= len(found.clique) <= 3
    assert (found.decision is Decision.FLAG) is (len(found.clique) == 3)
    assert found.is_settled
    assert (found.clique_distance is None) is (len(found.clique) == 1)
    assert found.representative is not None
