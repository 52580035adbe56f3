"""What the user asked for: precedence, paths, values that cannot be used."""

from __future__ import annotations

import re
from typing import Any

import pytest
from unit.conftest import Resolve

from pytest_memscan.errors import OptionError


def test_the_defaults_are_usable_and_said_to_be_defaults(resolve: Resolve) -> None:
    config = resolve()
    assert [each.expression for each in config.thresholds] == [
        "extracted <= 0",
        "leak_rate <= 0.01",
        "extractable_images <= 0",
    ]
    assert (config.budget, config.steps, config.seed) == (None, 50, 0)
    assert config.sources["budget"] == ("320img", "default")
    assert (config.device, config.dtype) == ("auto", "float32")
    assert (config.batch_size("unconditional"), config.batch_size("text-to-image")) == (32, 10)
    assert config.checks == ("integrity", "duplicates", "carlini", "splitting", "status")
    assert (config.reach, config.sources["reach"]) == (10**6, ("1,000,000 images", "default"))
    assert config.outputs.images == "blurred"
    assert not config.strict
    assert not config.offline
    assert dict(config.outputs.reports) == {
        kind: resolve.rootdir / ".memscan" / f"report.{kind}" for kind in ("json", "html")
    }
    assert {source for _, source in config.sources.values()} == {"default"}


@pytest.mark.parametrize("table", ["memscan.toml", "pyproject.toml"])
def test_the_command_line_beats_the_file_which_beats_ini(resolve: Resolve, table: str) -> None:
    head = "[tool.memscan]\n" if table == "pyproject.toml" else ""
    (resolve.rootdir / table).write_text(f'{head}fail = "extracted <= 2"\nseed = 2\n')
    ini = {"fail": ["extracted <= 3"], "strict": "true"}
    config = resolve(ini=ini, seed="1")
    assert (config.seed, config.sources["seed"]) == (1, ("1", "--memscan-seed"))
    assert config.thresholds[0].limit == 2
    assert config.thresholds[0].source == config.sources["fail"][1] == table
    assert (config.strict, config.sources["strict"]) == (True, ("true", "ini memscan_strict"))
    assert resolve(ini=ini, fail=["extracted <= 1"]).thresholds[0].limit == 1


def test_memscan_toml_beats_pyproject_toml(resolve: Resolve) -> None:
    (resolve.rootdir / "pyproject.toml").write_text("[tool.memscan]\nseed = 7\n")
    assert resolve().seed == 7
    assert resolve(toml="steps = 5").seed == 0


def test_a_pyproject_without_a_memscan_table_is_nothing(resolve: Resolve) -> None:
    for text in ("", "[project]\nname = 'x'\n", "tool = 3\n", "[tool.other]\nseed = 3\n"):
        (resolve.rootdir / "pyproject.toml").write_text(text)
        assert resolve().seed == 0


def test_relative_paths_start_where_they_were_written(resolve: Resolve) -> None:
    toml = 'train_data = "images"\nreport = ["html:out/a.html"]'
    config = resolve(toml=toml, ini={"cache_dir": "cache"}, holdout="held")
    assert config.train_data == resolve.rootdir / "images"
    assert dict(config.outputs.reports)["html"] == resolve.rootdir / "out" / "a.html"
    assert config.cache_dir == resolve.rootdir / "cache"
    assert config.holdout == resolve.invocation_dir / "held"

    other = resolve.invocation_dir / "conf"
    other.mkdir()
    (other / "policy.toml").write_text('train_data = "images"')
    assert resolve(config="conf/policy.toml").train_data == other / "images"


