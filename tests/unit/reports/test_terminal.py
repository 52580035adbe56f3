"""The terminal's lines, written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.reports import samples, scans

from pytest_memscan.reports import terminal
from pytest_memscan.results import CheckOutcome, Duplicates, Measure, RunResult, Verdict

FAILED = """\
metric       value   95 % bounds        limit    result
extracted      132   exact              <= 0     FAIL
leak_rate   80.0 %   [76.0 %, 83.6 %]   <= 1 %   FAIL
ams_low     85.0 %   [80.3 %, 90.0 %]            info
ums_low     46.6 %   [42.8 %, 50.6 %]            info
ams_mid     81.6 %   [76.9 %, 86.6 %]            info
ums_mid     45.6 %   [41.9 %, 49.7 %]            info
ams_high    80.3 %   [75.6 %, 85.3 %]            info
ums_high    44.7 %   [40.9 %, 48.8 %]            info
carlini FAIL: 132 training images can be extracted from this checkpoint.
copied training images: 132 confirmed; 149 within a published level (-v lists 143)
  train#00042 <- generated#00017  ratio 0.21 (high, confirmed)
  train#00101 <- generated#00114  ratio 0.22 (high, confirmed)
  train#00010 <- generated#00211  ratio 0.22 (high, confirmed)
  train#00069 <- generated#00308  ratio 0.23 (high, confirmed)
  train#00128 <- generated#00085  ratio 0.23 (high, confirmed)
  train#00037 <- generated#00182  ratio 0.24 (high, confirmed)
  train#00096 <- generated#00279  ratio 0.24 (high, confirmed)
  train#00005 <- generated#00056  ratio 0.25 (high, confirmed)
  train#00064 <- generated#00153  ratio 0.25 (high, confirmed)
  train#00123 <- generated#00250  ratio 0.26 (high, confirmed)
  and 139 more
matches: at level low 272 images (6 expected by chance), mid 261 images (3), high 257 images (1.5)
controls: re-encoded found 20/20; noise found 0/20
coverage: generated 320/320, valid 320, compared with 150 training images (150 distinct)
this scan would have noticed a leak rate above 0.93 %
confirmed copies: 256 generated images (ratio of at most 0.93); 0.043 expected by chance
memscan: FAIL builtin:leaky (extracted 132 > 0, and 1 more)"""

ERROR = """\
integrity ERROR: checkpoint ./unet.bin is a pickle, which can run code when
  loaded.
  Convert it to safetensors (see docs/checkpoints.md).
