"""Several fine-tunes as one result: every concept counts once, however many images it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from unit.reports.finetune_scans import CFG, CONCEPT, DIRECT, FINEXTRACT, MEASURE, lone_concept

from pytest_memscan.extraction_metrics import over_train_images
from pytest_memscan.results import ConceptScan, FinetuneScan, MethodScores
from pytest_memscan.scans.finetune_plan import Scanned
from pytest_memscan.scans.finetune_sets import PUBLISHED, combined

Best = Mapping[tuple[str, int], Sequence[float]]
KINDS = {"direct": DIRECT, "cfg": CFG, "finextract": FINEXTRACT}
# Best matches of three training images, and of two.
VASE: Best = {
    ("direct", 0): [0.2, 0.3, 0.4],
    ("cfg", 0): [0.5, 0.65, 0.2],
    ("finextract", 0): [0.9, 0.75, 0.3],
}
DOG: Best = {
    ("direct", 0): [0.1, 0.1],
    ("cfg", 0): [0.4, 0.6],
    ("finextract", 0): [0.65, 0.55],
}


def scores_of(key: tuple[str, int], best: Sequence[float], **changes: Any) -> MethodScores:
    of_train = over_train_images(best)
    return replace(
        KINDS[key[0]],
        settings=f"setting {key[1]}",
        num_images=100,
        num_extracted=len(best),
        average_similarity=of_train.average_similarity,
        esr_strict=of_train.esr_strict,
        esr_loose=of_train.esr_loose,
        num_copied=sum(value > 0.7 for value in best),
        num_copied_extracted=sum(value > 0.7 for value in best),
        denoiser_calls=1000,
        **changes,
    )


def scanned(best: Best, **changes: Any) -> Scanned:
    """One concept; nothing is read of its images here."""
    concept: ConceptScan = replace(
        CONCEPT,
        methods=tuple(scores_of(key, values) for key, values in best.items()),
        num_train=len(next(iter(best.values()))),
        num_copied=2,
        denoiser_calls=3000,
    )
    arrays = {key: np.array(values) for key, values in best.items()}
    nothing: Any = None
    return Scanned(concept=replace(concept, **changes), sampler=nothing, best=arrays)


def combine(*each: Scanned, descriptor: str = "builtin:copy") -> FinetuneScan:
    return combined(each, measure=MEASURE, descriptor=descriptor, provenance={"a": "b"})


def test_a_single_fine_tune_is_its_own_average() -> None:
    scan = combine(scanned(VASE))
    assert scan.average == scan.concepts[0].methods
    assert scan.denoiser_calls == 3000
    assert scan.provenance == {"a": "b"}
    assert {name: each.value for name, each in scan.metrics.items()} == {
        "copied_images": 2,
        "extracted_images": 2,  # 0.9 and 0.75
        "esr_strict": pytest.approx(2 / 3),
        "esr_loose": pytest.approx(2 / 3),
    }
    assert scan.metrics["copied_images"].lower == scan.metrics["copied_images"].upper == 2


def test_every_concept_counts_once_however_many_images_it_has() -> None:
    scan = combine(scanned(VASE), scanned(DOG))
    direct, cfg, finextract = scan.average
    assert direct.average_similarity.value == pytest.approx((0.3 + 0.1) / 2)
    assert cfg.average_similarity.value == pytest.approx((0.45 + 0.5) / 2)
    assert finextract.average_similarity.value == pytest.approx((0.65 + 0.6) / 2)
    assert finextract.esr_strict.value == pytest.approx((2 / 3 + 0) / 2)
    assert finextract.esr_loose.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert finextract.average_similarity.num_trials == 2
    estimate = finextract.average_similarity
    assert estimate.lower < 0.6 < estimate.value < estimate.upper
    # Counts are added.
    assert (finextract.num_images, finextract.num_extracted) == (200, 5)
    assert (finextract.num_copied, finextract.denoiser_calls) == (2, 2000)
    assert scan.metrics["copied_images"].value == 4
    assert scan.metrics["extracted_images"].value == 2
    assert scan.metrics["esr_strict"] == finextract.esr_strict
    assert scan.denoiser_calls == 6000


def test_only_what_all_concepts_have_is_averaged() -> None:
    """A fine-tune without a caption has no classifier-free guidance."""
    without = {key: value for key, value in DOG.items() if key[0] != "cfg"}
    scan = combine(scanned(VASE), scanned(without))
    assert [each.method for each in scan.average] == ["direct", "finextract"]
    assert scan.average[1].average_similarity.value == pytest.approx((0.65 + 0.6) / 2)


def test_of_several_settings_the_rate_is_that_of_the_one_that_extracts_most() -> None:
    two = {**VASE, ("finextract", 1): [0.9, 0.8, 0.75]}
    scan = combine(scanned(two))
    assert scan.metrics["esr_strict"].value == 1.0
    assert scan.metrics["extracted_images"].value == 3
    both = combine(scanned(two), scanned({**DOG, ("finextract", 1): [0.1, 0.1]}))
    assert both.metrics["esr_strict"].value == pytest.approx((1 + 0) / 2)
    assert [each.settings for each in both.average] == ["setting 0"] * 3 + ["setting 1"]


def test_settings_that_differ_between_kinds_of_fine_tunes_are_both_named() -> None:
    vase, dog = scanned(VASE), scanned(DOG)
    lora = tuple(replace(each, settings="w' 5") for each in dog.concept.methods)
    scan = combine(vase, replace(dog, concept=replace(dog.concept, methods=lora)))
    assert {each.settings for each in scan.average} == {"setting 0 or w' 5"}


def test_without_training_images_only_candidates_are_counted() -> None:
    lone = replace(lone_concept(), num_candidates=4)
    nothing: Any = None
    one = Scanned(concept=lone, sampler=nothing, best={})
    scan = combine(one, replace(one, concept=replace(lone, num_candidates=1)))
    assert {name: each.value for name, each in scan.metrics.items()} == {"extraction_candidates": 5}
    assert scan.average == ()


def test_a_note_has_the_paired_difference_with_its_interval() -> None:
    concepts = [scanned(VASE), scanned(DOG)]
    gains = np.array([0.65 - 0.45, 0.6 - 0.5])  # means over the images of each concept
    half = stats.t.ppf(0.95, 1) * gains.std(ddof=1) / np.sqrt(2)
    note = combine(*concepts).notes[-1]
    low, high = gains.mean() - half, gains.mean() + half
    assert f"{gains.mean():+.3f} [{low:+.3f}, {high:+.3f}] over 2 concepts" in note
    of_images = np.array([0.4, 0.1, 0.1])
    half = stats.t.ppf(0.95, 2) * of_images.std(ddof=1) / np.sqrt(3)
    note = combine(scanned(VASE)).notes[-1]
    low, high = 0.2 - half, 0.2 + half
    assert f"+0.200 [{low:+.3f}, {high:+.3f}] over 3 training images" in note


def test_numbers_of_another_descriptor_than_the_papers_say_so() -> None:
    assert "cannot be compared" in combine(scanned(VASE)).notes[0]
    notes = combine(scanned(VASE), descriptor=PUBLISHED).notes
    assert not any("cannot be compared" in note for note in notes)
    only = {("direct", 0): VASE["direct", 0], ("finextract", 0): VASE["finextract", 0]}
    assert combine(scanned(only), descriptor=PUBLISHED).notes == ()
