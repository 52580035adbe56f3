"""What must match before two runs are compared, and that the same run always is comparable."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit import baseline_samples as samples
from unit.baseline_samples import LINES, carlini, compared, run
from unit.reports import finetune_scans, prompt_scans, side_scans, splitting_scans

from pytest_memscan.regression import compare
from pytest_memscan.results import (
    CheckOutcome,
    FinetuneScan,
    RunResult,
    Verdict,
)


@pytest.mark.parametrize("key", sorted(samples.PROVENANCE))
def test_everything_must_match_but_the_checkpoint_and_what_moves_last_bits(key: str) -> None:
    found = compared(carlini(), carlini(**{key.replace(" ", "_"): "other"}))
    if key in ("checkpoint", "checkpoint commit"):
        assert found.is_comparable
        assert not any("other" in each.test for each in found.changes)
    elif key in ("device", "diffusers", "torch", "pytest-memscan"):
        note = f"not the same in both: {key} {samples.PROVENANCE[key]} then, other now"
        assert found.is_comparable
        assert all(note in each.test for each in found.changes)
    else:
        assert found.differing == {key: (samples.PROVENANCE[key], "other")}
        assert not found.changes


def test_a_key_that_only_one_run_recorded_differs() -> None:
    found = compared(carlini(), carlini(levels="low 0.6"))
    assert found.differing == {"levels": ("not recorded", "low 0.6")}


def test_what_follows_from_other_training_images_is_not_told_besides() -> None:
    searched = "near-duplicates_searched"
    before = carlini(**{searched: "9 against all"})
    assert compared(before, carlini(**{searched: "8 against all"})).differing.keys() == {
        "near-duplicates searched"
    }
    other = carlini(**{searched: "8 against all", "training_images": "b"})
    assert compared(before, other).differing.keys() == {"training images"}


def test_a_report_of_another_schema_is_incomparable() -> None:
    before = replace(run(carlini()), schema_version=0)
    found = compare(before, [carlini()], LINES, source="b.json")
    assert found.differing == {"schema_version": ("0", "1")}


def test_a_metric_that_only_one_run_measured_is_named_with_its_check() -> None:
    found = compare(run(), [carlini()], LINES, source="b.json")
    assert found.differing == {
        "check carlini": ("measured nothing", "measured extracted, leak_rate")
    }
    found = compare(run(carlini()), [], ("leak_rate",), source="b.json")
    assert found.differing == {"check carlini": ("measured leak_rate", "measured nothing")}


def test_a_check_that_ended_in_an_error_measured_nothing() -> None:
    now = replace(carlini(), verdict=Verdict.ERROR)
    assert compared(carlini(), now).differing.keys() == {"check carlini"}


def test_equal_differences_of_two_checks_are_told_once() -> None:
    repeats = CheckOutcome(
        name="repeats",
        verdict=Verdict.PASS,
        sentence="",
        repeats=replace(prompt_scans.repeats(), provenance={"seed": "0", "steps": "50"}),
    )
    assert repeats.repeats is not None
    other = replace(
        repeats, repeats=replace(repeats.repeats, provenance={"seed": "1", "steps": "25"})
    )
    found = compare(
        run(carlini(), repeats),
        [carlini(seed="1", steps="10"), other],
        ("extracted", "repeated_groups"),
        source="b.json",
    )
    assert found.differing == {
        "seed": ("0", "1"),
        "steps": ("50", "10"),
        "repeats: steps": ("50", "25"),
    }


def every_scan() -> list[tuple[RunResult, tuple[str, ...]]]:
    """Every kind of check, with all that it measures."""
    base = run()
    prompts = CheckOutcome(
        name="carlini",
        verdict=Verdict.PASS,
        sentence="",
        prompt_scan=prompt_scans.prompt_scan(),
    )
    keys = CheckOutcome(
        name="extended_side", verdict=Verdict.PASS, sentence="", keys=prompt_scans.key_scan()
    )
    repeats = CheckOutcome(
        name="repeats", verdict=Verdict.PASS, sentence="", repeats=prompt_scans.repeats()
    )
    runs = [
        *side_scans.every_kind(),
        *splitting_scans.every_kind(),
        *splitting_scans.prompted_kinds(),
        *(replace(base, checks=(each,)) for each in (prompts, keys, repeats)),
        *(replace(base, checks=(each,)) for each in finetunes()),
    ]
    return [(each, tuple({m for check in each.checks for m in check.metrics})) for each in runs]


def finetunes() -> list[CheckOutcome]:
    leaky, clean = finetune_scans.CONCEPT, finetune_scans.clean_concept()
    lone = finetune_scans.lone_concept()
    made = [(leaky,), (clean, leaky), (lone,)]
    return [
        CheckOutcome(
            name="finextract",
            verdict=Verdict.PASS,
            sentence="",
            finetunes=finetune_scans.scan(*each),
        )
        for each in made
    ]


@pytest.mark.parametrize(("before", "metrics"), every_scan())
def test_the_same_checkpoint_is_never_an_increase(
    before: RunResult, metrics: tuple[str, ...]
) -> None:
    checks = [replace(each, verdict=Verdict.PASS) for each in before.checks]
    found = compare(replace(before, checks=tuple(checks)), checks, metrics, source="b.json")
    assert found.is_comparable
    assert {each.metric for each in found.changes} == set(metrics)
    assert not any(each.increased for each in found.changes)
    assert all((each.num_new or 0) == 0 for each in found.changes)


def test_a_steered_search_that_made_a_few_images_more_is_comparable() -> None:
    (before,) = [each for each in splitting_scans.leaky().checks if each.splitting]
    before = replace(before, verdict=Verdict.PASS)
    assert before.splitting is not None
    for factor, expected in ((1.2, set()), (1.3, {"planned images"})):
        coverage = replace(
            before.splitting.coverage,
            planned=int(factor * before.splitting.coverage.planned),
        )
        now = replace(before, splitting=replace(before.splitting, coverage=coverage))
        assert compared(before, now, ("extractable_images",)).differing.keys() == expected
        assert compared(before, now, ("steered_leak_rate",)).is_comparable


def test_side_without_one_of_its_variants_is_incomparable() -> None:
    (before,) = side_scans.leaky().checks
    before = replace(before, verdict=Verdict.PASS)
    assert before.side is not None
    fewer = replace(before, side=replace(before.side, variants=before.side.variants[:1]))
    assert compared(before, fewer, ("side_extracted",)).differing == {
        "SIDE variants": ("side_o, side_c, ol_ti", "side_o"),
    }


def test_a_set_of_fine_tunes_may_be_of_other_checkpoints_but_not_of_other_images() -> None:
    (before, *_) = finetunes()

    def with_own(**own: str) -> CheckOutcome:
        scan = before.finetunes
        assert isinstance(scan, FinetuneScan)
        named = {f"concept 1: {key.replace('_', ' ')}": value for key, value in own.items()}
        return replace(before, finetunes=replace(scan, provenance=scan.provenance | named))

    then = with_own(checkpoint="a", training_images="b")
    metrics = ("copied_images",)
    assert compared(then, with_own(checkpoint="c", training_images="b"), metrics).is_comparable
    assert compared(then, with_own(checkpoint="a", training_images="d"), metrics).differing == {
        "concept 1: training images": ("b", "d")
    }
