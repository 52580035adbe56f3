"""What the environment sets, where reports go, and what a report may tell of the settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from unit.conftest import Resolve

from pytest_memscan.config_sources import json_report_path
from pytest_memscan.errors import OptionError


@pytest.mark.parametrize(
    ("value", "strict"),
    [
        ("true", True),
        ("1", True),
        ("", False),
        ("false", False),
        ("0", False),
        ("woodpecker", True),
    ],
)
def test_in_ci_a_deselected_gate_is_strict(resolve: Resolve, value: str, strict: bool) -> None:
    assert resolve(environ={"CI": value}).strict is strict


def test_strictness_can_be_switched_off_in_ci_and_on_outside(resolve: Resolve) -> None:
    assert resolve(ini={"strict": "false"}, environ={"CI": "true"}).strict is False
    config = resolve(toml="strict = false", ini={"strict": "true"}, environ={"CI": "true"})
    assert (config.strict, config.sources["strict"]) == (False, ("False", "memscan.toml"))
    assert resolve(strict=True).strict is True


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "MEMSCAN_OFFLINE"])
@pytest.mark.parametrize(("value", "offline"), [("1", True), ("TRUE", True), ("0", False)])
def test_the_environment_can_forbid_the_network(
    resolve: Resolve, name: str, value: str, offline: bool
) -> None:
    assert resolve(environ={name: value}).offline is offline
    assert resolve(environ={name: "0"}, offline=True).offline is True


def test_the_cache_follows_the_environment_and_then_the_option(
    resolve: Resolve, tmp_path: Path
) -> None:
    xdg = {"XDG_CACHE_HOME": str(tmp_path / "xdg")}
    assert resolve(environ=xdg).cache_dir == tmp_path / "xdg" / "pytest-memscan"
    both = {**xdg, "MEMSCAN_CACHE_DIR": str(tmp_path / "own")}
    assert resolve(environ=both).cache_dir == tmp_path / "own"
    assert resolve(environ=both, cache_dir="c").cache_dir == resolve.invocation_dir / "c"


def test_the_json_report_is_always_written(resolve: Resolve) -> None:
    assert [kind for kind, _ in resolve(report=["html:x.html"]).outputs.reports] == ["json", "html"]
    assert [kind for kind, _ in resolve(report=["json"]).outputs.reports] == ["json"]
    assert [kind for kind, _ in resolve(toml="report = []").outputs.reports] == ["json"]


def test_reports_go_where_they_are_sent(resolve: Resolve, tmp_path: Path) -> None:
    reports = dict(resolve(report=[f"json:{tmp_path}/a.json", "html"]).outputs.reports)
    assert reports["json"] == tmp_path / "a.json"
    assert reports["html"] == resolve.rootdir / ".memscan" / "report.html"


def test_a_device_or_a_pipe_is_not_replaced_by_a_report(resolve: Resolve, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "null")
    for kind in ("json", "html"):
        with pytest.raises(OptionError, match="null is a device or a pipe, and a report is a file"):
            resolve(report=[f"{kind}:{tmp_path}/null"])


def test_the_verdict_file_is_found_even_when_other_settings_are_wrong(resolve: Resolve) -> None:
    def path(**options: object) -> Path:
        places = {"rootdir": resolve.rootdir, "invocation_dir": resolve.invocation_dir}
        return json_report_path(options, ini={"report": ["json:i.json"]}, **places)

    assert path(fail=["x"], report=["json:a.json"]) == resolve.invocation_dir / "a.json"
    assert path(fail=["x"]) == resolve.rootdir / "i.json"
    assert path(report=["xml"]) == resolve.rootdir / ".memscan" / "report.json"
    assert path(report=["xml", "json:a.json"]) == resolve.invocation_dir / "a.json"
    (resolve.rootdir / "memscan.toml").write_text("broken =")
    assert path() == resolve.rootdir / ".memscan" / "report.json"


def test_no_setting_that_a_report_shows_tells_an_absolute_path(
    resolve: Resolve, tmp_path: Path
) -> None:
    config = resolve(
        train_data=str(tmp_path / "people"),
        holdout="../../others",
        cache_dir=str(tmp_path / "cache"),
        report=[f"json:{tmp_path}/out.json"],
    )
    shown = {name: value for name, (value, _) in config.sources.items()}
    assert shown["train_data"] == ".../people"
    assert shown["holdout"] == ".../others"
    assert shown["report"] == "json:.../out.json"
    assert str(tmp_path) not in repr(shown) + repr(config) + repr(resolve().sources)


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("builtin:leaky", "builtin:leaky"),
        ("org/name@main", "org/name@main"),
        ("./model", "./model"),
        ("/home/somebody/model", ".../model"),
        ("~/model", ".../model"),
        ("~nobody-here/model", "~nobody-here/model"),
    ],
)
def test_a_checkpoint_is_called_as_typed_without_a_private_folder(
    resolve: Resolve, model: str, label: str
) -> None:
    assert resolve(model=model).label == label
