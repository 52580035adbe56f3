"""What the process that guided keeps for the report, and what JSON keeps."""

from __future__ import annotations

import json
import math
import stat
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.reports import samples, side_scans

from pytest_memscan.errors import MemscanError
from pytest_memscan.reports import json as report
from pytest_memscan.reports import pairs
from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.side_pictures import MAX_GUIDED
from pytest_memscan.results import (
    AccuracyAt,
    Gain,
    GuidedFinding,
    GuidedImages,
    RunResult,
    SideScan,
    SideVariant,
    SurrogateLabels,
    SurrogateTraining,
)

TRAIN = np.stack([samples.picture(seed, size=8) for seed in range(150)])


def pixels_of(variant: str, scale: float, sample_id: int) -> NDArray[np.uint8]:
    """Rows are shared by every guidance, so that an image takes all three to be told."""
    return samples.picture(1_000 * len(variant) + round(100 * scale) + sample_id)


def test_matches_come_back_beside_their_training_images(tmp_path: Path) -> None:
    scan = side_scans.leaky_scan()
    pairs.save_side(tmp_path / "side", scan, pixels_of, TRAIN)
    kept = pairs.load_side(tmp_path / "side")
    assert [each.found for each in kept] == list(scan.findings)
    for each in kept:
        finding = each.found.finding
        made = pixels_of(each.found.variant, each.found.scale, finding.sample_id)
        np.testing.assert_array_equal(each.generated, made)
        np.testing.assert_array_equal(each.train, TRAIN[finding.train_id])
    page = to_html(side_scans.leaky(), [], side=kept, images="blurred")
    assert page.count("data:image") == 2 * len(scan.findings)
    assert stat.S_IMODE((tmp_path / "side").stat().st_mode) == 0o700


def test_no_more_are_kept_than_are_drawn(tmp_path: Path) -> None:
    scan = side_scans.leaky_scan()
    many = replace(scan, findings=scan.findings[:1] * (MAX_GUIDED + 5))
    pairs.save_side(tmp_path, many, pixels_of, TRAIN)
    assert len(pairs.load_side(tmp_path)) == MAX_GUIDED


def test_without_pixels_of_the_training_images_nothing_is_kept(tmp_path: Path) -> None:
    pairs.save_side(tmp_path / "none", side_scans.leaky_scan(), pixels_of, None)
    assert not (tmp_path / "none").exists()
    assert pairs.load_side(tmp_path / "none") == []


@pytest.mark.parametrize("result", side_scans.every_kind(), ids=lambda r: r.sentence)
def test_a_run_comes_back_exactly_and_writes_the_same_bytes(result: RunResult) -> None:
    text = report.to_json(result)
    again = report.from_json(text)
    assert again == result
    assert isinstance(again.checks[0].side, SideScan)
    assert isinstance(again.checks[0].side.variants[0].labels, SurrogateLabels)
    assert report.to_json(again) == text
    for value in (result.checks[0], side_scans.scan_of(result)):
        assert report.load(report.dump(value), type(value)) == value


def test_an_infinite_ratio_is_written_as_a_string_that_json_allows() -> None:
    text = report.dump(side_scans.first_scan())

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    (variant,) = json.loads(text, parse_constant=refused)["variants"]
    assert variant["gain"]["ams"]["value"] == "Infinity"
    assert variant["gain"]["ams"]["lower"] == 13.1
    assert variant["gain"]["ums"]["upper"] == "Infinity"
    again = report.load(text, SideScan)
    assert again.variants[0].gain.ams.value == math.inf


@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_a_ratio_that_is_no_number_is_refused(number: float) -> None:
    scan = side_scans.leaky_scan()
    gain = replace(scan.variants[0].gain, ams=side_scans.ratio(number, 0.0, 1.0))
    broken = replace(scan, variants=(replace(scan.variants[0], gain=gain),))
    with pytest.raises(MemscanError, match=r"variants\[0\]\.gain\.ams\.value is -?(nan|inf)"):
        report.dump(broken)


@pytest.mark.parametrize("word", ["Infinity", "nan", "-inf"])
def test_elsewhere_a_string_is_no_way_around_finite_numbers(word: str) -> None:
    plain = json.loads(report.dump(side_scans.leaky_scan()))
    plain["plain"]["leak_rate"]["upper"] = word
    with pytest.raises(MemscanError, match=r"plain\.leak_rate\.upper is -?(nan|inf), not a finite"):
        report.load(json.dumps(plain), SideScan)


def test_the_schema_allows_infinite_ratios_and_nothing_else_infinite() -> None:
    definitions = report.json_schema()["$defs"]
    assert definitions["Gain"]["properties"]["ams"]["$ref"] == "#/$defs/Ratio"
    ratio, estimate = (definitions[name]["properties"] for name in ("Ratio", "Estimate"))
    assert ratio["value"]["anyOf"] == [{"type": "number"}, {"const": "Infinity"}]
    assert estimate["value"]["type"] == ratio["confidence"]["type"] == "number"
    assert set(ratio) == set(estimate)


def test_a_report_from_before_there_was_side_can_be_read() -> None:
    plain = json.loads(report.to_json(samples.failed()))
    for check in plain["checks"]:
        assert check.pop("side") is None
    assert report.from_json(json.dumps(plain)) == samples.failed()


def test_results_have_no_field_for_the_name_of_a_file() -> None:
    """A new field of text is a decision about privacy: this list is where it is taken."""
    allowed = {
        AccuracyAt: set(),
        Gain: set(),
        GuidedFinding: {"variant"},
        GuidedImages: set(),
        SideScan: {"name", "title"},
        SideVariant: {"name", "title"},
        SurrogateLabels: {"maker", "sentence"},
        SurrogateTraining: {"network"},
    }
    for kind, names in allowed.items():
        assert {each.name for each in fields(kind) if each.type == "str"} == names, kind
