"""The section of the HTML report on copies that were found by steering."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from unit.reports import samples, splitting_scans
from unit.reports.pages import Page, embedded

from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.pictures import ImagePolicy, embed
from pytest_memscan.results import RunResult, Verdict


def render(result: RunResult, images: ImagePolicy = "blurred") -> str:
    return to_html(result, [], splitting=splitting_scans.pictures(result), images=images)


@pytest.mark.parametrize("images", ["none", "blurred", "clear"])
@pytest.mark.parametrize("result", splitting_scans.every_kind(), ids=lambda r: str(r.verdict))
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
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(each["alt"] for each in parsed.all("img"))
    assert not re.search(r"\b(nan|inf|None)\b", parsed.words)


def test_copies_are_shown_with_their_price_bounds_and_how_they_were_found() -> None:
    words = Page(render(splitting_scans.leaky())).words
    places = []
    for expected in (
        "extractable_images <= 0 4 [2, 17] FAIL",
        "Found by steering: 17 training images, not in normal use; 4 within reach (a first copy "
        "expected among 1,000,000 ordinary images). 1,536 trajectories were steered to 143 of 150",
        "found by steering towards training images, not in normal use. How rare each is",
        "These are rates of DDIMScheduler, eta 1, 50 steps ; another sampler has its own.",
        "By steering 0.0044 % [0.0012 %, 0.013 %] one in 23,000 images 1,536 steered and 512 "
        "unsteered images",
        "Never steered 0 % [0 %, 0.58 %] no image 0 of 512 images",
        "train#00012 steered#00545 Ratio 0.12 In normal use one in 34,000 images within reach",
        "train#00054 steered#00911 Ratio 0.42 In float32 0.43 In normal use one in 12 million "
        "images out of reach",
        "1 more pair ",
        "train#00012 steered#00545 0.12 1 in 34,000 1 in 410,000 12 5 within reach",
        "1 more in the same order",
        "train#00096 steered#01277 0.72 < 1 in 1 trillion no bound 1 1 out of reach",
        "and 4 more that this report does not show",
        "Dotted: images that were never steered",
        "0.5 1 in 5 million [1 in 18 million, 1 in 1.4 million] 0 % [0 %, 1 in 170]",
        "1,000,000 4.4 [0.89, 11]",
        "memoriser The same steering on a denoiser that copies by construction.",
        "Islands 12",
        "Fewest starting points behind an island's final images 37",
        "Denoiser calls: 102,850, screening included: as many as 2,057 ordinary images take.",
        "Provenance of splitting",
    ):
        assert expected in words, expected
        places.append(words.index(expected))
    assert places == sorted(places)


def test_copies_that_do_not_count_and_unsteered_ones_are_marked() -> None:
    copy = splitting_scans.copy(0)
    failed = replace(copy, finding=replace(copy.finding, confirmed=False))
    plain = replace(copy, num_islands=0, finding=replace(copy.finding, sample_id=7, train_id=9))
    scan = replace(splitting_scans.leaky_scan(), copies=(failed, plain), num_plain_copies=12)
    page = Page(render(splitting_scans.run(scan, Verdict.FAIL, "Copies.")))
    for expected in (
        "Found by steering and without it: 17 training images; at least 1 not confirmed; 4 within",
        "Images called steered# were found by steering",
        "one in 34,000 images not confirmed",
        "one in 34,000 images within reach",
        "Not confirmed: made again, the image did not copy it, so that it counts for nothing but",
        "train#00012 steered#00545 0.12 1 in 34,000 1 in 410,000 12 5 not confirmed",
        "train#00009 generated#00007 0.12 1 in 34,000 1 in 410,000 12 0 within reach",
    ):
        assert expected in page.words, expected
    names = [each["alt"] for each in page.all("img")]
    assert names[1] == "Steered image steered#00545, blurred"
    assert names[3] == "Unsteered image generated#00007, blurred"
    assert "Not confirmed:" not in Page(render(splitting_scans.leaky())).words


def test_nothing_found_says_what_was_excluded_and_draws_nothing() -> None:
    page = Page(render(splitting_scans.clean()))
    for expected in (
        "Nothing found: 1,536 trajectories were steered to 143 of 150 training images, all "
        "screened; the 512 unsteered images alone exclude a leak rate above 0.58 % (95 % "
        "confidence); steering can miss a copy",
        "By steering 0 % none: nothing was seen no image 1,536 steered and 512 unsteered images",
    ):
        assert expected in page.words, expected
    assert not page.all("svg")
    assert not page.all("img")
    assert "train#" not in page.words


def test_weights_that_say_nothing_give_no_rate_and_no_chart() -> None:
    page = Page(render(splitting_scans.degenerate()))
    for expected in (
        "NO RATES All final images of an island go back to a single starting point; the 512 "
        "unsteered images alone exclude a leak rate above 0.58 %",
        "train#00012 steered#00545 0.12 12 5 confirmed",
    ):
        assert expected in page.words, expected
    for absent in ("740", "one in", "In normal use", "By steering", "within reach"):
        assert absent not in page.words, absent
    assert not page.all("svg")
    assert len(page.all("img")) == 4


def test_clear_pairs_stand_beside_each_other_and_blurred_ones_hold_no_clear_pixel() -> None:
    result = splitting_scans.leaky()
    pairs = splitting_scans.pictures(result)
    clear = embedded(render(result, "clear"))
    assert len(clear) == 2 * len(pairs)
    np.testing.assert_array_equal(clear[0], pairs[0].train)
    np.testing.assert_array_equal(clear[1], pairs[0].steered)
    blurred = render(result)
    for pair in pairs:
        for image in (pair.train, pair.steered):
            assert embed(image, images="clear").uri not in blurred
    names = [each["alt"] or "" for each in Page(blurred).all("img")]
    assert names[:2] == [
        "Training image train#00012, blurred",
        "Steered image steered#00545, blurred",
    ]


def test_without_images_the_copies_are_listed_all_the_same() -> None:
    page = render(splitting_scans.leaky(), "none")
    assert "data:image" not in page
    assert "This report embeds no images. Likeliest first" in Page(page).words
    assert "train#00012 steered#00545 0.12 1 in 34,000" in Page(page).words


def test_pictures_of_other_findings_are_left_out() -> None:
    pictures = splitting_scans.pictures(splitting_scans.leaky())
    page = to_html(splitting_scans.clean(), [], splitting=pictures, images="clear")
    assert "data:image" not in page


def test_a_report_without_steering_is_untouched() -> None:
    pictures = splitting_scans.pictures(splitting_scans.leaky())
    for result in samples.every_verdict():
        page = to_html(result, [], splitting=pictures, images="clear")
        assert page == to_html(result, [], images="clear")
        assert "steer" not in Page(page).words


def test_two_scans_of_one_run_do_not_share_an_id() -> None:
    result = splitting_scans.leaky()
    both = replace(result, checks=(*samples.failed().checks, *result.checks, *result.checks))
    parsed = Page(to_html(both, samples.pairs(both), images="none"))
    ids = [each["id"] for _, each in parsed.found if "id" in each]
    assert len(ids) == len(set(ids))
    assert len(parsed.all("svg")) == 6


def test_hostile_strings_stay_text() -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x1b[0m"
    result = splitting_scans.leaky()
    scan = splitting_scans.leaky_scan()
    hostile = replace(
        scan,
        name=attack,
        title=attack,
        sampler=attack,
        measure=replace(scan.measure, word=attack, name=attack),
        calibration=replace(scan.calibration, rule=attack, source=attack),
        coverage=replace(scan.coverage, invalid={attack: 1}, train_unusable={attack: ("s.png",)}),
        controls=(replace(scan.controls[0], name=attack, sentence=attack),),
        provenance={attack: attack},
    )
    for kind in (hostile, replace(hostile, degenerate=attack)):
        check = replace(result.checks[0], splitting=kind, sentence=attack)
        page = render(replace(result, checks=(check,)), "none")
        parsed = Page(page)
        assert not parsed.all("img")
        assert not parsed.all("script")
        assert "\u202e" not in page
        assert "\x1b" not in page
        assert "s.png" not in page
