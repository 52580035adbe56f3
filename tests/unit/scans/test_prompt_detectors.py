"""Detectors say where images are spent; the audit says what they miss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_memscan.detectors.run import Scores
from pytest_memscan.prompt_statistics import missed_share
from pytest_memscan.scans.prompt_detectors import (
    FALSE_ESCALATION,
    Suspects,
    choose_audit,
    find_suspects,
    screening_result,
)

NUM_NEGATIVES = 24


def scores(values: dict[str, Sequence[float]], **more: object) -> Scores:
    arrays = {name: np.array(each, dtype=np.float64) for name, each in values.items()}
    calls = dict.fromkeys([*values, "norm_alignment"], 8)
    return Scores(values=arrays, calls_alone=calls, **more)  # type: ignore[arg-type]


def spreads(number: int, *, seed: int = 0) -> list[float]:
    """Log-normal, as spreads over seeds are."""
    logs = np.random.default_rng(seed).normal(-3, 0.3, number)
    return [float(each) for each in np.exp(logs)]


def of_negatives(**more: Sequence[float]) -> Scores:
    both = {"early_spread": spreads(NUM_NEGATIVES), "masked_early_spread": spreads(24, seed=1)}
    return scores(both | more)


def p_of(value: float, null: Sequence[float], *, upper: bool = False) -> float:
    """Student-t prediction on logarithms; the negatives here have no outlier to set aside."""
    logs, side = np.log(null), -1 if upper else 1
    spread = logs.std(ddof=1) * math.sqrt(1 + 1 / len(logs))
    return float(stats.t.cdf(side * (math.log(value) - logs.mean()) / spread, len(logs) - 1))


def suspects_of(
    early: Sequence[float], masked: Sequence[float], **more: Sequence[float]
) -> Suspects:
    given = scores({"early_spread": early, "masked_early_spread": masked} | more)
    return find_suspects(given, of_negatives(**{name: spreads(24, seed=2) for name in more}))


def test_prompts_come_in_the_order_of_their_smaller_chance() -> None:
    early, masked = spreads(40, seed=5), spreads(40, seed=6)
    early[7], masked[30] = 1e-4, 1e-5
    found = suspects_of(early, masked)
    nulls = of_negatives().values
    p_values = [
        min(p_of(one, nulls["early_spread"]), p_of(other, nulls["masked_early_spread"]))
        for one, other in zip(early, masked, strict=True)
    ]
    assert list(found.order) == sorted(range(40), key=p_values.__getitem__)
    assert found.order[:2] == (30, 7)
    assert found.num_suspicious == sum(p < FALSE_ESCALATION / 2 for p in p_values)


def test_thresholds_are_where_a_negative_would_be_with_the_chance_that_is_split() -> None:
    found = suspects_of(spreads(10, seed=5), spreads(10, seed=6), denoising_confidence=spreads(10))
    by_name = {each.name: each for each in found.detectors}
    nulls = of_negatives(denoising_confidence=spreads(24, seed=2)).values
    for name, detector in by_name.items():
        upper = name == "denoising_confidence"
        assert detector.threshold is not None
        assert p_of(detector.threshold, nulls[name], upper=upper) == pytest.approx(0.025)
        assert detector.higher_is_memorised is upper
        assert detector.decides is not upper
        assert detector.num_negatives == NUM_NEGATIVES
        assert detector.calls_per_prompt == 8


def test_each_detector_counts_the_prompts_beyond_its_own_threshold() -> None:
    early, masked = spreads(30, seed=5), spreads(30, seed=6)
    early[3] = masked[4] = masked[5] = 1e-5
    found = suspects_of(early, masked)
    for each, values in zip(found.detectors, (early, masked), strict=True):
        assert each.threshold is not None
        assert each.num_above == sum(value < each.threshold for value in values)
    assert {3, 4, 5} <= set(found.order[: found.num_suspicious])


def test_a_prediction_that_is_not_a_number_is_most_suspicious() -> None:
    early, masked = spreads(10, seed=5), spreads(10, seed=6)
    early[2] = 1e-9
    early[6] = masked[6] = math.nan
    masked[8] = math.inf
    found = suspects_of(early, masked)
    assert found.order[:3] == (6, 8, 2)
    assert found.num_suspicious >= 3


def test_equally_suspicious_prompts_stay_in_their_order() -> None:
    found = suspects_of([0.05] * 6, [0.05] * 6)
    assert found.order == tuple(range(6))


def test_a_spread_of_nothing_is_most_suspicious_and_changes_nothing_else() -> None:
    early, masked = spreads(20, seed=5), spreads(20, seed=6)
    before = suspects_of(early, masked)
    early[before.order[-1]] = 0.0
    after = suspects_of(early, masked)
    assert after.order[0] == before.order[-1]
    assert after.order[1:] == before.order[:-1]


def test_other_detectors_decide_nothing() -> None:
    early, masked = spreads(20, seed=5), spreads(20, seed=6)
    alone = suspects_of(early, masked)
    loud = suspects_of(early, masked, denoising_confidence=[1e9] * 20)
    assert (loud.order, loud.num_suspicious) == (alone.order, alone.num_suspicious)
    assert loud.detectors[-1].num_above == 20


def test_the_magnitude_along_the_way_decides_alone_where_it_says_something() -> None:
    given = scores(
        {
            "early_spread": [1e-9, *spreads(4)],  # the lowest spread there is
            "masked_early_spread": spreads(5, seed=1),
            "early_noise_magnitude": [*spreads(4, seed=2), 1e9],
        }
    )
    found = find_suspects(given, of_negatives(early_noise_magnitude=spreads(24, seed=3)))
    assert found.order[0] == 4
    assert [each.name for each in found.detectors if each.decides] == ["early_noise_magnitude"]
    # One step of a flow model is at pure noise, where the magnitude is 0 for every prompt.
    silent = find_suspects(given, of_negatives(early_noise_magnitude=[0.0] * 24))
    assert silent.order[0] == 0
    assert {each.name for each in silent.detectors if each.decides} == {
        "early_spread",
        "masked_early_spread",
    }


def test_detectors_that_do_not_apply_are_carried_with_their_reason() -> None:
    given = scores(
        {"early_spread": spreads(3), "masked_early_spread": spreads(3)},
        not_applicable={"noise_magnitude": "distilled"},
    )
    last = find_suspects(given, of_negatives()).detectors[-1]
    assert (last.name, last.not_applicable) == ("noise_magnitude", "distilled")
    assert (last.threshold, last.calls_per_prompt, last.decides) == (None, 0, False)


def test_with_one_deciding_detector_the_whole_chance_is_its_own() -> None:
    given, null = scores({"early_spread": spreads(5)}), spreads(NUM_NEGATIVES)
    (detector,) = find_suspects(given, scores({"early_spread": null})).detectors
    assert detector.threshold is not None
    assert p_of(detector.threshold, null) == pytest.approx(FALSE_ESCALATION)


@pytest.mark.parametrize("null", [[1.0] * 24, [math.nan] * 24, spreads(3)])
def test_negatives_that_say_nothing_end_the_scan_only_where_that_decides(
    null: list[float],
) -> None:
    both = {"early_spread": spreads(5), "masked_early_spread": spreads(5, seed=1)}
    with pytest.raises(ValueError, match="negative"):
        find_suspects(scores(both), of_negatives(early_spread=null))
    given = scores({**both, "denoising_confidence": spreads(5)})
    found = find_suspects(given, of_negatives(denoising_confidence=null))
    silent = found.detectors[-1]
    assert (silent.threshold, silent.num_above) == (None, 0)
    assert found.order == find_suspects(scores(both), of_negatives()).order


def test_scores_below_zero_are_compared_too() -> None:
    rng = np.random.default_rng(0)
    parts = {"norm": rng.normal(1, 0.1, 24), "alignment": rng.normal(0, 0.1, 24)}
    negatives = Scores(values=of_negatives().values, parts=parts)
    high = {"norm": np.array([1.0, 2.0]), "alignment": np.array([0.0, 0.9])}
    given = scores({"early_spread": spreads(2), "masked_early_spread": spreads(2)}, parts=high)
    combined = find_suspects(given, negatives).detectors[-1]
    assert combined.name == "norm_alignment"
    assert combined.threshold is not None
    assert combined.num_above == 1


@given(values=st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=12), seed=st.integers(0, 50))
def test_less_spread_is_never_less_suspicious(values: list[float], seed: int) -> None:
    negatives = scores(
        {name: spreads(24, seed=seed) for name in ("early_spread", "masked_early_spread")}
    )
    found = find_suspects(
        scores({"early_spread": values, "masked_early_spread": values}), negatives
    )
    assert sorted(found.order) == list(range(len(values)))
    ordered = [values[place] for place in found.order]
    # Far out chances are all 0 or all 1 in floating point, and these keep their order.
    p_values = [p_of(value, spreads(24, seed=seed)) for value in ordered]
    assert all(one <= other + 1e-9 for one, other in pairwise(p_values))


# --- audit --------------------------------------------------------------------------------------


def smallest_audit(num_rest: int, *, num_prompts: int, limit: str) -> int:
    """By trying every size, from binomial coefficients, without rounding."""
    too_many = next(n for n in range(1, 10**6) if Fraction(n, num_prompts) > Fraction(limit))
    if too_many > num_rest:
        return 1
    for size in range(num_rest + 1):
        unseen = Fraction(math.comb(num_rest - too_many, size), math.comb(num_rest, size))
        if unseen <= Fraction(1, 20):
            return size
    raise AssertionError


@pytest.mark.parametrize("limit", ["0.01", "0.07", "0.1", "0.29", "0.5"])
@pytest.mark.parametrize("num_prompts", [1, 5, 20, 100, 333])
def test_the_audit_is_just_large_enough(limit: str, num_prompts: int) -> None:
    for num_rest in {1, num_prompts // 3, num_prompts // 2, num_prompts - 5, num_prompts}:
        if not 1 <= num_rest <= num_prompts:
            continue
        rest = range(1000, 1000 + num_rest)
        chosen = choose_audit(rest, num_prompts=num_prompts, limit=float(limit), seed=0)
        expected = smallest_audit(num_rest, num_prompts=num_prompts, limit=limit)
        assert len(chosen) == expected, num_rest
        # So that a clean audit keeps the limit for all prompts.
        share = missed_share(num_rest, len(chosen), 0)
        assert round(share.upper * num_rest) / num_prompts <= float(limit) or expected == 1


def test_nothing_left_needs_no_audit() -> None:
    assert choose_audit([], num_prompts=10, limit=0.1, seed=0) == []


@given(rest=st.sets(st.integers(0, 500), min_size=1), seed=st.integers(0, 2**32))
def test_the_audit_is_a_choice_that_only_the_seed_decides(rest: set[int], seed: int) -> None:
    ordered = sorted(rest)
    chosen = choose_audit(ordered, num_prompts=501, limit=0.1, seed=seed)
    assert len(set(chosen)) == len(chosen) <= len(rest)
    assert set(chosen) <= rest
    assert chosen == choose_audit(ordered[::-1], num_prompts=501, limit=0.1, seed=seed)


def test_every_prompt_is_audited_equally_often_and_at_any_place() -> None:
    """A budget may end an audit early; what was sampled by then is a random choice too."""
    drawn, first = np.zeros(20), np.zeros(20)
    for seed in range(2000):
        chosen = choose_audit(range(20), num_prompts=20, limit=0.2, seed=seed)
        drawn[chosen] += 1
        first[chosen[0]] += 1
    expected = drawn.sum() / 20
    assert np.abs(drawn - expected).max() < 4.5 * math.sqrt(expected)
    assert np.abs(first - 100).max() < 4.5 * 10


def test_screening_says_who_was_chosen_and_what_was_missed() -> None:
    suspects = Suspects(detectors=(), order=tuple(range(110)), num_suspicious=6)
    result = screening_result(suspects, num_escalated=10, num_audited=39, num_missed=0)
    assert (result.num_screened, result.num_suspicious, result.num_escalated) == (110, 6, 10)
    assert (result.num_audited, result.num_missed) == (39, 0)
    assert result.miss_rate.upper == 0.05  # the 39 of 100 of `audit_size`'s own example
    two = screening_result(suspects, num_escalated=10, num_audited=100, num_missed=2).miss_rate
    assert (two.lower, two.value, two.upper) == (0.02, 0.02, 0.02)