@pytest.mark.parametrize(
    ("toml", "complaint"),
    [
        ("failed = 3", "unknown key 'failed', did you mean 'fail'?"),
        ("xyz = 3", "unknown key 'xyz'; known keys are base, train_data, holdout"),
        ("seed = true", "seed: expected a whole number, got True"),
        ("steps = false", "steps: expected a whole number, got False"),
        ("batch_size = true", "batch_size: expected a whole number"),
        ("seed = 1.5", "seed: expected a whole number"),
        ("seed = [1]", "seed: expected a whole number"),
        ("seed = -1", "seed: -1 is not between 0 and 4294967295"),
        ("budget = ['5img']", "is not a budget"),
        ("budget = 320", "write images (5000img)"),
        ("budget = true", "is not a budget"),
        ("fail = []", "at least one threshold"),
        ("fail = 'x'", "'x' is not a threshold"),
        ("fail = [1]", "'1' is not a threshold"),
        ("fail = {extracted = 0}", "a text or a list of texts"),
        ("scans = []", "available: finextract, carlini"),
        ("device = 0", "0 is not one of auto, cpu"),
        ("dtype = ['float32']", "is not one of float32"),
        ("images = true", "True is not one of none"),
        ("strict = 'perhaps'", "strict: expected true or false"),
        ("train_data = 3", "train_data: expected a path, got 3"),
        ("train_data = ''", "train_data: expected a path"),
        ('cache_dir = "a\\u0000b"', "is not a usable path"),
        ("report = 'xml'", "'xml' is not a report format; available: json, html"),
        ("reach = 1e6", "reach: expected a whole number, got 1000000.0"),
        ("reach = 1_000_000_001", "reach: 1000000001 is not between 100 and 1000000000"),
        ("seed = ", "cannot be read as TOML"),
    ],
)
def test_a_file_with_a_mistake_is_named_with_the_remedy(
    resolve: Resolve, toml: str, complaint: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(complaint)) as error:
        resolve(toml=toml)
    assert str(error.value).startswith("memscan.toml")
    assert str(resolve.rootdir) not in str(error.value)


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\nmemscan = 3", "[project]", ""])
def test_a_pyproject_that_was_asked_for_must_have_the_table(resolve: Resolve, text: str) -> None:
    (resolve.rootdir / "pyproject.toml").write_text(text)
    with pytest.raises(OptionError, match=re.escape("[tool.memscan]")):
        resolve(config="../pyproject.toml")


def test_a_waiver_outside_the_table_of_the_tool_is_not_passed_over(resolve: Resolve) -> None:
    (resolve.rootdir / "pyproject.toml").write_text("[tool.memscan]\nseed = 7\n[[suppress]]\n")
    with pytest.raises(OptionError, match=re.escape("write [[tool.memscan.suppress]]")):
        resolve()


def test_a_policy_that_cannot_be_read_is_not_taken_for_none(resolve: Resolve) -> None:
    (resolve.rootdir / "memscan.toml").symlink_to("gone.toml")
    with pytest.raises(OptionError, match=r"memscan\.toml is there and cannot be read"):
        resolve()


def test_a_byte_order_mark_is_no_part_of_a_file(resolve: Resolve) -> None:
    assert resolve(toml="\ufeffseed = 7").seed == 7


@pytest.mark.parametrize("given", ["none.toml", ".", ""])
def test_a_config_file_that_is_not_there_is_named(resolve: Resolve, given: str) -> None:
    with pytest.raises(OptionError, match=f"--memscan-config {re.escape(given)}: there is no such"):
        resolve(config=given)


@pytest.mark.parametrize(
    ("text", "num_images", "seconds"),
    [
        ("300img", 300, None),
        (" 300 img ", 300, None),
        ("4294967296img", 2**32, None),
        ("90s", None, 90),
        ("1.5m", None, 90),
        ("2h", None, 7200),
    ],
)
def test_a_budget_is_images_or_time(
    resolve: Resolve, text: str, num_images: int | None, seconds: float | None
) -> None:
    budget = resolve(budget=text, fail=["extracted <= 0"]).budget
    assert (budget.num_images, budget.seconds) == (num_images, seconds)