carlini NOT RUN: The checkpoint could not be loaded.
memscan: ERROR ./unet.bin (checkpoint ./unet.bin is a pickle, which can run code when loaded.)"""


def summary(result: RunResult, *, verbosity: int = 0, width: int = 100) -> str:
    return "\n".join(terminal.summary_lines(result, verbosity=verbosity, width=width))


def test_a_failed_run_shows_what_was_copied() -> None:
    assert summary(samples.failed()) == FAILED


def test_an_error_before_the_scan_shows_the_message_and_its_remedy() -> None:
    assert summary(samples.broken(), width=80) == ERROR


def test_a_passed_run_lists_no_matches_until_asked() -> None:
    quiet = summary(samples.passed())
    assert "copied training images: none confirmed; 9 within a published level" in quiet
    assert "train#" not in quiet
    assert "train#00042 <- generated#00017  ratio 1.34 (low, not confirmed)" in summary(
        samples.passed(), verbosity=1
    )


def test_more_verbose_lists_every_finding_and_the_rule() -> None:
    lines = terminal.summary_lines(samples.failed(), verbosity=1, width=100)
    assert sum(line.startswith("  train#") for line in lines) == 143
    assert "  and 6 more" in lines
    assert any(line.startswith("rule: A ratio of at most 0.93 is confirmed") for line in lines)
    assert "status PASS: Every required check ran to its end." in lines
    assert any("0.93 in float32" in line for line in lines)


@pytest.mark.parametrize("result", samples.every_verdict(), ids=lambda r: str(r.verdict))
def test_quiet_shows_the_verdict_alone_and_every_summary_ends_with_it(result: RunResult) -> None:
    verdict = terminal.verdict_line(result)
    assert terminal.summary_lines(result, verbosity=-1, width=80) == [verdict]
    assert terminal.summary_lines(result, verbosity=0, width=80)[-1] == verdict


@pytest.mark.parametrize("result", samples.every_verdict(), ids=lambda r: str(r.verdict))
def test_lines_are_ascii_and_hold_no_line_break(result: RunResult) -> None:
    for line in terminal.summary_lines(result, verbosity=1, width=60):
        assert line.isascii()
        assert line.isprintable()
        assert line == line.rstrip()


def test_verdict_lines_say_what_decided() -> None:
    fail, passed, inconclusive, error, not_run = map(terminal.verdict_line, samples.every_verdict())
    assert fail == "memscan: FAIL builtin:leaky (extracted 132 > 0, and 1 more)"
    assert passed == "memscan: PASS builtin:clean (extracted 0 <= 0, and 1 more)"
    assert inconclusive == (
        "memscan: INCONCLUSIVE acme/sd@3f9c2a1 (leak_rate 0.62 % [0.11 %, 1.95 %], limit <= 1 %)"
    )
    assert error == (
        "memscan: ERROR ./unet.bin "
        "(checkpoint ./unet.bin is a pickle, which can run code when loaded.)"
    )
    assert not_run == "memscan: NOT RUN builtin:leaky (Every memscan check was deselected.)"


def test_one_broken_threshold_needs_no_count() -> None:
    result = samples.failed()
    carlini = replace(result.checks[1], thresholds=result.checks[1].thresholds[:1])
    assert terminal.verdict_line(replace(result, checks=(carlini,))) == (
        "memscan: FAIL builtin:leaky (extracted 132 > 0)"
    )


def test_a_threshold_that_two_checks_carry_is_shown_once() -> None:
    result = samples.failed()
    status = replace(result.checks[2], thresholds=result.checks[1].thresholds)
    assert summary(replace(result, checks=(*result.checks[:2], status))) == FAILED


def test_a_level_with_a_threshold_is_not_repeated_for_information() -> None:
    result = samples.passed()
    carlini = result.checks[1]
    assert carlini.scan is not None
    high = replace(
        carlini.thresholds[1], expression="ums_high <= 0.1", estimate=carlini.scan.levels[2].ums
    )
    lines = terminal.summary_lines(
        replace(result, checks=(replace(carlini, thresholds=(high,)),)), verbosity=0, width=80
    )
    assert [line.split()[0] for line in lines].count("ums_high") == 1


def test_coverage_names_everything_that_was_lost_but_no_file() -> None:
    shown = summary(samples.inconclusive(), verbosity=1, width=200)
    assert (
        "coverage: generated 320/320, valid 316, compared with 150 training images "
        "(148 distinct), invalid 4 (black 3, not a number 1), generated again 2, "
        "unusable training images 4 (not an image 4)"
    ) in shown
    assert "private-name" not in shown


def test_a_missed_control_says_what_was_required() -> None:
    result = samples.passed()
    carlini = result.checks[1]
    assert carlini.scan is not None
    blind = replace(scans.CONTROLS[0], num_found=3)
    scan = replace(carlini.scan, controls=(blind, scans.CONTROLS[1]))
    shown = summary(replace(result, checks=(replace(carlini, scan=scan),)), width=200)
    assert (
        "controls: re-encoded found 3/20, expected at least 19: MISSED; noise found 0/20" in shown
    )


def test_a_hostile_message_cannot_start_a_line_with_a_workflow_command() -> None:
    sentence = "bad file ::error::one\n::set-output name=x::y\n\x1b[2J " + "word ::stop " * 30
    result = replace(
        samples.broken(), sentence=sentence, checkpoint="::error::\n::add-mask::x", checks=()
    )
    for verbosity in (-1, 0, 1):
        for line in terminal.summary_lines(result, verbosity=verbosity, width=30):
            assert not line.lstrip().startswith("::")
            assert line.isprintable()


def test_the_header_names_the_checkpoint_and_packs_the_settings() -> None:
    settings = {"device": "cpu", "images": "320", "seed": "0"}
    assert terminal.header_lines("builtin:leaky", settings) == [
        "memscan: builtin:leaky",
        "memscan: device cpu | images 320 | seed 0",
    ]
    assert terminal.header_lines("a\nb", {}) == [r"memscan: a\nb"]


def test_a_long_header_continues_on_a_marked_line() -> None:
    settings = {f"setting{index}": "x" * 20 for index in range(6)}
    lines = terminal.header_lines("builtin:leaky", settings)
    assert len(lines) == 4
    assert all(line.startswith("memscan: ") and len(line) <= 100 for line in lines)


def test_a_similarity_is_shown_with_its_own_word_and_direction() -> None:
    result = samples.passed()
    carlini = next(check for check in result.checks if check.scan is not None)
    assert carlini.scan is not None
    measure = Measure(name="cosine of x", word="similarity", higher_is_closer=True)
    scan = replace(carlini.scan, measure=measure)
    shown = summary(replace(result, checks=(replace(carlini, scan=scan),)), width=200)
    assert "confirmed copies: 256 generated images (similarity of at least 0.93)" in shown
    assert "ratio" not in shown


def test_duplicates_are_one_line() -> None:
    found = Duplicates(
        num_images=150,
        num_groups=1,
        num_redundant=3,
        num_identical=2,
        largest=((1, 2, 3, 4),),
        num_searched=150,
        measure="L2 distance of pixels",
    )
    check = CheckOutcome(name="duplicates", verdict=Verdict.PASS, sentence="-", duplicates=found)
    shown = summary(replace(samples.passed(), checks=(check,)))
    assert "duplicates: 1 group, 3 of 150 training images could go (2 identical)" in shown
    none = replace(found, num_groups=0, num_redundant=0, num_identical=0, largest=())
    shown = summary(replace(samples.passed(), checks=(replace(check, duplicates=none),)))
    assert "duplicates: none" in shown
