"""The policy files in docs/examples: every key is known, every limit can be shown."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_memscan.config import Config, resolve_config
from pytest_memscan.config_sources import tomllib
from pytest_memscan.settings import Given
from pytest_memscan.waivers import parse_waivers

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MODELS = {
    "unconditional": "builtin:clean",
    "finetune": "builtin:leaky-t2i-lora",
    "text-to-image": "builtin:clean-t2i",
}
TODAY = datetime.date(2026, 11, 23)


def example(kind: str) -> str:
    return (EXAMPLES / kind / "memscan.toml").read_text(encoding="utf-8")


def resolved(folder: Path, kind: str, text: str) -> Config:
    (folder / "memscan.toml").write_text(text, encoding="utf-8")
    return resolve_config(
        {"model": MODELS[kind]}, ini={}, rootdir=folder, invocation_dir=folder, environ={}
    )


@pytest.fixture(params=sorted(MODELS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_there_is_one_for_each_kind_of_release() -> None:
    assert {path.parent.name for path in EXAMPLES.glob("*/memscan.toml")} == set(MODELS)


def test_every_setting_is_taken_from_the_file(tmp_path: Path, kind: str) -> None:
    config = resolved(tmp_path, kind, example(kind))
    written = tomllib.loads(example(kind))
    assert {
        name for name, (_, source) in config.sources.items() if source == "memscan.toml"
    } == set(written)
    assert {each.source for each in config.thresholds} == {"memscan.toml"}


@pytest.mark.parametrize(
    ("kind", "checks", "metrics"),
    [
        (
            "unconditional",
            {"carlini", "splitting", "duplicates"},
            ["extracted", "leak_rate", "extractable_images", "duplicate_groups"],
        ),
        ("finetune", {"finextract", "duplicates"}, ["copied_images", "esr_loose"]),
        (
            "text-to-image",
            {"carlini", "prompt_detectors", "extended_side"},
            ["memorised_prompts", "extracted_canaries", "prompt_leak_rate"],
        ),
    ],
)
def test_the_run_has_the_scans_and_limits_that_its_kind_needs(
    tmp_path: Path, kind: str, checks: set[str], metrics: list[str]
) -> None:
    config = resolved(tmp_path, kind, example(kind))
    assert checks <= set(config.checks)
    assert [each.metric for each in config.thresholds] == metrics


def test_the_waiver_that_is_commented_out_is_one(tmp_path: Path, kind: str) -> None:
    head, _, waiver = example(kind).partition("# [[suppress]]\n")
    lines = [line.removeprefix("# ") for line in waiver.splitlines()]
    tables = tomllib.loads("\n".join(["[[suppress]]", *lines]))["suppress"]
    given = Given(value=tables, source="memscan.toml", base=tmp_path, key="suppress")
    (line,) = parse_waivers(given, today=TODAY)
    assert line.holds(TODAY)
    config = resolved(tmp_path, kind, "\n".join([head, "[[suppress]]", *lines]))
    assert [each.id for each in config.waivers] == [line.id]


def test_every_key_is_explained(kind: str) -> None:
    above = ""
    for line in example(kind).splitlines():
        if line and line[0].isalpha() and " = " in line and " # " not in line:
            is_in_a_block = above.startswith("#") or above[:1].isalpha()
            assert is_in_a_block or line.startswith("fail"), line
        above = line


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("unconditional", lambda text: text.replace("budget =", "budgets =")),
        ("unconditional", lambda text: text.replace('"2500img"', '"1400img"')),
        ("finetune", lambda text: text.replace("copied_images", "copied")),
        ("text-to-image", lambda text: text.replace("extracted_canaries", "extracted")),
    ],
    ids=["unknown key", "too few images", "unknown metric", "metric of another kind"],
)
def test_a_mistake_in_an_example_would_be_noticed(
    tmp_path: Path, kind: str, change: Callable[[str], str]
) -> None:
    with pytest.raises(Exception, match=r"memscan\.toml"):
        resolved(tmp_path, kind, change(example(kind)))


def test_the_page_about_policies_shows_what_is_really_printed(pytester: pytest.Pytester) -> None:
    page = (EXAMPLES.parent / "policy.md").read_text(encoding="utf-8")
    policy = page.split("```toml\n")[1].split("```")[0]
    shown = page.split("```text\n")[1].split("```")[0].splitlines()
    (pytester.path / "memscan.toml").write_text(policy, encoding="utf-8")
    pytester._monkeypatch.setenv("COLUMNS", "96")
    pytester._monkeypatch.delenv("CI", raising=False)
    result = pytester.runpytest_inprocess("--memscan", "builtin:clean", "--memscan-show-policy")
    assert result.ret == pytest.ExitCode.OK
    printed = iter([_told(line) for line in result.outlines])
    for line in shown:
        if line.strip() != "...":  # lines that are left out
            assert _told(line) in printed, line
    assert not (pytester.path / ".memscan").exists()


def _told(line: str) -> str:
    """Without what depends on the day, and however wide the columns are."""
    return " ".join(re.sub(r"(expires in|EXPIRED) \d+ days?( ago)?", "-", line).split())
