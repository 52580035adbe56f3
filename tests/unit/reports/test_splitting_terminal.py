"""What the terminal says of copies that were found by steering."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.reports import samples, splitting_scans

from pytest_memscan.reports import terminal
from pytest_memscan.reports.splitting_lines import splitting_lines
from pytest_memscan.results import RunResult, SplittingScan, Verdict

LEAKY = """\
metric                  value   95 % bounds           limit   result
extractable_images          4   [2, 17]               <= 0    FAIL
steered_leak_rate    0.0044 %   [0.0012 %, 0.013 %]           info
splitting FAIL: 4 training images come out within 1,000,000 images.
found by steering: 3 training images, not in normal use; 4 within reach (a first copy expected among 1,000,000 ordinary images) (-v lists 2)
  train#00012 <- steered#00545  ratio 0.12: one in about 34,000 images [at least one in 410,000]; 12 copies in 5 of 12 islands
  train#00040 <- steered#00789  ratio 0.32: one in about 1.7 million images [at least one in 20 million]; 1 copy in 1 of 12 islands; out of reach
  and 1 more
steering: 1,536 trajectories were steered to 143 of 150 training images, all screened
leak rate of DDIMScheduler, eta 1, 50 steps: 0.0044 % [0.0012 %, 0.013 %] (one in 23,000 images) by steering; 0 % [0 %, 0.58 %] from 512 images that were never steered, 0 of them copies (95 % bounds)
splitting controls: re-encoded found 20/20; noise found 0/20; memoriser found 16/16
splitting coverage: generated 2048/2048, valid 2048, compared with 150 training images (150 distinct)
splitting denoiser calls: 102,850, screening included: as many as 2,057 ordinary images take
memscan: FAIL acme/rare@77ab013 (extractable_images 4 > 0)"""  # noqa: E501 - lines as they are


def summary(result: RunResult, *, verbosity: int = 0, width: int = 400) -> str:
    return "\n".join(terminal.summary_lines(result, verbosity=verbosity, width=width))


def of(scan: SplittingScan, verdict: Verdict = Verdict.FAIL) -> RunResult:
    return splitting_scans.run(scan, verdict, "4 training images come out within 1,000,000 images.")


def test_copies_are_listed_with_their_price_and_with_how_they_were_found() -> None:
    scan = replace(
        splitting_scans.leaky_scan(),
        copies=(splitting_scans.copy(0), splitting_scans.copy(4)),
        num_copies_total=3,
    )
    assert summary(of(scan)) == LEAKY.replace(" (-v lists 2)", "")


def test_ten_copies_are_listed_and_verbose_lists_all_with_every_rate_and_rule() -> None:
    quiet = summary(splitting_scans.leaky())
    assert quiet.count("  train#") == 10
    assert "(-v lists 13)" in quiet
    assert "\n  and 7 more\n" in quiet
    assert "\nislands: " not in quiet
    shown = summary(splitting_scans.leaky(), verbosity=1)
    assert shown.count("  train#") == 13
    assert "\n  and 4 more\n" in shown
    for expected in (
        "ratio 0.42, 0.43 in float32: one in about 12 million images",
        "islands: 12; after selection at least 41.0 % of an island's trajectories were effective, "
        "and its final images go back to at least 37 starting points",
        "expected of those found: 0.044 [0.0087, 0.1] among 1,000 images; "
        "4.4 [0.89, 11] among 1,000,000 images",
        "splitting rule: A ratio of at most 0.93 is confirmed",
    ):
        assert expected in shown, expected
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert "ratio at most by steering 95 % bounds never steered bounds" in rows
    assert "0.5 1 in 5 million [1 in 18 million, 1 in 1.4 million] 0 % [0 %, 1 in 170]" in rows


def test_copies_that_do_not_count_and_unsteered_ones_are_marked() -> None:
    copy = splitting_scans.copy(0)
    failed = replace(copy, finding=replace(copy.finding, confirmed=False))
    plain = replace(copy, num_islands=0, finding=replace(copy.finding, sample_id=7, train_id=9))
    scan = replace(
        splitting_scans.leaky_scan(),
        copies=(failed, plain),
        num_copies_total=2,
        num_plain_copies=12,
    )
    for kind in (scan, replace(scan, degenerate="Nothing was learnt.")):
        shown = summary(of(kind))
        assert "found by steering and without it: 2 training images; 1 not confirmed" in shown
        lines = [line for line in shown.splitlines() if line.startswith("  train#")]
        assert lines[0].startswith("  train#00012 <- steered#00545")
        assert lines[0].endswith("; 12 copies in 5 of 12 islands; not confirmed")
        assert lines[1].startswith("  train#00009 <- generated#00007")
        assert lines[1].endswith("; 12 copies, unsteered")


def test_nothing_found_says_what_was_and_what_was_not_excluded() -> None:
    for verbosity in (0, 1):
        shown = summary(splitting_scans.clean(), verbosity=verbosity)
        for expected in (
            "steering: nothing found: 1,536 trajectories were steered to 143 of 150 training "
            "images, all screened; the 512 unsteered images alone exclude a leak rate above "
            "0.58 % (95 % confidence); steering can miss a copy that the denoiser's early "
            "predictions do not point to",
            "none seen by steering; 0 % [0 %, 0.58 %] from 512 images that were never steered",
        ):
            assert expected in shown, expected
        assert "train#" not in shown
        assert "of those found" not in shown


def test_weights_that_say_nothing_give_no_rate_but_the_plain_one() -> None:
    for verbosity in (0, 1):
        shown = summary(splitting_scans.degenerate(), verbosity=verbosity)
        for expected in (
            "no rates by steering: All final images of an island go back to a single starting "
            "point; the 512 unsteered images alone exclude a leak rate above 0.58 %",
            "found by steering: 2 training images, not in normal use\n",
            "train#00012 <- steered#00545  ratio 0.12; 12 copies in 5 of 12 islands\n",
            "50 steps: 0 % [0 %, 0.58 %] from 512 images that were never steered, 0 of them",
        ):
            assert expected in shown, expected
        for absent in ("740", "one in", "steered_leak_rate", "expected among", "within reach"):
            assert absent not in shown, absent


def test_degenerate_weights_without_a_copy_are_told_too() -> None:
    scan = replace(splitting_scans.degenerate_scan(), copies=(), num_copies_total=0)
    shown = summary(of(scan, Verdict.INCONCLUSIVE))
    assert "no rates by steering: All final images" in shown
    assert "nothing found" not in shown
    assert "1,536 trajectories were steered to" in shown


def test_a_threshold_on_the_rate_is_not_repeated_for_information() -> None:
    result = splitting_scans.leaky()
    (check,) = result.checks
    scan = splitting_scans.scan_of(result)
    limit = replace(
        check.thresholds[0],
        expression="steered_leak_rate <= 1e-06",
        estimate=scan.metrics["steered_leak_rate"],
    )
    shown = summary(replace(result, checks=(replace(check, thresholds=(limit,)),)))
    assert shown.count("steered_leak_rate") == 2  # its row and the verdict
    assert ["extractable_images", "4", "[2,", "17]", "info"] in map(str.split, shown.splitlines())


def test_a_rate_of_one_in_a_billion_keeps_its_size_in_the_table() -> None:
    scan = splitting_scans.leaky_scan()
    rare = splitting_scans.rate(2.4e-8, 1.1e-9, 7e-8)
    scan = replace(scan, metrics={**scan.metrics, "steered_leak_rate": rare})
    row = next(line for line in summary(of(scan)).splitlines() if "steered_leak" in line)
    assert "1 in 42 million   [1 in 910 million, 1 in 14 million]" in row


def test_a_run_without_steering_has_no_such_line() -> None:
    for result in samples.every_verdict():
        assert splitting_lines(result, verbosity=1, width=80) == []
        assert "steer" not in summary(result, verbosity=1)


@pytest.mark.parametrize("result", splitting_scans.every_kind(), ids=lambda r: str(r.verdict))
@pytest.mark.parametrize("verbosity", [0, 1])
def test_lines_are_ascii_and_those_of_sentences_fit(result: RunResult, verbosity: int) -> None:
    lines = splitting_lines(result, verbosity=verbosity, width=80)
    assert lines
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert line == line.rstrip()
        assert len(line) <= 80 or "   " in line.strip()  # rows of the table stay whole


def test_hostile_strings_cannot_steer_the_terminal() -> None:
    attack = "\x1b[2J::error::x\n::add-mask::y"
    scan = replace(
        splitting_scans.leaky_scan(),
        name=attack,
        sampler=attack,
        degenerate=attack,
        calibration=replace(splitting_scans.leaky_scan().calibration, rule=attack),
    )
    for kind in (scan, replace(scan, degenerate="")):
        for line in splitting_lines(of(kind), verbosity=1, width=60):
            assert line.isprintable()
            assert not line.lstrip().startswith("::")
