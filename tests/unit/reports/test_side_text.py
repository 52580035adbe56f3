"""What SIDE added over plain sampling, in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from unit.reports import side_scans as scans

from pytest_memscan.reports import side_label_text as label_words
from pytest_memscan.reports import side_text as words
from pytest_memscan.reports.side_text import Standing
from pytest_memscan.results import Estimate, Gain, SideScan, SideVariant

MORE = scans.ratio(3.0, 1.001, 9.0)
UNCLEAR = scans.ratio(1.3, 0.8, 2.0)
LESS = scans.ratio(0.4, 0.2, 0.999)


def with_gain(variant: SideVariant, ams: Estimate, ums: Estimate) -> SideVariant:
    return replace(variant, gain=Gain(ams=ams, ums=ums))


def with_variants(*variants: SideVariant) -> SideScan:
    return replace(scans.leaky_scan(), variants=variants)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (MORE, Standing.MORE),
        (UNCLEAR, Standing.UNCLEAR),
        (LESS, Standing.LESS),
        (scans.ratio(2.0, 1.0, 4.0), Standing.UNCLEAR),
        (scans.ratio(0.5, 0.3, 1.0), Standing.UNCLEAR),
        (scans.ratio(math.inf, 1.8, math.inf), Standing.MORE),
        (scans.ratio(1.0, 0.0, math.inf), Standing.UNCLEAR),
    ],
)
def test_bounds_that_include_one_leave_it_open(ratio: Estimate, expected: Standing) -> None:
    assert words.standing(ratio) is expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (scans.ratio(4.2, 2.1, 9.3), "4.20 [2.10, 9.30]"),
        (scans.ratio(math.inf, 1.8, math.inf), "infinite [1.80, no limit]"),
        (scans.ratio(38.4, 0.001, 1234.5), "38 [< 0.01, 1,234]"),
        (scans.ratio(0.0, 0.0, 0.9), "0 [0, 0.90]"),
    ],
)
def test_ratios_are_short_and_can_be_infinite(ratio: Estimate, expected: str) -> None:
    assert f"{words.ratio_value(ratio)} {words.ratio_bounds(ratio)}" == expected


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((MORE, MORE), "added something over plain sampling at lambda 7: "),
        (
            (MORE, UNCLEAR),
            "added something over plain sampling in AMS and cannot be told from it in",
        ),
        ((UNCLEAR, UNCLEAR), "cannot be told from plain sampling at lambda 7: "),
        ((UNCLEAR, LESS), "cannot be told from plain sampling in AMS and brought out less than it"),
        ((LESS, LESS), "brought out less than plain sampling at lambda 7: "),
    ],
)
def test_a_variant_is_told_by_both_of_its_ratios(
    gains: tuple[Estimate, Estimate], expected: str
) -> None:
    variant = with_gain(scans.side_c(), *gains)
    assert words.gain_text(variant, scans.leaky_scan()).startswith(expected)


def test_a_ratio_to_nothing_says_so() -> None:
    scan = scans.first_scan()
    assert words.gain_text(scan.variants[0], scan) == (
        "added something over plain sampling in AMS and cannot be told from it in UMS at lambda 7: "
        "the ratio is infinite [13, no limit] in AMS and infinite [0, no limit] in UMS at mid "
        "level; plain sampling brought out nothing at this level"
    )


def test_a_control_should_add_nothing() -> None:
    scan = scans.leaky_scan()
    control = scans.ol_ti()
    assert words.gain_text(control, scan).endswith("; as expected of a control")
    wrong = with_gain(control, UNCLEAR, MORE)
    assert words.gain_text(wrong, scan).endswith("; a control should not do so")
    assert words.SUSPICIOUS_CONTROL not in words.added_text(scan)
    assert words.added_text(with_variants(scans.side_c(), wrong)).endswith(words.SUSPICIOUS_CONTROL)


def test_the_scan_tells_which_variants_added_something() -> None:
    assert words.added_text(scans.leaky_scan()) == (
        "SIDE added something over plain sampling at mid level. "
        "AMS: more with SIDE-O, SIDE-C; no clear difference with OL-TI (control). "
        "UMS: more with SIDE-C; no clear difference with SIDE-O, OL-TI (control)"
    )


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((UNCLEAR, MORE), "SIDE added something over"),
        ((UNCLEAR, LESS), "SIDE added nothing certain over"),
        ((LESS, LESS), "SIDE brought out less than"),
    ],
)
def test_controls_do_not_count_in_the_headline(
    gains: tuple[Estimate, Estimate], expected: str
) -> None:
    variants = (with_gain(scans.side_c(), *gains), with_gain(scans.ol_ti(), MORE, MORE))
    assert words.headline(with_variants(*variants)) == f"{expected} plain sampling at mid level"


def test_without_a_variant_nothing_is_claimed() -> None:
    assert words.added_text(with_variants()) == "no variant of SIDE was run"
    assert words.headline(with_variants(scans.ol_ti())) == "only controls were run"


def test_images_are_called_by_what_guided_them() -> None:
    scan = scans.leaky_scan()
    guided, plain, _ = scan.findings[:3]
    assert words.image_name(guided) == "guided#00012"
    assert words.guidance_text(guided, scan) == "SIDE-C, lambda 7"
    assert words.image_name(plain) == "generated#00043"
    assert words.guidance_text(plain, scan) == "plain sampling"
    unknown = replace(guided, variant="side_x", scale=0.5)
    assert words.guidance_text(unknown, scan) == "side_x, lambda 0.5"
    assert words.short_title(replace(scans.side_c(), title="")) == "side_c"


def test_copies_are_counted_by_what_made_them() -> None:
    scan = scans.leaky_scan()
    assert words.copied_text(scan) == "12 confirmed; 31 within a published level"
    assert words.copied_text(scans.clean_scan()) == "none confirmed"
    assert words.confirmed_text(replace(scan, metrics={})) == "12"
    assert words.origin_text(replace(scan, variants=(scans.side_c(),))) == (
        "9 by plain sampling; 18 by SIDE-C at lambda 7, 7 of them not by plain sampling; 6 by the "
        "2,048 samples"
    )


def test_labels_are_told_by_their_classes() -> None:
    assert label_words.labels_text(scans.CLUSTERS) == (
        "61 classes (84 clusters before those without cohesion were dropped) of 2,048 samples, 9 "
        "to 41 in each, cohesion 0.61 to 0.83; 551 samples in no class"
    )
    assert (
        label_words.labels_text(scans.TRAIN_LABELS)
        == "10 classes of 2,048 samples, 9 to 30 in each"
    )
    one = replace(scans.TRAIN_LABELS, num_classes=1, sizes=(7,))
    assert label_words.labels_text(one) == "1 class of 2,048 samples, 7 in each"
    assert label_words.sizes_text(replace(one, sizes=())) == "not known"


def test_a_classifier_is_told_by_what_it_learnt() -> None:
    told = label_words.training_text(scans.training())
    assert told.endswith(
        "1,500 steps of 128 among 1,843 samples; accuracy on 205 others: 85.0 % [74.4 %, 96.2 %] "
        "at timestep 0, 8.71 % [5.33 %, 12.8 %] at timestep 900 (chance 3.10 %)"
    )
    assert ", told the timestep; " in told
    blind = scans.ol_ti().training
    assert ", not told the timestep; " in label_words.training_text(blind)
    assert label_words.accuracies_text(blind).count("timestep") == 1
    assert label_words.accuracies_text(replace(blind, accuracies=())) == "not measured"


def test_only_shares_that_all_images_have_are_compared() -> None:
    first, second = scans.plain(), replace(scans.plain(), top={"0.05": 1.2, "0.01": 1.1, "0.5": 2})
    assert words.top_shares([first, second]) == ["0.01", "0.05"]
    assert words.top_shares([]) == []
    assert [words.top_label(each) for each in ("0.0001", "0.05")] == [
        "closest 0.01 %",
        "closest 5 %",
    ]


def test_an_unknown_level_is_an_error() -> None:
    with pytest.raises(ValueError, match="no level is called 'middle'"):
        words.level_of(scans.plain(), "middle")
