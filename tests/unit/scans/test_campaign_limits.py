"""Budgets that end early, images and scores that cannot be used, and negatives that say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from unit.scans.campaigns import (
    CALLS_PER_IMAGE,
    MEMORISED,
    NUM_NEGATIVES,
    RULE,
    TEMPLATES,
    VERBATIM,
    WORLD,
    Detectors,
    kinds,
    scan,
    texts_of,
)
from unit.scans.worlds import Pixels, World, own_picture

from pytest_memscan.errors import PromptError
from pytest_memscan.scans.carlini_prompts import num_first
from pytest_memscan.scans.prompt_findings import Judged
from pytest_memscan.sequential import StoppingRule
from pytest_memscan.similarity.tiles import variance


def test_only_the_planned_prompts_are_looked_at() -> None:
    planned = [1, 5, 8, 9, 20, 33, 39]
    score = Detectors(suspicious=[5, 9, 30])
    world = World(rates={5: 1.0, 30: 1.0, 39: 1.0})
    judged = scan(world, texts_of(40), score=score, planned=planned)
    assert {each.prompt_id for each in judged.findings} <= set(planned)
    assert planned in score.asked
    assert judged.screening.num_screened == len(planned)
    assert {5, 39} >= set(kinds(judged)) >= {5}
    assert judged.prompts.calls.fixed_protocol == 7 * 24 * CALLS_PER_IMAGE
    by_id = {each.prompt_id: each for each in judged.findings}
    assert by_id[5].scores["early_spread"] == judged.campaign.scores.values["early_spread"][1]
    assert by_id[5].place == "line 6"


def cut_short(most: int, world: World = WORLD) -> Judged:
    return scan(world, texts_of(40), score=Detectors(), most=most)


@pytest.mark.parametrize("extra", [3, 30, 200])
def test_a_budget_is_kept_and_what_it_cuts_short_is_said(extra: int) -> None:
    of_negatives = 2 * NUM_NEGATIVES * num_first(RULE)
    judged = cut_short(of_negatives + extra)
    assert judged.prompts.images.planned <= of_negatives + extra
    open_ones = [each for each in judged.findings if not each.settled]
    assert judged.prompts.num_unsettled == len(open_ones)
    settled = {each.prompt_id for each in judged.given if each.route == "audit" and each.settled}
    assert judged.screening.num_audited == len(settled)
    full = scan(WORLD, texts_of(40), score=Detectors())
    # What was sampled is what would have been without a budget.
    assert settled <= {each.prompt_id for each in full.given if each.route == "audit"}


@pytest.mark.parametrize("extra", [0, 30, 200])
def test_what_was_not_sampled_to_an_end_may_be_memorised(extra: int) -> None:
    """Bounds on the leak rate hold although the budget ended anywhere."""
    everything = World(rates=dict.fromkeys(range(40), 1.0))
    judged = cut_short(2 * NUM_NEGATIVES * num_first(RULE) + extra, everything)
    rate = judged.prompts.metrics["prompt_leak_rate"]
    assert rate.lower <= 1.0 <= rate.upper
    assert judged.screening.miss_rate.upper == (judged.screening.num_escalated < 40)
    none = cut_short(2 * NUM_NEGATIVES * num_first(RULE) + extra, World())
    assert none.prompts.metrics["prompt_leak_rate"].lower == 0


def test_nothing_but_the_negatives_fits_the_budget() -> None:
    judged = cut_short(2 * NUM_NEGATIVES * num_first(RULE))
    assert {each.num_images for each in judged.findings} == {0}
    for each in judged.findings:
        assert (each.representative, each.fixed_share, each.clique_size) == (None, None, 0)
    assert judged.keys.num_keys == 0
    assert judged.prompts.metrics["prompt_leak_rate"].upper == 1.0


def test_a_prompt_without_a_valid_image_is_reported_and_breaks_nothing() -> None:
    world = World(rates={2: 1.0, 20: 1.0}, invalid=lambda text_id, _: text_id in (1, 20))
    judged = scan(world, texts_of(20, 2), score=Detectors(suspicious=[1, 2]))
    assert kinds(judged) == {2: "verbatim"}
    (bad,) = [e for e in judged.findings if e.prompt_id == 1 and e.route == "escalated"]
    assert (bad.settled, bad.num_images, bad.fixed_share) == (False, 0, None)
    assert judged.prompts.num_unsettled == 2
    assert judged.keys.num_canaries == 1  # of two: the other one cannot be measured
    images = judged.prompts.images
    assert images.invalid == {"not a number": 2 * RULE.max_images}
    assert images.valid == images.planned - 2 * RULE.max_images


def test_scores_that_are_no_numbers_are_no_part_of_a_result() -> None:
    inner = Detectors()

    def score(ids: list[int]) -> object:
        made = inner(ids)
        made.values["early_spread"][[text_id == 7 for text_id in ids]] = math.nan
        return made

    judged = scan(World(), texts_of(20), score=score)  # type: ignore[arg-type]
    assert judged.campaign.suspects.order[0] == 7
    (finding,) = [each for each in judged.findings if each.prompt_id == 7]
    assert finding.route == "escalated"
    assert list(finding.scores) == ["masked_early_spread"]


def test_spaces_that_some_images_do_not_have_are_left_out() -> None:
    def variances(pixels: Pixels) -> dict[str, float]:
        found = {"pixel": variance(pixels)}
        return found if pixels[0, 0, 0, 0] % 2 else {**found, "latent": 1 + found["pixel"]}

    judged = scan(WORLD, texts_of(20), score=Detectors(), variances=variances)
    assert {each.space for each in judged.keys.spaces} == {"pixel"}


# --- negatives ----------------------------------------------------------------------------------


def test_some_invalid_negatives_are_left_out() -> None:
    def bad(text_id: int, number: int) -> bool:
        return text_id in (20, 21, 40) and number == 2

    judged = scan(World(invalid=bad), texts_of(20), score=Detectors())
    assert judged.prompts.rule.num_negatives == 2 * NUM_NEGATIVES - 3
    assert {20, 21}.isdisjoint(judged.campaign.negatives.recombined)
    # Too few recombined ones alone: strings help out.
    assert len(judged.campaign.negatives.images) == 2 * NUM_NEGATIVES - 3


def test_too_few_valid_negatives_are_an_error() -> None:
    judged = scan(World(invalid=lambda text_id, _: text_id >= 31), texts_of(20), score=Detectors())
    with pytest.raises(PromptError, match="11 of 32 negatives give valid images, too few"):
        assert judged.prompts


@pytest.mark.parametrize("num_bad", [1, 10, 16])
def test_with_too_few_strings_single_words_are_held_against_prompts(num_bad: int) -> None:
    first = 20 + 2 + NUM_NEGATIVES
    world = World(invalid=lambda text_id, _: first <= text_id < first + num_bad)
    judged = scan(world, texts_of(20, 2), score=Detectors())
    assert {each.form for each in judged.keys.spaces} == {"prompts"}
    assert judged.keys.num_canaries == 2


def test_a_checkpoint_that_answers_everything_alike_is_an_error_of_one_sentence() -> None:
    class Same(World):
        def __call__(self, *_: object) -> Pixels:
            return own_picture(0)

    judged = scan(Same(), texts_of(20), score=Detectors())
    for result in ("prompts", "keys"):
        with pytest.raises(PromptError, match="answers every prompt alike"):
            getattr(judged, result)


def test_detectors_that_cannot_be_calibrated_are_an_error_of_one_sentence() -> None:
    inner = Detectors()

    def score(ids: list[int]) -> object:
        made = inner(ids)
        made.values["early_spread"][:] = 1.0
        return made

    judged = scan(World(), texts_of(20), score=score)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="no threshold can be calibrated"):
        assert judged.screening


def test_progress_names_what_is_done() -> None:
    told: list[tuple[str, int, int]] = []
    judged = scan(World(), texts_of(10, 1), score=Detectors())
    object.__setattr__(judged.campaign.tools, "progress", lambda *each: told.append(each))
    assert judged.prompts
    assert {name for name, _, _ in told} == {"negatives sampled", "prompts sampled"}
    negatives = [(done, total) for name, done, total in told if name == "negatives sampled"]
    assert negatives == [(done, 2 * NUM_NEGATIVES) for done in range(2 * NUM_NEGATIVES)]
    sampled = [(done, total) for name, done, total in told if name == "prompts sampled"]
    assert sampled == [(done, 11) for done in range(len(judged.findings))]


@pytest.mark.parametrize("batch", [1, 8, 24])
def test_any_batch_size_finds_the_same(batch: int) -> None:
    rule = StoppingRule(
        clique_size=3, max_images=24, batch=batch, copy_rate=0.4, miss_probability=0.05
    )
    world = World(rates=dict.fromkeys(VERBATIM, 1.0), templates=TEMPLATES)
    score = Detectors(suspicious=sorted(MEMORISED))
    judged = scan(world, texts_of(40), score=score, rule=rule)
    assert set(kinds(judged)) == MEMORISED
    assert judged.prompts.calls.negatives == (2 * NUM_NEGATIVES * num_first(rule) * CALLS_PER_IMAGE)


def test_controls_are_planted_in_the_images_of_the_negatives() -> None:
    class Smooth(World):
        """Colours that go from edge to edge, which survive JPEG; noise does not."""

        def __call__(self, text_id: int, number: int, rng: np.random.Generator) -> Pixels:
            left, right = rng.integers(0, 256, (2, 1, 1, 3))
            share = np.linspace(0, 1, 8)[None, :, None]
            return np.broadcast_to(left + share * (right - left), (8, 8, 3)).astype(np.uint8)

    copies, strings = scan(Smooth(), texts_of(20), score=Detectors()).prompts.controls
    assert (copies.name, copies.num_images, copies.passed) == ("copies", 2 * NUM_NEGATIVES, True)
    assert (strings.name, strings.num_images, strings.passed) == ("strings", NUM_NEGATIVES, True)
    ghosts = World(rates=dict.fromkeys(range(20 + NUM_NEGATIVES, 30 + NUM_NEGATIVES), 1.0))
    _, seen = scan(ghosts, texts_of(20), score=Detectors()).prompts.controls
    assert (seen.num_found, seen.passed) == (10, False)
