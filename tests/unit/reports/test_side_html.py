"""The section of the HTML report on what surrogate labels brought out."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from unit.reports import samples, side_scans
from unit.reports.pages import Page, embedded

from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.pictures import ImagePolicy, embed
from pytest_memscan.reports.side_pictures import MAX_CLASSES
from pytest_memscan.results import RunResult, SideScan, Verdict


def render(result: RunResult, images: ImagePolicy = "blurred") -> str:
    return to_html(result, [], side=side_scans.pictures(result), images=images)


def of(scan: SideScan) -> RunResult:
    return side_scans.run(scan, Verdict.FAIL, "Copies.")


@pytest.mark.parametrize("images", ["none", "blurred", "clear"])
@pytest.mark.parametrize("result", side_scans.every_kind(), ids=lambda r: r.sentence)
def test_every_report_is_one_inert_file_with_labels(result: RunResult, images: ImagePolicy) -> None:
    page = render(result, images)
    parsed = Page(page)
    assert "<script" not in page
    page = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?://|//\w|@import|url\(|javascript:", page)
    ids = [each["id"] for _, each in parsed.found if "id" in each]
    assert len(ids) == len(set(ids))
    for chart in parsed.all("svg"):
        assert set((chart["aria-labelledby"] or "").split()) <= set(ids)
    assert len(parsed.all("svg")) == len(parsed.all("desc"))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(each["scope"] in ("col", "row") for each in parsed.all("th"))
    assert all(each["alt"] for each in parsed.all("img"))
    assert not re.search(r"\b(nan|inf|None)\b", parsed.words)


def test_cells_that_stand_alone_on_a_telephone_say_what_they_are() -> None:
    page = render(side_scans.leaky(), "none")
    for table in re.findall(r'<table class="stacks">.*?</table>', page, flags=re.DOTALL):
        cells = re.findall(r"<td[^>]*>", table)
        assert cells
        assert all("data-label=" in cell for cell in cells)


def test_the_section_goes_from_what_was_added_to_what_it_cost() -> None:
    words = Page(render(side_scans.leaky())).words
    places = []
    for expected in (
        "side_extracted <= 0 12 [11, 12] FAIL",
        "SIDE: surrogate conditions, neighbour-normalised L2 FAIL 12 training images are confirmed",
        "What SIDE added over plain sampling Each variant at its best lambda",
        "with 99.375 % bounds that allow for the best lambda having been picked",
        "Plain sampling none 0.90 % [0.59 %, 1.26 %] 1 0.70 % [0.43 %, 1.03 %] 1 9 0",
        "SIDE-C 7 3.79 % [3.16 %, 4.47 %] 4.20 [2.10, 9.30] 1.45 % [1.06 %, 1.89 %] 2.05 "
        "[1.12, 4.10] 18 7",
        "OL-TI (control) 12 0.90 %",
        "SIDE added something over plain sampling at mid level. AMS: more with SIDE-O, SIDE-C; no "
        "clear difference with OL-TI (control). UMS: more with SIDE-C;",
        "nothing certain where they include 1.",
        "Variants that were left out Variant Why side_a No auxiliary set was given",
        "31 in all, 12 confirmed as copied: 9 by plain sampling; 13 by SIDE-O at lambda 7, 3 of",
        "SIDE-C, lambda 7 train#00007 guided#00012 Ratio 0.22 Level high confirmed",
        "Plain sampling train#00016 generated#00043 Ratio 0.28 Level high confirmed",
        "2 more pairs",
        "SIDE-C, lambda 7 train#00115 guided#00384 Ratio 0.94 Level high not confirmed",
        "and 17 more that this report does not show",
        "SIDE-O added something over plain sampling in AMS and cannot be told from it in UMS",
        "SIDE-C: clusters of its own images SIDE-C added something over plain sampling at lambda 7",
        "AMS and UMS at each level (low: ratio of at most 1.5, mid: ratio of at most 1.4, high: "
        "ratio of at most 1.35), closer matches counted too, with 95 % bounds.",
        "SIDE-C, lambda 7 10.4 % [9.31 %, 11.4 %] 3.79 % [3.16 %, 4.47 %] 2.15 % [1.67 %, 2.68 %] "
        "3.59 % [2.98 %, 4.26 %] 1.45 % [1.06 %, 1.89 %] 0.90 % [0.59 %, 1.26 %]",
        "Mean over lambda, as in the paper 8.20 % 3.19 % 1.80 % 3.10 % 1.31 % 0.80 %",
        "AMS of SIDE-C over lambda",
        "Solid: SIDE-C; the dot is its best lambda. Dashed: plain sampling.",
        "Labels and classifier of SIDE-C K-means on pixel descriptors",
        "Made from clusters",
        "Clusters, before those without cohesion were dropped 84",
        "Classes that images were guided towards 61",
        "Samples in each class 9 to 41",
        "Cohesion of each class 0.61 to 0.83",
        "Samples in no class 551",
        "Told the timestep, and trained on noisy samples yes",
        "Steps, of 128 samples each 1,500 Largest learning rate 0.002",
        "Accuracy of the classifier of SIDE-C over timestep",
        "Timestep Accuracy 0 85.0 % [74.4 %, 96.2 %] 100 84.1 %",
        "Class Samples Cohesion 0 9 0.61 1 26 0.61",
        "Every lambda of SIDE-C",
        "Lambda 12 1.48 % [1.09 %, 1.93 %]",
        "Guidance Images Leak rate Copied Not by plain sampling Closest 0.1 % Closest 1",
        "Lambda 7 2,560 1.41 % [1.02 %, 1.84 %] 18 7 0.098 1.21 1.38",
        "What generating more with SIDE-C would bring out",
        "25,600 SIDE-C, lambda 7 81 [57, 106]",
        "OL-TI cannot be told from plain sampling at lambda 12",
        "Told the timestep, and trained on noisy samples no",
        "When a match is confirmed A ratio of at most 0.93 is confirmed",
        "re-encoded Training images saved as JPEG",
        "Calls, for one image each Denoiser 3,302,400 Classifiers, with their gradient 3,072,000",
        "Valid samples that labels and classifiers were made from 2,048",
        "Provenance of side",
    ):
        assert expected in words, expected
        start = places[-1] if places else 0
        assert expected in words[start:], expected
        places.append(words.index(expected, start))


def test_four_charts_are_drawn_for_each_variant() -> None:
    page = Page(render(side_scans.leaky()))
    assert len(page.all("svg")) == 4 * 3
    for expected in ("Dashed: chance.", "AMS of SIDE-O at mid level: 0.98 % [0.66 %, 1.35 %] at"):
        assert expected in page.words


def test_a_clean_checkpoint_shows_no_match_and_no_difference() -> None:
    page = Page(render(side_scans.clean()))
    for expected in (
        "SIDE added nothing certain over plain sampling at mid level.",
        "SIDE-C 5 0 % [0 %, 0.12 %] 1.00 [0.02, 41] 0 % [0 %, 0.12 %] 1.00 [0, no limit] 0 0",
        "No image, guided or not, matches a training image.",
        "plain sampling brought out nothing at this level.",
    ):
        assert expected in page.words, expected
    assert "left out" not in page.words
    assert not page.all("img")


def test_a_ratio_to_nothing_is_infinite_in_words() -> None:
    words = Page(render(side_scans.first())).words
    for expected in (
        "SIDE-C 7 3.79 % [3.16 %, 4.47 %] infinite [13, no limit]",
        "infinite where plain sampling has none",
        "The dot: SIDE-C.",
    ):
        assert expected in words, expected


def test_without_a_variant_plain_sampling_is_shown_alone() -> None:
    page = Page(render(of(replace(side_scans.leaky_scan(), variants=()))))
    assert "No variant of SIDE was run." in page.words
    assert "with the same seeds. AMS: share" in page.words
    assert "Ratio: to plain sampling. Copied" in page.words
    assert not page.all("svg")


def test_clear_pairs_stand_beside_each_other_and_blurred_ones_hold_no_clear_pixel() -> None:
    result = side_scans.leaky()
    pairs = side_scans.pictures(result)
    clear = embedded(render(result, "clear"))
    assert len(clear) == 2 * len(pairs)
    np.testing.assert_array_equal(clear[0], pairs[0].train)
    np.testing.assert_array_equal(clear[1], pairs[0].generated)
    blurred = render(result)
    for pair in pairs:
        for image in (pair.train, pair.generated):
            assert embed(image, images="clear").uri not in blurred
    names = [each["alt"] or "" for each in Page(blurred).all("img")]
    assert names[:4] == [
        "Training image train#00007, blurred",
        "Guided image guided#00012, blurred",
        "Training image train#00016, blurred",
        "Generated image generated#00043, blurred",
    ]


def test_without_images_the_matches_are_listed_all_the_same() -> None:
    page = render(side_scans.leaky(), "none")
    assert "data:image" not in page
    words = Page(page).words
    assert "This report embeds no images." in words
    assert "train#00007 guided#00012 SIDE-C, lambda 7 0.22 high yes" in words
    assert "2 more in the same order" in words
    assert "train#00115 guided#00384 SIDE-C, lambda 7 0.94 high no" in words


def test_pictures_of_the_same_row_under_other_guidance_are_left_out() -> None:
    result = side_scans.leaky()
    others = [
        replace(each, found=replace(each.found, scale=each.found.scale + 1))
        for each in side_scans.pictures(result)
    ]
    assert "data:image" not in to_html(result, [], side=others, images="clear")


def test_a_long_list_of_classes_is_cut() -> None:
    scan = side_scans.leaky_scan()
    variant = scan.variants[0]
    many = replace(variant.labels, sizes=(3,) * (MAX_CLASSES + 7), num_classes=MAX_CLASSES + 7)
    page = Page(render(of(replace(scan, variants=(replace(variant, labels=many),)))))
    assert "and 7 more classes" in page.words


def test_a_report_without_side_is_untouched() -> None:
    pictures = side_scans.pictures(side_scans.leaky())
    for result in samples.every_verdict():
        page = to_html(result, [], side=pictures, images="clear")
        assert page == to_html(result, [], images="clear")
        assert "SIDE" not in Page(page).words


def test_two_scans_of_one_run_do_not_share_an_id() -> None:
    result = side_scans.leaky()
    both = replace(result, checks=(*samples.failed().checks, *result.checks, *result.checks))
    parsed = Page(to_html(both, samples.pairs(both), images="none"))
    ids = [each["id"] for _, each in parsed.found if "id" in each]
    assert len(ids) == len(set(ids))


def test_hostile_strings_stay_text() -> None:
    attack = "<script>alert(1)</script>\u202e\x1b[0m"
    scan = side_scans.leaky_scan()
    variant = scan.variants[0]
    scan = replace(
        scan,
        title=attack,
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
    page = render(of(scan), "none")
    assert not Page(page).all("script")
    assert "\u202e" not in page
    assert "\x1b" not in page
