"""What a release team keeps and compares: formats, baselines, waivers, the policy in effect."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from safetensors.numpy import load_file

from pytest_memscan.reports.json import from_json
from pytest_memscan.reports.leaks import leaks_of
from pytest_memscan.results import RunResult
from pytest_memscan.waivers import utc_today

from .conftest import Gate, read_report

FIXTURES = Path(__file__).parents[2] / "fixtures"
FORMATS = ("html", "sarif", "md", "model-card")
EVERY_FORMAT = tuple(f"--memscan-report={kind}" for kind in FORMATS)


@dataclass(frozen=True)
class Releases:
    """Two checkpoints of one network and one set of training images, as options."""

    untrained: tuple[str, str]
    leaky: tuple[str, str]


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    """builtin:leaky, and its network before it learnt anything."""
    leaky, untrained = tmp_path / "leaky", tmp_path / "untrained"
    shutil.copytree(FIXTURES / "leaky", leaky)
    (pixels,) = load_file(leaky / "train_images.safetensors").values()
    np.savez(tmp_path / "images.npz", images=pixels)
    shutil.copytree(leaky, untrained)
    torch.manual_seed(0)
    config = UNet2DModel.load_config(untrained / "unet")
    UNet2DModel.from_config(config).save_pretrained(untrained / "unet")
    images = f"--memscan-train-data={tmp_path / 'images.npz'}"
    return Releases(untrained=(str(untrained), images), leaky=(str(leaky), images))


def result_of(folder: Path) -> RunResult:
    return from_json((folder / ".memscan" / "report.json").read_text())


def check_of(folder: Path, name: str) -> dict[str, Any]:
    (check,) = (each for each in read_report(folder)["checks"] if each["name"] == name)
    return dict(check)


def waive(folder: Path, ids: list[str], expires: str) -> None:
    entries = [
        f'[[suppress]]\nid = "{each}"\nreason = "a test chart"\nexpires = {expires}\n'
        for each in ids
    ]
    (folder / "memscan.toml").write_text("\n".join(entries))


def test_a_worse_checkpoint_fails_against_its_baseline(
    gate: Gate, pytester: pytest.Pytester, releases: Releases
) -> None:
    saved = gate(*releases.untrained, "--memscan-save-baseline=baseline.json")
    assert saved.ret == 0
    saved.stdout.fnmatch_lines(["baseline saved: baseline.json"])
    baseline = (pytester.path / "baseline.json").read_text()
    assert json.loads(baseline)["timings"] == {}

    same = gate(*releases.untrained, "--memscan-baseline=baseline.json")
    assert same.ret == 0
    same.assert_outcomes(passed=5)

    worse = gate(*releases.leaky, "--memscan-baseline=baseline.json", *EVERY_FORMAT)
    assert worse.ret == 1
    worse.assert_outcomes(failed=2, passed=3)
    regression = check_of(pytester.path, "regression")
    assert regression["verdict"] == "fail"
    (change,) = regression["regression"]["changes"]
    assert change["increased"]
    assert change["num_new"] == change["now"]["value"] > 0 == change["before"]["value"]
    sarif = json.loads((pytester.path / ".memscan" / "report.sarif").read_text())
    assert "memscan/regression" in {each["ruleId"] for each in sarif["runs"][0]["results"]}
    assert (pytester.path / "baseline.json").read_text() == baseline

    ids = [leak.id for check in result_of(pytester.path).checks for leak in leaks_of(check)]
    waive(pytester.path, ids, _in_a_year())
    accepted = gate(*releases.leaky, "--memscan-baseline=baseline.json")
    assert accepted.ret == 0
    (change,) = check_of(pytester.path, "regression")["regression"]["changes"]
    assert change["num_new"] == 0


def test_a_run_that_does_not_pass_is_no_baseline(gate: Gate, pytester: pytest.Pytester) -> None:
    failed = gate("builtin:leaky", "--memscan-save-baseline=baseline.json")
    assert failed.ret == 1
    failed.stdout.fnmatch_lines(["memscan: no baseline was saved to baseline.json: *FAIL*"])
    assert not (pytester.path / "baseline.json").exists()

    compared = gate("builtin:leaky", "--memscan-baseline=.memscan/report.json")
    assert compared.ret == 4
    compared.stderr.fnmatch_lines(["*copy the baseline to another file*"])
    assert read_report(pytester.path)["verdict"] == "fail"  # the file it named is still there

    shutil.copy(pytester.path / ".memscan" / "report.json", pytester.path / "old.json")
    refused = gate("builtin:leaky", "--memscan-baseline=old.json")
    assert refused.ret == 4
    assert read_report(pytester.path)["verdict"] == "not_run"


def test_a_baseline_that_could_not_be_saved_is_said_before_the_scan(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    (pytester.path / "file").touch()
    result = gate("builtin:clean", "--memscan-save-baseline=file/baseline.json")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*file/baseline.json cannot be written (*); choose another*"])


def test_a_token_in_a_wrong_option_is_not_shown(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + 34 * "x"
    monkeypatch.setenv("HF_TOKEN", token)
    result = gate("builtin:clean", f"--memscan-fail={token} <= 1", "--memscan-show-policy")
    assert result.ret == 4
    assert token not in result.stderr.str() + result.stdout.str()


def test_waived_findings_are_shown_and_no_longer_fail(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    assert gate("builtin:leaky").ret == 1
    ids = [leak.id for check in result_of(pytester.path).checks for leak in leaks_of(check)]
    assert len(ids) == 8

    waive(pytester.path, [*ids, "train#00149@00000000"], "2099-01-31")
    too_long = gate("builtin:leaky")
    assert too_long.ret == 4

    waive(pytester.path, [*ids, "train#00149@00000000"], _in_a_year())
    passed = gate("builtin:leaky", *EVERY_FORMAT)
    assert passed.ret == 0
    passed.stdout.fnmatch_lines(["memscan: PASS builtin:leaky (extracted <= 0, 8 waived)"])
    result = result_of(pytester.path)
    assert [each.state for each in result.waivers] == ["used"] * 8 + ["unused"]
    for kind in ("html", "md"):
        text = (pytester.path / ".memscan" / f"report.{kind}").read_text()
        assert all(each in text for each in ids)
    sarif = json.loads((pytester.path / ".memscan" / "report.sarif").read_text())
    assert sarif["runs"][0]["results"] == []

    waive(pytester.path, ids[1:], _in_a_year())
    assert gate("builtin:leaky").ret == 1

    waive(pytester.path, ids, "2026-01-31")
    expired = gate("builtin:leaky")
    assert expired.ret == 1
    assert {each.state for each in result_of(pytester.path).waivers} == {"expired"}


def test_a_report_that_cannot_be_written_makes_all_the_others_say_so(
    gate: Gate, pytester: pytest.Pytester, releases: Releases
) -> None:
    pytester.makepyfile(
        """
        import pathlib

        def test_own():
            pathlib.Path(".memscan/report.sarif").mkdir()
        """
    )
    result = gate(*releases.untrained, *EVERY_FORMAT)
    assert result.ret == 1
    report = read_report(pytester.path)
    assert report["verdict"] == "error"
    assert "the sarif report could not be written" in report["sentence"]
    for kind in ("html", "md"):
        assert "ERROR" in (pytester.path / ".memscan" / f"report.{kind}").read_text()
    assert "PASS" not in (pytester.path / ".memscan" / "model-card.yml").read_text()


def test_no_report_of_an_earlier_run_stays_beside_the_verdict(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    gate("builtin:leaky", *EVERY_FORMAT)
    (pytester.path / ".memscan" / "mine.html").touch()
    assert gate("builtin:leaky", "--memscan-seed=x").ret == 4
    left = {path.name for path in (pytester.path / ".memscan").iterdir()}
    assert left == {".gitignore", "mine.html", "report.json"}


def test_the_policy_in_effect_is_shown_and_nothing_else_is_done(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    (pytester.path / "memscan.toml").write_text('seed = 7\nfail = [\n  "extracted<=2",\n]\n')
    result = gate("builtin:leaky", "--memscan-fail=leak_rate <= 0.5", "--memscan-show-policy")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*seed *7 *memscan.toml*",
            "*extracted <= 0 *--memscan-fail*",
            "*leak_rate <= 0.5 *--memscan-fail*",
            "*integrity, duplicates, carlini, status*",
            "*splitting *it is not among those asked for*",
        ]
    )
    assert not (pytester.path / ".memscan").exists()

    wrong = gate("builtin:leaky", "--memscan-show-policy", "--memscan-seed=x")
    assert wrong.ret == 4


def test_lines_of_the_policy_are_found_in_its_file(gate: Gate, pytester: pytest.Pytester) -> None:
    (pytester.path / "memscan.toml").write_text('seed = 0\nfail = [\n  "leak_rate<=0.5",\n]\n')
    command = ["--memscan=builtin:leaky", "--memscan-budget=8img", "--memscan-steps=10"]
    result = pytester.runpytest_inprocess(*command, "--memscan-scans=carlini")
    assert result.ret == 1
    (line,) = check_of(pytester.path, "carlini")["thresholds"]
    assert line["location"] == {"file": "memscan.toml", "line": 3, "column": 4, "end_column": 18}


def test_junit_properties_can_be_left_out(gate: Gate, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nmemscan_junit_properties = false")
    gate("builtin:leaky", "--junitxml=junit.xml")
    assert "memscan.extracted" not in (pytester.path / "junit.xml").read_text()


def _in_a_year() -> str:
    return (utc_today() + timedelta(days=365)).isoformat()
