"""What the process that steered keeps for the report, and what JSON keeps."""

from __future__ import annotations

import json
import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from unit.reports import samples, splitting_scans

from pytest_memscan.errors import MemscanError
from pytest_memscan.reports import json as report
from pytest_memscan.reports import pairs
from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.splitting_pictures import MAX_PICTURES
from pytest_memscan.results import CheckOutcome, RateAt, RunResult, SplittingScan, SteeredCopy

TRAIN = np.stack([samples.picture(seed, size=8) for seed in range(150)])


def test_copies_come_back_beside_their_training_images(tmp_path: Path) -> None:
    scan = splitting_scans.leaky_scan()
    pairs.save_splitting(tmp_path / "splitting", scan, samples.picture, TRAIN)
    kept = pairs.load_splitting(tmp_path / "splitting")
    assert [each.finding for each in kept] == [each.finding for each in scan.copies]
    for each in kept:
        np.testing.assert_array_equal(each.steered, samples.picture(each.finding.sample_id))
        np.testing.assert_array_equal(each.train, TRAIN[each.finding.train_id])
    page = to_html(splitting_scans.leaky(), [], splitting=kept, images="blurred")
    assert page.count("data:image") == 2 * len(scan.copies)
    assert stat.S_IMODE((tmp_path / "splitting").stat().st_mode) == 0o700


def test_no_more_are_kept_than_are_drawn(tmp_path: Path) -> None:
    scan = splitting_scans.leaky_scan()
    many = replace(scan, copies=scan.copies[:1] * (MAX_PICTURES + 5))
    pairs.save_splitting(tmp_path, many, samples.picture, TRAIN)
    assert len(pairs.load_splitting(tmp_path)) == MAX_PICTURES


def test_without_pixels_of_the_training_images_nothing_is_kept(tmp_path: Path) -> None:
    scan = splitting_scans.leaky_scan()
    pairs.save_splitting(tmp_path / "none", scan, samples.picture, None)
    assert not (tmp_path / "none").exists()
    assert pairs.load_splitting(tmp_path / "none") == []


@pytest.mark.parametrize("result", splitting_scans.every_kind(), ids=lambda r: str(r.verdict))
def test_a_run_comes_back_exactly_and_writes_the_same_bytes(result: RunResult) -> None:
    text = report.to_json(result)
    again = report.from_json(text)
    assert again == result
    assert isinstance(again.checks[0].splitting, SplittingScan)
    assert report.to_json(again) == text
    for value in (result.checks[0], splitting_scans.scan_of(result)):
        assert report.load(report.dump(value), type(value)) == value


def test_a_report_from_before_there_was_steering_can_be_read() -> None:
    plain = json.loads(report.to_json(samples.failed()))
    for check in plain["checks"]:
        assert check.pop("splitting") is None
    assert report.from_json(json.dumps(plain)) == samples.failed()


def test_a_rate_that_is_not_a_number_is_refused() -> None:
    scan = splitting_scans.leaky_scan()
    broken = replace(scan, leak_rate=splitting_scans.rate(float("nan"), 0.0, 1.0))
    with pytest.raises(MemscanError, match=r"leak_rate\.value is nan, not a finite number"):
        report.dump(broken)


def test_metrics_of_the_scan_are_those_of_the_check() -> None:
    (check,) = splitting_scans.leaky().checks
    assert isinstance(check, CheckOutcome)
    assert set(check.metrics) == {"extractable_images", "steered_leak_rate"}
    assert check.coverage == splitting_scans.leaky_scan().coverage


def test_results_have_no_field_for_the_name_of_a_file() -> None:
    """A new field of text is a decision about privacy: this list is where it is taken."""
    allowed = {
        SteeredCopy: set(),
        RateAt: set(),
        SplittingScan: {"name", "title", "sampler", "degenerate"},
    }
    for kind, names in allowed.items():
        assert {each.name for each in fields(kind) if each.type == "str"} == names, kind
