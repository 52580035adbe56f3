"""What the terminal says of SIDE."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.reports import samples, side_scans

from pytest_memscan.reports import terminal
from pytest_memscan.reports.side_lines import side_lines
from pytest_memscan.results import RunResult, SideScan, Verdict

LEAKY = """\
metric            value   95 % bounds        limit   result
side_extracted       12   [11, 12]           <= 0    FAIL
side_ams_mid     3.79 %   [2.40 %, 5.30 %]           info
side_ums_mid     1.45 %   [0.90 %, 2.40 %]           info
side_leak_rate   1.41 %   [1.02 %, 1.84 %]           info
side FAIL: 12 training images are confirmed as copied.
copied training images with SIDE: 12 confirmed; 31 within a published level (-v lists 14)
  at mid level      best lambda   AMS                       UMS                       AMS ratio           UMS ratio
  plain sampling                  0.90 % [0.59 %, 1.26 %]   0.70 % [0.43 %, 1.03 %]
  SIDE-O                      7   2.03 % [1.57 %, 2.55 %]   1.02 % [0.69 %, 1.40 %]   2.28 [1.04, 4.90]   1.42 [0.71, 2.90]
  SIDE-C                      7   3.79 % [3.16 %, 4.47 %]   1.45 % [1.06 %, 1.89 %]   4.20 [2.10, 9.30]   2.05 [1.12, 4.10]
  OL-TI (control)            12   0.90 % [0.59 %, 1.26 %]   0.70 % [0.43 %, 1.03 %]   1.02 [0.44, 2.20]   1.01 [0.47, 2.10]
side: SIDE added something over plain sampling at mid level. AMS: more with SIDE-O, SIDE-C; no clear difference with OL-TI (control). UMS: more with SIDE-C; no clear difference with SIDE-O, OL-TI (control)
side left out: side_a: No auxiliary set was given: --memscan-side-auxiliary names one.
side controls: re-encoded found 20/20; noise found 0/20
side coverage: generated 66048/66048, valid 66048, compared with 150 training images (150 distinct)
memscan: FAIL acme/faces@77ab013 (side_extracted 12 > 0)"""  # noqa: E501 - lines as they are


def summary(result: RunResult, *, verbosity: int = 0, width: int = 400) -> str:
    return "\n".join(terminal.summary_lines(result, verbosity=verbosity, width=width))


def of(scan: SideScan) -> RunResult:
    return side_scans.run(scan, Verdict.FAIL, "12 training images are confirmed as copied.")


def test_every_variant_stands_beside_plain_sampling() -> None:
    assert summary(side_scans.leaky()) == LEAKY


def test_verbose_lists_every_match_every_lambda_and_every_rule() -> None:
    shown = summary(side_scans.leaky(), verbosity=1)
    assert shown.count("  train#") == 14
    assert "(-v lists" not in shown
    for expected in (
        "  train#00007 <- guided#00012  ratio 0.22 (high, confirmed; SIDE-C, lambda 7)\n",
        "  train#00016 <- generated#00043  ratio 0.28 (high, confirmed; plain sampling)\n",
        "  train#00097 <- generated#00322  ratio 0.82, 0.92 in float32 (high, confirmed; plain",
        "  train#00115 <- guided#00384  ratio 0.94 (high, not confirmed; SIDE-C, lambda 7)\n",
        "\n  and 17 more\n",
        "\ncopied: 9 by plain sampling; 13 by SIDE-O at lambda 7, 3 of them not by plain",
        "\nSIDE-C: clusters of its own images\n  SIDE-C added something over plain sampling at",
        "  labels: K-means on pixel descriptors of the samples; clusters with a cohesion below 0.6 "
        "are dropped; 61 classes (84 clusters",
        "  classifier: ResNet of 5 blocks, 32 to 128 channels, not told the timestep; 1,500 steps",
        "  mean over lambda, as in the paper: AMS 3.19 %, UMS 1.31 % at mid level\n",
        "in brackets: 95 % bounds of AMS and UMS, 99.375 % bounds of ratios\n",
        "nothing certain where they include 1.\n",
        "side rule: A ratio of at most 0.93 is confirmed",
        "side calls: 3,302,400 of the denoiser, 3,072,000 of classifiers with their gradient",
    ):
        assert expected in shown, expected
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert "lambda UMS low UMS mid UMS high" in rows
    assert "7 10.4 % [9.31 %, 11.4 %] 3.79 % [3.16 %, 4.47 %] 2.15 % [1.67 %, 2.68 %]" in rows
    assert (
        "lambda images leak rate copied not by plain sampling closest 0.1 % closest 1 % closest 5 %"
    ) in rows
    assert "7 2,560 1.41 % [1.02 %, 1.84 %] 18 7 0.098 1.21 1.38" in rows
    assert "plain 2,560 0.70 % [0.43 %, 1.03 %] 9 0 0.41 1.21 1.38" in rows


def test_a_clean_checkpoint_stays_clean() -> None:
    shown = summary(side_scans.clean())
    for expected in (
        "copied training images with SIDE: none confirmed\n",
        "SIDE added nothing certain over plain sampling at mid level. AMS: no clear difference",
        "1.00 [0.02, 41]   1.00 [0, no limit]\n",
    ):
        assert expected in shown, expected
    assert "train#" not in summary(side_scans.clean(), verbosity=1)
    assert "left out" not in shown


def test_a_ratio_to_nothing_is_infinite_in_words() -> None:
    shown = summary(side_scans.first())
    assert "infinite [13, no limit]   infinite [0, no limit]" in shown
    assert "plain sampling brought out nothing at this level" in summary(
        side_scans.first(), verbosity=1
    )


def test_without_a_variant_plain_sampling_is_shown_alone() -> None:
    scan = replace(side_scans.leaky_scan(), variants=())
    shown = summary(of(scan), verbosity=1)
    assert "side: no variant of SIDE was run\n" in shown
    assert "plain sampling                 0.90 %" in shown
    assert "in brackets: 95 % bounds\n" in shown


def test_a_threshold_is_not_repeated_for_information() -> None:
    assert summary(side_scans.leaky()).count("side_extracted") == 2  # its row and the verdict


def test_a_run_without_side_has_no_such_line() -> None:
    for result in samples.every_verdict():
        assert side_lines(result, verbosity=1, width=80) == []
        assert "SIDE" not in summary(result, verbosity=1)


@pytest.mark.parametrize("result", side_scans.every_kind(), ids=lambda r: r.sentence)
@pytest.mark.parametrize("verbosity", [0, 1])
def test_lines_are_ascii_and_those_of_sentences_fit(result: RunResult, verbosity: int) -> None:
    lines = side_lines(result, verbosity=verbosity, width=80)
    assert lines
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert line == line.rstrip()
        assert len(line) <= 80 or "   " in line.strip()  # rows of the tables stay whole


def test_hostile_strings_cannot_steer_the_terminal() -> None:
    attack = "\x1b[2J::error::x\n::add-mask::y"
    scan = side_scans.leaky_scan()
    variant = scan.variants[0]
    scan = replace(
        scan,
        name=attack,
        variants=(
            replace(
                variant,
                title=attack,
                labels=replace(variant.labels, sentence=attack, maker=attack),
                training=replace(variant.training, network=attack),
            ),
        ),
        left_out={attack: attack},
        findings=tuple(replace(each, variant=attack) for each in scan.findings),
    )
    for verbosity in (0, 1):
        for line in side_lines(of(scan), verbosity=verbosity, width=60):
            assert line.isprintable()
            assert not line.lstrip().startswith("::")