@pytest.mark.parametrize(
    "text",
    [
        *("0img", "0s", "0.0h", "-5img", "-1m", "5", "img", "5.5img", "1e3s", "5d", "5imgs"),
        *("4294967297img", "1001h", "5m30s", "", "9" * 5000 + "img", "9" * 5000 + "h"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_not_a_budget_is_refused(resolve: Resolve, text: str) -> None:
    with pytest.raises(OptionError, match="--memscan-budget: "):
        resolve(budget=text, fail=["extracted <= 0"])


def test_a_limit_that_the_budget_cannot_show_is_refused_with_both_remedies(
    resolve: Resolve,
) -> None:
    with pytest.raises(OptionError) as error:
        resolve(budget="100img")
    assert "cannot be shown with 100 images" in str(error.value)
    assert "--memscan-budget 299img" in str(error.value)
    assert str(error.value).endswith("or raise the limit to 0.03")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"device": "gpu"}, "--memscan-device: 'gpu' is not one of auto, cpu, cuda"),
        ({"device": "cuda:x"}, "--memscan-device"),
        ({"device": "mps"}, "--memscan-device"),
        ({"dtype": "fp16"}, "--memscan-dtype: 'fp16' is not one of float32, bfloat16, float16"),
        ({"images": "all"}, "--memscan-images: 'all' is not one of none, blurred, clear"),
        ({"scans": "carlini,inside"}, "--memscan-scans: there is no scan 'inside'; available: "),
        ({"scans": ""}, "--memscan-scans: there is no scan ''"),
        ({"seed": "x"}, "--memscan-seed: expected a whole number, got 'x'"),
        ({"seed": str(2**32)}, "--memscan-seed"),
        ({"steps": "0"}, "--memscan-steps: 0 is not between 1 and 1000"),
        ({"reach": "99"}, "--memscan-reach: 99 is not between 100 and 1000000000"),
        ({"reach": "many"}, "--memscan-reach: expected a whole number, got 'many'"),
        ({"batch_size": "0"}, "--memscan-batch-size: 0 is not between 1 and 4096"),
        ({"fail": ["extracted"]}, "--memscan-fail: 'extracted' is not a threshold"),
        ({"report": ["pdf"]}, "--memscan-report: 'pdf' is not a report format"),
        ({"report": ["html:."]}, "is a folder; name a file in it"),
        ({"report": ["html:r", "json:r"]}, "same file"),
        ({"train_data": ""}, "--memscan-train-data: expected a path"),
        ({"cache_dir": "~nobody-here/x"}, "--memscan-cache-dir: '~nobody-here/x' is not a usable"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(
    resolve: Resolve, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(complaint)):
        resolve(**options)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11"])
def test_devices_are_spelled_as_in_torch(resolve: Resolve, device: str) -> None:
    assert resolve(device=device).device == device


# --- splitting ----------------------------------------------------------------------------------


def test_a_reach_is_shown_where_something_uses_it(resolve: Resolve) -> None:
    config = resolve(reach="5_000")
    assert (config.reach, config.sources["reach"]) == (5000, ("5,000 images", "--memscan-reach"))
    config = resolve(toml="reach = 2_000_000")
    assert config.sources["reach"] == ("2,000,000 images", "memscan.toml")
    # A policy file may serve several runs.
    for options in ({"scans": "carlini"}, {"model": "builtin:clean-t2i"}):
        config = resolve(**options)
        assert config.reach == 2_000_000
        assert "reach" not in config.sources


@pytest.mark.parametrize(
    "options",
    [
        {"scans": "carlini"},
        {"train_data": "index:somewhere"},
        {"model": "builtin:clean-t2i"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_reach_that_nothing_uses_is_refused(resolve: Resolve, options: dict[str, str]) -> None:
    with pytest.raises(OptionError) as error:
        resolve(reach="1000", **options)
    assert str(error.value).startswith("--memscan-reach has no effect: it is for splitting, and")
    assert "memscan::splitting needs training images" in str(error.value)


def test_an_index_leaves_splitting_out_unless_it_is_asked_for(resolve: Resolve) -> None:
    config = resolve(train_data="index:somewhere")
    assert (config.has_train_data, config.has_train_pixels) == (True, False)
    assert config.checks == ("integrity", "duplicates", "carlini", "status")
    with pytest.raises(OptionError) as error:
        resolve(train_data="index:somewhere", scans="carlini,splitting")
    assert str(error.value) == (
        "--memscan-scans: splitting cannot scan builtin:clean: an index holds descriptors only, "
        "and steering needs the training images themselves"
    )
    assert "splitting" in resolve(train_data="images").checks
    with pytest.raises(OptionError, match="splitting cannot scan builtin:clean-t2i: no training"):
        resolve(model="builtin:clean-t2i", scans="splitting")


def test_a_guidance_scale_is_for_prompts_that_are_steered_too(resolve: Resolve) -> None:
    given = {"model": "builtin:leaky-t2i", "scans": "splitting", "guidance_scale": "3"}
    config = resolve(**given)
    assert config.checks == ("integrity", "duplicates", "splitting", "status")
    assert config.guidance_scale == 3


def test_a_rate_by_steering_may_be_limited_below_what_the_budget_shows(resolve: Resolve) -> None:
    config = resolve(budget="8img", fail=["extracted <= 0", "steered_leak_rate <= 1e-6"])
    assert [line.expression for line in config.thresholds] == [
        "extracted <= 0",
        "steered_leak_rate <= 1e-06",
    ]
