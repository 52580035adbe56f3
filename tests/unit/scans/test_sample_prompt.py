"""A prompt is sampled until its images decide, or the budget does."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from unit.scans.worlds import SIDE, Painter, World, distance, images_of, own_picture

from pytest_memscan.scans.carlini_prompts import (
    SampledPrompt,
    num_first,
    sample_prompt,
)
from pytest_memscan.scans.prompt_images import PromptImages
from pytest_memscan.sequential import Decision, StoppingRule

Pixels = NDArray[np.uint8]
PUBLISHED = StoppingRule()  # 10 of 500
SMALL = StoppingRule(clique_size=3, max_images=24, batch=4, copy_rate=0.4, miss_probability=0.05)
EDGE = 0.05  # a tenth of the distance of random pictures; copies are within 0.02
SHARE = 0.4  # below that of any random picture


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
