"""Verdicts on fine-tunes: what was copied, what can be trusted, and what was not looked at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from unit.reports import scans
from unit.reports.finetune_scans import CAPTIONS, CONCEPT, clean_concept, lone_concept, scan

from pytest_memscan.gate.finetunes import judge_finetune_coverage, judge_finetunes
from pytest_memscan.policy import Threshold, parse_threshold, whole_policy
from pytest_memscan.results import ConceptScan, Control, Estimate, Verdict

PASS, FAIL, INCONCLUSIVE, ERROR = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)
COPIES = whole_policy((), {"finetunes"})
CANDIDATES = whole_policy((), {"candidates"})
LEAKED = replace(CONCEPT, captions_note="")
CLEAN = replace(clean_concept(), captions_note="")
LONE = replace(lone_concept(), captions_note="", num_candidates=0, fit=LEAKED.fit)
MISSED = Control(
    name="jpeg",
    sentence="copies must be matched",
    num_images=10,
    num_found=3,
    minimum_found=9,
    maximum_found=10,
)


def written(*lines: str) -> tuple[Threshold, ...]:
    return tuple(parse_threshold(line, "--memscan-fail") for line in lines)


def with_candidates(concept: ConceptScan, count: int) -> Any:
    found = scan(replace(concept, num_candidates=count))
    return replace(found, metrics={"extraction_candidates": scans.count(count)})


# --- the verdict --------------------------------------------------------------------------------


def test_one_copied_image_fails_and_none_passes() -> None:
    outcome = judge_finetunes(scan(LEAKED), COPIES)
    assert (outcome.name, outcome.verdict) == ("finextract", FAIL)
    assert outcome.sentence == "copied_images is 4, over the limit of 0"
    assert outcome.finetunes == scan(LEAKED)
    outcome = judge_finetunes(scan(CLEAN), COPIES)
    assert (outcome.verdict, outcome.sentence) == (
        PASS,
        "copied_images is 0, within the limit of 0",
    )


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("copied_images <= 4", PASS),
        ("extracted_images <= 2", FAIL),
        ("extracted_images < 4", PASS),
        ("esr_strict <= 0.61", PASS),
        ("esr_strict <= 0.05", FAIL),
        ("esr_strict <= 0.3", INCONCLUSIVE),
    ],
)
def test_lines_that_were_written_are_judged_instead(line: str, verdict: Verdict) -> None:
    outcome = judge_finetunes(scan(LEAKED), whole_policy(written(line), {"finetunes"}))
    assert outcome.verdict is verdict
    assert [each.expression for each in outcome.thresholds] == [line]


def test_rates_are_of_training_images_or_of_concepts() -> None:
    lines = written("esr_strict <= 0.05")
    one, two = judge_finetunes(scan(LEAKED), lines), judge_finetunes(scan(LEAKED, CLEAN), lines)
    assert "of 10 training images" in one.sentence
    assert "concepts" in two.sentence


def test_lines_on_other_subjects_are_not_judged_here() -> None:
    lines = written("extracted <= 0", "memorised_prompts <= 0", "copied_images <= 9")
    outcome = judge_finetunes(scan(LEAKED), lines)
    assert [each.expression for each in outcome.thresholds] == ["copied_images <= 9"]
    assert outcome.verdict is PASS


def test_a_guessed_caption_never_passes_and_fails_all_the_same() -> None:
    doubtful = replace(CLEAN, captions_note="the caption is a guess from widget in README.md")
    outcome = judge_finetunes(scan(doubtful), COPIES)
    assert outcome.verdict is INCONCLUSIVE
    assert "is a guess from widget in README.md" in outcome.sentence
    assert "--memscan-prompts builtin:none" in outcome.sentence
    leaked = replace(LEAKED, captions_note=doubtful.captions_note)
    outcome = judge_finetunes(scan(leaked), COPIES)
    assert (outcome.verdict, "guess" in outcome.sentence) == (FAIL, False)


def test_a_base_with_unrelated_weights_never_passes_and_fails_all_the_same() -> None:
    fit = replace(CLEAN.fit, warning="the weights are unrelated")
    outcome = judge_finetunes(scan(CLEAN, replace(CLEAN, name="./second", fit=fit)), COPIES)
    assert outcome.verdict is INCONCLUSIVE
    assert "./second: the weights are unrelated" in outcome.sentence
    assert "--memscan-base" in outcome.sentence
    assert judge_finetunes(scan(replace(LEAKED, fit=fit)), COPIES).verdict is FAIL


def test_too_few_images_never_pass_and_fail_all_the_same() -> None:
    few = replace(CLEAN, num_images=20, shown_rate=0.233, wanted_rate=0.02)
    outcome = judge_finetunes(scan(few), written("copied_images <= 0"))
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert "20 images only show that none comes up in 23.3 % of them or more" in outcome.sentence
    assert "--memscan-budget" in outcome.sentence
    enough = replace(few, shown_rate=0.02)
    passed = judge_finetunes(scan(enough), written("copied_images <= 0"))
    assert passed.verdict is Verdict.PASS
    leaks = replace(LEAKED, shown_rate=0.5, wanted_rate=0.02)
    failed = judge_finetunes(scan(leaks), written("copied_images <= 0"))
    assert failed.verdict is Verdict.FAIL


def test_a_guessed_caption_of_one_concept_is_enough_and_it_is_named() -> None:
    doubtful = replace(CLEAN, name="./second", captions_note="no caption is known")
    outcome = judge_finetunes(scan(CLEAN, doubtful), COPIES)
    assert outcome.verdict is INCONCLUSIVE
    assert "./second: " in outcome.sentence


def test_without_training_images_nothing_found_is_no_pass_unless_it_was_asked_for() -> None:
    outcome = judge_finetunes(with_candidates(LONE, 0), CANDIDATES)
    assert outcome.verdict is INCONCLUSIVE
    assert "--memscan-train-data" in outcome.sentence
    line = written("extraction_candidates <= 0")
    assert judge_finetunes(with_candidates(LONE, 0), line).verdict is PASS
    for lines in (CANDIDATES, line):
        outcome = judge_finetunes(with_candidates(LONE, 2), lines)
        assert outcome.verdict is FAIL
        assert outcome.sentence == "extraction_candidates is 2, over the limit of 0"


@pytest.mark.parametrize("concept", [LEAKED, CLEAN])
def test_a_missed_control_is_an_error_whatever_was_found(concept: ConceptScan) -> None:
    untrusted = replace(concept, controls=(*concept.controls, MISSED))
    outcome = judge_finetunes(scan(untrusted), COPIES)
    assert outcome.verdict is ERROR
    assert "copies must be matched, but 3 of 10 were (control jpeg)" in outcome.sentence
    second = judge_finetunes(scan(LEAKED, replace(untrusted, name="./second")), COPIES)
    assert (second.verdict, "./second: " in second.sentence) == (ERROR, True)


def test_nothing_measured_of_what_is_limited_is_not_a_pass() -> None:
    nothing = replace(scan(CLEAN), metrics={"copied_images": Estimate(value=0, lower=0, upper=1)})
    assert judge_finetunes(nothing, COPIES).verdict is INCONCLUSIVE
    assert judge_finetunes(replace(nothing, metrics={}), COPIES).verdict is Verdict.NOT_RUN


# --- coverage -----------------------------------------------------------------------------------


def coverage(*concepts: ConceptScan) -> list[tuple[Verdict, str]]:
    return list(judge_finetune_coverage(scan(*concepts)))


def test_coverage_is_judged_concept_by_concept() -> None:
    lost = replace(
        CLEAN,
        name="./second",
        images=replace(CLEAN.images, train_unusable={"not an image": ("a.png",)}, train_found=5000),
    )
    fine = replace(
        CLEAN, images=replace(CLEAN.images, planned=900, generated=900, train_unusable={})
    )
    (first, of_first), (second, of_second) = coverage(fine, lost)
    assert (first, second) == (PASS, INCONCLUSIVE)
    assert "900 of 900 images compared" in of_first
    assert of_second.startswith("./second: ")
    assert "not every training image was compared" in of_second
    ((verdict, alone),) = coverage(fine)
    assert (verdict, alone) == (PASS, "900 of 900 images compared")


@pytest.mark.parametrize(("invalid", "verdict"), [(80, INCONCLUSIVE), (800, ERROR)])
def test_images_that_cannot_be_judged_are_a_gap(invalid: int, verdict: Verdict) -> None:
    images = replace(
        CLEAN.images, planned=900, generated=900, valid=900 - invalid, invalid={"black": invalid}
    )
    ((found, sentence),) = coverage(replace(CLEAN, images=images))
    assert found is verdict
    assert f"{invalid} of 900 generated images cannot be judged" in sentence


def test_caption_lines_that_cannot_be_read_are_a_gap() -> None:
    prompts = replace(CAPTIONS, unusable={"not UTF-8": ("line 3",)})
    ((verdict, sentence),) = coverage(replace(CLEAN, prompts=prompts))
    assert verdict is INCONCLUSIVE
    assert "line 3" in sentence


def test_a_search_that_was_cut_short_may_have_missed_candidates_but_no_copies() -> None:
    def cut(concept: ConceptScan, *, proven: bool = False) -> list[tuple[Verdict, str]]:
        return coverage(replace(concept, clustering=replace(concept.clustering, is_proven=proven)))

    ((verdict, sentence),) = cut(LONE)
    assert verdict is Verdict.INCONCLUSIVE
    assert "--memscan-train-data" in sentence
    assert cut(LONE, proven=True) == [(PASS, "500 of 500 images compared")]
    ((verdict, sentence),) = cut(replace(LEAKED, images=LONE.images))
    assert verdict is PASS
    assert "does not depend on it" in sentence
