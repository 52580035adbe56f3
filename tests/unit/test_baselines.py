"""Which reports can be compared with, what is saved, and what is refused before a scan."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from unit.baseline_samples import carlini, integrity, run
from unit.reports import finetune_scans, prompt_scans

from pytest_memscan.baselines import (
    check_baseline_options,
    check_comparable_settings,
    read_baseline,
    save_baseline,
)
from pytest_memscan.errors import MemscanError, OptionError
from pytest_memscan.reports.json import not_run_report, to_json
from pytest_memscan.results import CheckOutcome, RunResult, Verdict


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ci" / "baseline.json"


def refused(path: Path) -> str:
    with pytest.raises(OptionError) as caught:
        read_baseline(path)
    message = str(caught.value)
    assert message.startswith("--memscan-baseline ci/baseline.json: ")
    return message


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_what_was_saved_is_read_without_timings_and_prompts(path: Path) -> None:
    result = replace(run(carlini([3]), seed="0"), prompt_texts={"prompt#00001": "a secret"})
    save_baseline(result, path)
    assert read_baseline(path) == replace(result, timings={}, prompt_texts={})
    assert "a secret" not in path.read_text(encoding="utf-8")
    assert [each.name for each in path.parent.iterdir()] == ["baseline.json"]


def test_the_same_run_is_saved_as_the_same_bytes(path: Path) -> None:
    save_baseline(run(carlini([3])), path)
    once = path.read_bytes()
    save_baseline(replace(run(carlini([3])), timings={"carlini": 99.0}), path)
    assert path.read_bytes() == once


def test_a_missing_file_says_how_to_make_one(path: Path) -> None:
    message = refused(path)
    assert "there is no such file; make one with --memscan-save-baseline baseline.json" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[1, 2]", "not a memscan report"),
        ('{"checks": []}', "not a memscan report"),
        ('{"schema_version": 99}', "Upgrade pytest-memscan"),
        ('{"schema_version": 1, "verdict": "pass"}', "damaged at"),
    ],
)
def test_a_file_that_is_no_report_is_refused(path: Path, text: str, expected: str) -> None:
    write(path, text)
    assert expected in refused(path)


def test_a_report_cut_in_half_is_refused(path: Path) -> None:
    text = to_json(run(carlini([3])))
    write(path, text[: len(text) // 2])
    assert "not valid JSON" in refused(path)


def test_what_is_not_text_or_not_a_file_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    assert "that is a folder" in refused(path)
    path.rmdir()
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert "it is not text" in refused(path)


def test_a_pipe_is_neither_waited_for_nor_replaced(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    assert "that is a device or a pipe" in refused(path)
    with pytest.raises(OptionError, match="is a device or a pipe, and a baseline is a file"):
        check_baseline_options(None, path)


def test_a_byte_order_mark_is_no_part_of_a_report(path: Path) -> None:
    write(path, "\ufeff" + to_json(run(carlini([3]))))
    assert read_baseline(path) == run(carlini([3]))


@pytest.mark.parametrize("verdict", [each for each in Verdict if each is not Verdict.PASS])
def test_only_a_run_that_passed_is_a_baseline(path: Path, verdict: Verdict) -> None:
    result = run(carlini(), verdict=verdict)
    write(path, to_json(result))
    word = verdict.value.upper().replace("_", " ")
    assert f"its verdict is {word} (no copy found); make one with" in refused(path)
    path.unlink()
    with pytest.raises(MemscanError, match=f"ci/baseline.json: the verdict is {word}, and only"):
        save_baseline(result, path)
    assert not path.exists()


def test_the_report_of_a_run_that_never_began_is_refused(path: Path) -> None:
    write(path, to_json(not_run_report("acme/faces", "the run did not get to its end")))
    assert "its verdict is NOT RUN (the run did not get to its end)" in refused(path)


def deselected() -> RunResult:
    missing = CheckOutcome(
        name="carlini", verdict=Verdict.NOT_RUN, sentence="the check was deselected"
    )
    return run(missing)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (deselected, r"memscan::carlini is NOT RUN \(the check was deselected\)"),
        (run, "it measured nothing"),
    ],
)
def test_a_run_of_which_only_a_part_ran_is_no_baseline(
    path: Path, make: Callable[[], RunResult], expected: str
) -> None:
    with pytest.raises(MemscanError, match=expected):
        save_baseline(make(), path)
    write(path, to_json(make()))
    with pytest.raises(OptionError, match=expected):
        read_baseline(path)


def test_a_check_that_does_not_apply_is_no_gap(path: Path) -> None:
    other = CheckOutcome(name="repeats", verdict=Verdict.NOT_APPLICABLE, sentence="not needed")
    save_baseline(run(carlini(), other), path)
    assert read_baseline(path).checks[2] == other


def test_a_baseline_that_cannot_be_replaced_is_kept(path: Path) -> None:
    save_baseline(run(carlini()), path)
    kept = path.read_bytes()
    with pytest.raises(MemscanError, match=r"FAIL.*; the older one was kept"):
        save_baseline(run(carlini([1]), verdict=Verdict.FAIL), path)
    assert path.read_bytes() == kept


def test_a_place_that_cannot_be_written_to_is_named(path: Path) -> None:
    write(path, "a file")
    with pytest.raises(MemscanError, match="--memscan-save-baseline") as caught:
        save_baseline(run(carlini()), path / "below.json")
    assert "--memscan-report" not in str(caught.value)
    assert str(path.parent) not in str(caught.value).replace("ci/baseline.json", "")


def test_private_folders_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        read_baseline(tmp_path / "nowhere.json")
    assert str(tmp_path) not in str(caught.value)


def test_comparing_only_with_the_last_run_is_refused(path: Path) -> None:
    same = path.parent / ".." / "ci" / "baseline.json"
    with pytest.raises(OptionError, match="compared with the last one only"):
        check_baseline_options(path, same)
    write(path, "there")
    link = path.with_name("link.json")
    link.symlink_to(path)
    with pytest.raises(OptionError, match="name the same file"):
        check_baseline_options(path, link)


def test_files_in_each_others_way_are_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(OptionError, match="is a folder; name a file in it"):
        check_baseline_options(None, path)
    report = path.parent / "report.json"
    with pytest.raises(OptionError, match="would replace the baseline before comparing"):
        check_baseline_options(report, None, [("html", path), ("json", report)])
    with pytest.raises(OptionError, match="is the json report of this run"):
        check_baseline_options(None, report, [("json", report)])


def test_separate_files_are_fine(path: Path) -> None:
    other = path.with_name("new.json")
    check_baseline_options(None, None, [("json", path)])
    check_baseline_options(path, other, [("json", path.with_name("report.json"))])


PLAIN = {
    "fail": "extracted <= 0; leak_rate <= 0.01",
    "seed": "0",
    "steps": "50",
    "dtype": "float32",
    "batch_size": "32",
    "budget": "320img",
    "descriptor": "pixels",
    "guidance_scale": "the pipeline's own",
    "copy_rate": "0.1",
    "device": "auto",
    "train_data": "./images",
}


def shown(**changes: str) -> dict[str, tuple[str, str]]:
    return {name: (value, "memscan.toml") for name, value in (PLAIN | changes).items()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "1"),
        ("steps", "25"),
        ("dtype", "bfloat16"),
        ("batch_size", "8"),
        ("budget", "5000img"),
        ("descriptor", "sscd"),
    ],
)
def test_settings_that_make_it_incomparable_are_refused(name: str, value: str) -> None:
    option = f"--memscan-{name.replace('_', '-')}"
    before = run(carlini(), **PLAIN)
    with pytest.raises(OptionError) as caught:
        check_comparable_settings(before, shown(**{name: value}))
    expected = f"{option} is {value} (from memscan.toml) and was {PLAIN[name]} then"
    assert expected in str(caught.value)
    check_comparable_settings(before, shown())


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": "by kind of checkpoint"},
        {"budget": "30m"},
        {"budget": "by kind of checkpoint"},
        {"budget": "5000img", "fail": "leak_rate <= 0.01"},
        {"seed": "1", "fail": "memorised_prompts <= 0"},
        {"guidance_scale": "7.5"},
        {"copy_rate": "0.2"},
        {"device": "cuda"},
        {"train_data": ".../images"},
        {"fail": "extracted <= 5; leak_rate < 0.2"},
    ],
)
def test_what_is_not_certain_is_left_to_the_comparison(changes: dict[str, str]) -> None:
    check_comparable_settings(run(carlini(), **PLAIN), shown(**changes))


def test_settings_of_prompts_matter_where_prompts_were_measured() -> None:
    check = CheckOutcome(
        name="carlini",
        verdict=Verdict.PASS,
        sentence="",
        prompt_scan=prompt_scans.prompt_scan(),
    )
    before = run(check, **PLAIN)
    for name, value in (("guidance_scale", "7.5"), ("copy_rate", "0.2")):
        with pytest.raises(OptionError, match=name.replace("_", "-")):
            check_comparable_settings(
                before, shown(**{name: value, "fail": "memorised_prompts <= 0"})
            )
    same = shown(copy_rate="0.10", fail="memorised_prompts <= 0", budget="99img")
    check_comparable_settings(before, same)


def test_a_fine_tune_has_a_descriptor_of_its_own() -> None:
    scan = finetune_scans.scan(finetune_scans.CONCEPT)
    check = CheckOutcome(name="finextract", verdict=Verdict.PASS, sentence="", finetunes=scan)
    before = run(check, carlini(), **PLAIN)
    check_comparable_settings(before, shown(descriptor="builtin:copy"))


def test_a_setting_that_older_reports_lack_is_not_guessed() -> None:
    check_comparable_settings(run(carlini()), shown(seed="7"))
    assert integrity().verdict is Verdict.PASS
