"""Copies that steering found prompt by prompt: which prompts have to be scanned for a pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.gate.splitting_scans import count, prompted_scan, rate

from pytest_memscan.gate import judge_coverages, judge_splitting, judge_status
from pytest_memscan.gate.prompts import judge_unusable
from pytest_memscan.policy import parse_threshold, whole_policy
from pytest_memscan.results import Control, Estimate, PromptCoverage, Verdict

PASS, FAIL, INCONCLUSIVE, ERROR = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)
DEFAULTS = whole_policy((), {"rare"})
FOUND = count(3, 1, 5)
UNSEEN = "only 3 of 100 prompts were scanned; raise --memscan-budget, or give fewer with"


def coverage(**changes: Any) -> PromptCoverage:
    """All twelve prompts of a list."""
    whole = PromptCoverage(
        origin="captions.txt", is_probe=False, num_found=12, num_used=12, num_planned=12
    )
    return replace(whole, **changes)


def test_a_pass_says_what_an_ordinary_image_is() -> None:
    outcome = judge_splitting(prompted_scan(12, coverage()), DEFAULTS)
    assert outcome.verdict is PASS
    assert outcome.sentence == (
        "no training image is expected to be copied within 1,000,000 images: 256 trajectories of "
        "12 prompts were steered to at least 180 of 2,000 training images with each prompt, all "
        "screened; the 64 unsteered images alone exclude a leak rate above 4.57 % (95 % "
        "confidence); an ordinary image here is of one of the 12 prompts, each as often"
    )
    assert judge_status([outcome], DEFAULTS).verdict is PASS
    one = coverage(num_used=1, num_planned=1)
    sentence = judge_splitting(prompted_scan(1, one), DEFAULTS).sentence
    assert "256 trajectories of 1 prompt were steered to 180 of 2,000 training images, all" in (
        sentence
    )
    assert sentence.endswith("; an ordinary image here is of the one prompt scanned")


@pytest.mark.parametrize(
    ("extractable", "verdict"),
    [(count(0, 0, 0), INCONCLUSIVE), (count(2, 0, 4), INCONCLUSIVE), (FOUND, FAIL)],
    ids=["clean", "unclear", "found"],
)
def test_prompts_that_the_budget_did_not_reach_keep_it_from_passing(
    extractable: Estimate, verdict: Verdict
) -> None:
    scan = prompted_scan(3, coverage(num_used=100, num_planned=3), extractable=extractable)
    outcome = judge_splitting(scan, DEFAULTS)
    assert outcome.verdict is verdict
    assert outcome.sentence.startswith(UNSEEN) is (verdict is INCONCLUSIVE)
    told = "; an ordinary image here is of one of the 3 prompts, each as often"
    assert outcome.sentence.endswith(told) is (extractable.value > 0)
    # A user's own assertion would be about three prompts too.
    gaps = [sentence for each, sentence in judge_coverages(outcome) if each is not PASS]
    assert len(gaps) == 1
    assert gaps[0].startswith(UNSEEN)
    assert judge_status([outcome], DEFAULTS).verdict is INCONCLUSIVE


@pytest.mark.parametrize(
    ("num_scanned", "planned"), [(3, 12), (0, 12), (0, 0)], ids=["some", "none", "nothing given"]
)
def test_what_was_averaged_over_counts_and_not_what_was_planned(
    num_scanned: int, planned: int
) -> None:
    scan = prompted_scan(num_scanned, coverage(num_used=planned, num_planned=planned))
    outcome = judge_splitting(scan, DEFAULTS)
    assert outcome.verdict is INCONCLUSIVE
    assert f"only {num_scanned} of {planned} prompts were scanned" in outcome.sentence


def test_every_number_of_prompts_passes_only_where_none_is_left() -> None:
    for used in range(1, 5):
        for planned in range(used + 1):
            scan = prompted_scan(planned, coverage(num_used=used, num_planned=planned))
            expected = PASS if planned == used else INCONCLUSIVE
            assert judge_splitting(scan, DEFAULTS).verdict is expected, (used, planned)


def test_lines_that_could_not_be_read_are_told_as_for_any_prompts() -> None:
    prompts = coverage(unusable={"not UTF-8": ("line 3", "line 9")})
    outcome = judge_splitting(prompted_scan(12, prompts), DEFAULTS)
    assert outcome.verdict is PASS  # of those that were scanned
    assert judge_unusable("prompts", prompts) in list(judge_coverages(outcome))
    status = judge_status([outcome], DEFAULTS)
    assert status.verdict is INCONCLUSIVE
    assert "not every line of captions.txt could be used: 2 not UTF-8 (line 3" in status.sentence


def test_a_probe_list_that_nobody_asked_for_passes_nothing_and_still_fails() -> None:
    probe = coverage(origin="built-in probe list", is_probe=True, is_default=True)
    outcome = judge_splitting(prompted_scan(12, probe), DEFAULTS)
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.sentence.startswith("no training image is expected to be copied")
    assert "pass its captions with --memscan-prompts, or say --memscan-prompts builtin:probe" in (
        outcome.sentence
    )
    asked_for = replace(probe, is_default=False)
    assert judge_splitting(prompted_scan(12, asked_for), DEFAULTS).verdict is PASS
    found = judge_splitting(prompted_scan(12, probe, extractable=FOUND), DEFAULTS)
    assert found.verdict is FAIL
    assert "builtin:probe" not in found.sentence


def test_a_missed_control_says_nothing_of_prompts() -> None:
    missed = Control(
        name="re-encoded",
        sentence="copies are found",
        num_images=8,
        num_found=2,
        minimum_found=8,
        maximum_found=8,
    )
    scan = prompted_scan(3, coverage(num_used=100, num_planned=3), controls=(missed,))
    outcome = judge_splitting(scan, DEFAULTS)
    assert outcome.verdict is ERROR
    assert "prompt" not in outcome.sentence


@pytest.mark.parametrize(("num_tried", "verdict"), [(2000, PASS), (1999, INCONCLUSIVE)])
def test_a_bound_by_steering_needs_every_training_image_with_every_prompt(
    num_tried: int, verdict: Verdict
) -> None:
    line = parse_threshold("steered_leak_rate <= 0.000001")
    scan = prompted_scan(12, coverage(), num_tried=num_tried, leak_rate=rate(1e-9, 1e-10, 1e-8))
    outcome = judge_splitting(scan, [line])
    assert outcome.verdict is verdict
    if verdict is INCONCLUSIVE:
        assert "no trajectory of some prompt was steered to 1 of 2,000" in outcome.sentence
