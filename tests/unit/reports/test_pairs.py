"""Pictures that the process that scanned keeps for the one that writes the report."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.reports import prompt_samples, prompt_scans, samples

from pytest_memscan.reports import pairs
from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.prompt_pictures import MAX_IMAGES, MAX_KEYS, MAX_PROMPTS, MAX_REPEATS
from pytest_memscan.results import KeyFinding, PromptFinding

TRAIN = np.stack([samples.picture(seed) for seed in range(150)])


def images_of(finding: PromptFinding) -> NDArray[np.uint8]:
    return np.stack([samples.picture(finding.prompt_id + seed) for seed in range(6)])


def mean_image_of(finding: KeyFinding) -> NDArray[np.uint8]:
    return samples.picture(finding.prompt_id)


def generated(sample_id: int) -> NDArray[np.uint8]:
    return samples.picture(sample_id)


@pytest.mark.parametrize("train", [TRAIN, None], ids=["known", "unknown"])
def test_memorised_prompts_come_back_with_their_images(
    tmp_path: Path, train: NDArray[np.uint8] | None
) -> None:
    findings = prompt_scans.prompt_findings()
    pairs.save_prompts(tmp_path / "prompts", findings, images_of, train)
    kept = pairs.load_prompts(tmp_path / "prompts")
    assert [each.finding for each in kept] == [each for each in findings if each.kind]
    for each in kept:
        np.testing.assert_array_equal(each.images, images_of(each.finding)[:MAX_IMAGES])
        if train is None or each.finding.train_id is None:
            assert each.train is None
        else:
            assert each.train is not None
            np.testing.assert_array_equal(each.train, train[each.finding.train_id])
    page = to_html(prompt_samples.leaky(), [], prompts=kept, images="blurred")
    assert "prompt#00017" in page
    assert page.count("data:image") == sum(
        len(each.images) + (each.train is not None) for each in kept
    )


@pytest.mark.parametrize("train", [TRAIN, None], ids=["known", "unknown"])
def test_flagged_keys_come_back_with_their_mean_images(
    tmp_path: Path, train: NDArray[np.uint8] | None
) -> None:
    findings = prompt_scans.key_scan().findings
    pairs.save_keys(tmp_path / "keys", findings, mean_image_of, train)
    kept = pairs.load_keys(tmp_path / "keys")
    assert [each.finding for each in kept] == list(findings[:3])
    for each in kept:
        np.testing.assert_array_equal(each.mean_image, mean_image_of(each.finding))
    known = train is not None
    assert [each.train is not None for each in kept] == [known, known, False]


def test_groups_of_repeats_come_back_with_their_first_images(tmp_path: Path) -> None:
    found = prompt_scans.repeats()
    pairs.save_repeats(tmp_path / "repeats", found, generated)
    kept = pairs.load_repeats(tmp_path / "repeats")
    assert [each.sample_ids for each in kept] == [
        group[:MAX_IMAGES] for group in found.largest[:MAX_REPEATS]
    ]
    assert [each.size for each in kept] == [21, 5, 5, 5, 5, 5]
    for each in kept:
        for sample_id, image in zip(each.sample_ids, each.images, strict=True):
            np.testing.assert_array_equal(image, generated(sample_id))
    page = to_html(prompt_samples.repeating(), [], repeats=kept, images="blurred")
    assert page.count("data:image") == MAX_REPEATS * MAX_IMAGES


def test_no_more_is_kept_than_a_report_draws(tmp_path: Path) -> None:
    finding, key = prompt_scans.VERBATIM, prompt_scans.key_scan().findings[0]
    prompts = [replace(finding, prompt_id=index) for index in range(MAX_PROMPTS + 3)]
    pairs.save_prompts(tmp_path / "prompts", prompts, images_of, None)
    assert len(pairs.load_prompts(tmp_path / "prompts")) == MAX_PROMPTS
    keys = [replace(key, prompt_id=index) for index in range(MAX_KEYS + 3)]
    pairs.save_keys(tmp_path / "keys", keys, mean_image_of, None)
    assert len(pairs.load_keys(tmp_path / "keys")) == MAX_KEYS


def test_a_prompt_without_images_is_passed_over(tmp_path: Path) -> None:
    def none(finding: PromptFinding) -> NDArray[np.uint8]:
        return np.empty((0, 16, 16, 3), np.uint8)

    pairs.save_prompts(tmp_path / "prompts", prompt_scans.prompt_findings(), none, TRAIN)
    assert pairs.load_prompts(tmp_path / "prompts") == []


def test_what_was_not_kept_is_empty(tmp_path: Path) -> None:
    assert pairs.load_prompts(tmp_path / "prompts") == []
    assert pairs.load_keys(tmp_path / "keys") == []
    assert pairs.load_repeats(tmp_path / "repeats") == []


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    pairs.save_prompts(tmp_path / "prompts", prompt_scans.prompt_findings(), images_of, TRAIN)
    pairs.save_keys(tmp_path / "keys", prompt_scans.key_scan().findings, mean_image_of, TRAIN)
    pairs.save_repeats(tmp_path / "repeats", prompt_scans.repeats(), generated)
    for name in ("prompts", "keys", "repeats"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700
