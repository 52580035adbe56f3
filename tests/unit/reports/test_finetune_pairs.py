"""Pictures of fine-tunes on their way to the report, what JSON keeps, and what stays private."""

from __future__ import annotations

import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.reports import finetune_samples, finetune_scans, samples, scans

from pytest_memscan.reports import json as report
from pytest_memscan.reports import pairs, terminal
from pytest_memscan.reports.finetune_text import candidates
from pytest_memscan.reports.html import to_html
from pytest_memscan.results import (
    Clustering,
    ConceptScan,
    Duplicates,
    ExtractedImage,
    FinetuneScan,
    Fit,
    MethodScores,
    RunResult,
    TrainMatch,
)

SECRET = "alice-at-the-clinic"  # noqa: S105  # a marker, not a password


def generated(concept: int, sample_id: int) -> NDArray[np.uint8]:
    return samples.picture(1000 * (concept + 1) + sample_id)


def train(concept: int) -> NDArray[np.uint8]:
    return np.stack([samples.picture(100 * concept + index) for index in range(10)])


def nothing(concept: int) -> None:
    """No training images are known."""


def test_extracted_images_come_back_beside_their_training_images(tmp_path: Path) -> None:
    result = finetune_samples.several()
    scan = finetune_samples.scan_of(result)
    pairs.save_finetunes(tmp_path / "finetunes", scan, generated, train)
    kept = pairs.load_finetunes(tmp_path / "finetunes")
    expected = [
        (position, each.sample_id, each.train_id)
        for position, concept in enumerate(scan.concepts)
        for each in candidates(concept)
    ]
    assert [(each.concept, each.sample_id, each.train_id) for each in kept] == expected
    for each in kept:
        assert each.train is not None
        np.testing.assert_array_equal(each.generated, generated(each.concept, each.sample_id))
        np.testing.assert_array_equal(each.train, train(each.concept)[each.train_id])
    page = to_html(result, [], finetunes=kept, images="blurred")
    assert page.count("data:image") == 2 * len(kept)
    assert stat.S_IMODE((tmp_path / "finetunes").stat().st_mode) == 0o700


def test_without_training_images_the_generated_ones_are_kept(tmp_path: Path) -> None:
    for name, result in (("lone", finetune_samples.lone()), ("hidden", finetune_samples.leaky())):
        scan = finetune_samples.scan_of(result)
        pairs.save_finetunes(tmp_path / name, scan, generated, nothing)
        kept = pairs.load_finetunes(tmp_path / name)
        assert len(kept) == len(candidates(scan.concepts[0]))
        assert all(each.train is None for each in kept)
        page = to_html(result, [], finetunes=kept, images="clear")
        assert page.count("data:image") == len(kept)


def test_what_was_not_kept_is_empty(tmp_path: Path) -> None:
    assert pairs.load_finetunes(tmp_path / "finetunes") == []


def test_copies_come_first_and_those_that_clustering_passed_over_are_among_them() -> None:
    found = candidates(finetune_scans.CONCEPT)
    assert [(each.sample_id, each.train_id, each.is_copy) for each in found[:5]] == [
        (17, 3, True),
        (114, 0, True),
        (308, 4, True),
        (499, 8, True),
        (211, 7, False),
    ]
    assert [each.sample_id for each in found if each.extracted is None] == [499]
    assert {each.sample_id for each in found} == {
        *(each.sample_id for each in finetune_scans.LEAKED),
        499,
    }


def test_a_training_image_that_an_extracted_image_copies_too_is_not_shown_twice() -> None:
    concept = finetune_scans.CONCEPT
    matches = tuple(
        replace(each, extracted_similarity=0.75, best_similarity=0.95) for each in concept.matches
    )
    assert [
        each for each in candidates(replace(concept, matches=matches)) if not each.extracted
    ] == []


@pytest.mark.parametrize("result", finetune_samples.every_kind(), ids=lambda r: r.checkpoint)
def test_a_run_comes_back_exactly_and_writes_the_same_bytes(result: RunResult) -> None:
    text = report.to_json(result)
    again = report.from_json(text)
    assert again == result
    assert isinstance(again.checks[0].finetunes, FinetuneScan)
    assert report.to_json(again) == text


def test_files_named_after_somebody_are_not_shown() -> None:
    concept = finetune_scans.clean_concept()
    names = (f"{SECRET}.txt line 7", f"{SECRET}/{SECRET}.png")
    prompts = replace(finetune_scans.CAPTIONS, unusable={"empty": names})
    images = replace(concept.images, train_unusable={"not an image": names})
    concept = replace(concept, prompts=prompts, images=images)
    result = finetune_samples.clean()
    check = replace(result.checks[0], finetunes=finetune_scans.scan(concept, concept))
    for checks in ((check,), (replace(check, finetunes=finetune_scans.scan(concept)),)):
        planted = replace(result, checks=checks)
        for verbosity in (0, 1, 2):
            lines = terminal.summary_lines(planted, verbosity=verbosity, width=120)
            assert SECRET not in "\n".join(lines)
        assert SECRET not in to_html(planted, [], images="clear")


def test_results_have_no_field_for_what_a_caption_says() -> None:
    """A new field of text is a decision about privacy: this list is where it is taken."""
    allowed = {
        MethodScores: {"method", "settings"},
        ExtractedImage: set(),
        TrainMatch: set(),
        Clustering: {"rule", "sentence"},
        Fit: {"kind", "base", "base_origin", "warning", "adapter"},
        ConceptScan: {
            "name",
            "captions",
            "captions_origin",
            "captions_note",
            "stopped",
            "cut_sentence",
        },
        FinetuneScan: {"title"},
    }
    for kind, names in allowed.items():
        assert {each.name for each in fields(kind) if each.type == "str"} == names, kind


def test_findings_and_groups_of_duplicates_come_back_too(tmp_path: Path) -> None:
    findings = [scans.finding(index) for index in range(3)]
    images = np.stack([samples.picture(seed) for seed in range(scans.NUM_TRAIN)])
    pairs.save_pairs(tmp_path / "pairs", findings, samples.picture, images)
    kept = pairs.load_pairs(tmp_path / "pairs")
    assert [each.finding for each in kept] == findings
    for each in kept:
        np.testing.assert_array_equal(each.generated, samples.picture(each.finding.sample_id))
        np.testing.assert_array_equal(each.train, images[each.finding.train_id])
    duplicates = Duplicates(
        num_images=scans.NUM_TRAIN,
        num_groups=2,
        num_redundant=6,
        num_identical=0,
        num_searched=scans.NUM_TRAIN,
        largest=((4, 9, 2, 7, 5, 6), (1, 3)),
        measure="normalised L2",
    )
    pairs.save_groups(tmp_path / "groups", duplicates, images)
    groups = pairs.load_groups(tmp_path / "groups")
    assert [(each.train_ids, each.size) for each in groups] == [((4, 9, 2, 7), 6), ((1, 3), 2)]
    np.testing.assert_array_equal(groups[1].images, images[[1, 3]])
    pairs.save_pairs(tmp_path / "none", findings, samples.picture, None)
    pairs.save_groups(tmp_path / "none", duplicates, None)
    assert not (tmp_path / "none").exists()
