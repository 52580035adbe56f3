"""What the HTML report says of the whole run: waivers, changes, gaps, cost, and what it holds."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from unit.reports import prompt_samples, rich_samples, samples, scans, side_scans
from unit.reports.pages import Page, assert_inert

import pytest_memscan.reports
from pytest_memscan.reports import overview
from pytest_memscan.reports.html import MAX_PAIRS, NUM_OPEN, PAGE, Pair, to_html
from pytest_memscan.reports.pictures import CLEAR_SIDE, MAX_BYTES, Album, embed, shrunk
from pytest_memscan.results import CheckOutcome, RunResult, Verdict

TEXT = "a portrait of Ada, oil on canvas"


def words(result: RunResult, **pictures: object) -> str:
    return Page(to_html(result, [], images="blurred", **pictures)).words  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page() -> str:
    result = rich_samples.rich()
    return to_html(result, rich_samples.pairs(result, size=16), images="blurred")


def test_five_hundred_findings_are_drawn_in_folds(page: str) -> None:
    assert_inert(page)
    parsed = Page(page)
    assert len(parsed.all("img")) == 2 * MAX_PAIRS
    assert f"{NUM_OPEN + 1} to {NUM_OPEN + PAGE} of 500 pairs" in parsed.words
    assert "493 to 500 of 500 pairs" in parsed.words
    shown = [name for name in re.findall(r'class="name">(train#\d{5})<', page)]
    assert shown == [f"train#{index:05d}" for index in range(MAX_PAIRS)]
    assert "and 20 more that this report does not show" in parsed.words


def test_waivers_come_before_the_findings_and_mark_them(page: str) -> None:
    said = Page(page).words
    expected = (
        "train#00000@1f2e3d4c USED 2027-04-01 Public domain, cleared by legal on 2026-10-02",
        "train#00007@1f2e3d4c EXPIRED 2026-09-30 Under review memscan.toml",
        "Not counted, because waived: 1",
        "confirmed train#00000@1f2e3d4c waived",
    )
    assert all(each in said for each in expected)
    assert said.count("1f2e3d4c waived") == 1
    assert page.index('id="waivers"') < page.index('id="scan1"')
    assert "memscan.toml." in overview.HOW_TO_WAIVE
    assert overview.HOW_TO_WAIVE in said


def test_only_findings_that_count_have_an_id(page: str) -> None:
    ids = re.findall(r'class="id"><code>(.*?)</code>', page)
    assert len(ids) == 480  # the last twenty are not confirmed
    assert set(ids) == {f"train#{index:05d}@1f2e3d4c" for index in range(480)}


def test_an_id_that_no_waiver_could_name_is_not_offered() -> None:
    """Reports of older versions know no fingerprint."""
    said = words(samples.failed())
    assert "@unknown" not in said
    assert overview.HOW_TO_WAIVE not in said


def test_ids_stand_in_the_table_where_there_are_no_pictures() -> None:
    said = Page(to_html(rich_samples.rich(), [], images="none")).words
    assert "train#00000 generated#00000 0.20 0.031 high yes train#00000@1f2e3d4c waived" in said
    assert "train#00499 generated#00499 0.90" in said
    assert "no none" in said


def test_changes_since_the_baseline_are_a_table(page: str) -> None:
    said = Page(page).words
    assert "Compared with acme/faces@1f03c2d (baseline.json)" in said
    assert "extracted carlini 112 exact 500 exact 391 3 < 1e-6 INCREASED exact McNemar" in said
    assert "78.1 % [74.1 %, 82.0 %] 80.0 % [76.0 %, 83.6 %] - - 0.21 no increase shown" in said


def test_runs_that_cannot_be_compared_show_what_differs() -> None:
    check = CheckOutcome(
        name="regression",
        verdict=Verdict.ERROR,
        sentence="incomparable",
        regression=rich_samples.INCOMPARABLE,
    )
    said = words(replace(samples.passed(), checks=(check,)))
    assert "INCOMPARABLE" in said
    assert "carlini: seed 0 1" in said
    assert "INCREASED" not in said


def test_everything_that_was_not_scanned_is_said(page: str) -> None:
    said = Page(page).words
    for expected in (
        "finextract the whole check It needs a base",
        "carlini 3 generated images invalid: black",
        "carlini 4 training images unusable: not an image",
        "extended_side the whole check An unconditional checkpoint has no keys.",
    ):
        assert expected in said
    assert "private-name" not in page


def test_a_gap_of_several_checks_is_said_once() -> None:
    coverage = replace(scans.COVERAGE, generated=300, train_unusable={"empty": ("a.png",)})
    scan = replace(scans.clean_scan(), coverage=coverage)
    first = CheckOutcome(name="memscan::carlini", verdict=Verdict.PASS, sentence="", scan=scan)
    result = replace(samples.passed(), checks=(first, replace(first, name="other")))
    assert overview.gaps(result) == [
        overview.Gap(checks="carlini, other", what="20 planned images", why="not generated"),
        overview.Gap(checks="carlini, other", what="1 training image", why="unusable: empty"),
    ]


def test_gaps_of_prompts_variants_and_duplicates_are_known() -> None:
    result = prompt_samples.leaky()
    carlini = next(each for each in result.checks if each.prompt_scan is not None)
    assert carlini.prompt_scan is not None
    prompts = replace(carlini.prompt_scan.prompts, num_planned=500)
    carlini = replace(carlini, prompt_scan=replace(carlini.prompt_scan, prompts=prompts))
    found = {(gap.what, gap.why) for gap in overview.gaps(replace(result, checks=(carlini,)))}
    assert found == {
        ("4 generated images", "invalid: black"),
        ("1 prompt", "unusable: NUL character"),
        ("2 prompts", "unusable: not UTF-8"),
        ("1,500 prompts", "the budget reaches 25.0 % of them"),
        ("the end of 12 prompts", "longer than the tokenizer reads"),
    }
    scan = replace(side_scans.leaky_scan(), left_out={"SIDE-T": "it needs prompts"})
    check = CheckOutcome(name="side", verdict=Verdict.PASS, sentence="", side=scan)
    found = {(g.what, g.why) for g in overview.gaps(replace(samples.passed(), checks=(check,)))}
    assert ("variant SIDE-T", "it needs prompts") in found


def test_a_run_without_gaps_says_so() -> None:
    assert "Nothing: every planned image was generated and valid" in words(samples.passed())


def test_cost_is_one_table_with_every_timing(page: str) -> None:
    said = Page(page).words
    assert "integrity - - < 0.1 s - carlini 320 16,000 1 min 14 s 4.3 In all" in said
    rows = overview.costs(samples.failed())  # its steps are not named like its checks
    assert [row.name for row in rows] == ["carlini", "verify", "generate", "compare"]
    assert rows[0].seconds is None
    assert rows[0].images_per_second is None


def test_contents_lead_to_every_part_by_its_heading(page: str) -> None:
    nav = page[page.index("<nav") : page.index("</nav>")]
    entries = re.findall(r'<a href="#(.*?)">(.*?)</a>', nav)
    headings = re.findall(r'<h2 id="(.*?)">(.*?)</h2>', page[page.index("<main") :])
    assert entries == headings
    assert len(entries) >= 9
    assert re.search(r'<a class="skip" href="#results">', page)


@pytest.mark.parametrize("result", [*samples.every_verdict(), *prompt_samples.every_kind()])
def test_no_level_of_headings_is_skipped(result: RunResult) -> None:
    page = to_html(result, samples.pairs(result), images="blurred")
    levels = [int(level) for level in re.findall(r"<h([1-6])\b", page)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_prompts_are_shown_where_they_were_asked_for_and_said_so() -> None:
    silent = prompt_samples.leaky()
    told = replace(silent, prompt_texts={"prompt#00017": f"{TEXT}\u202e<b>"})
    pictures = prompt_samples.prompt_pictures()
    page = to_html(told, [], prompts=pictures, images="blurred")
    assert_inert(page)
    assert page.count(f"{TEXT}\\u202e&lt;b&gt;") == 1
    said = Page(page).words
    assert "This file contains the texts of prompts" in said
    assert "never by their text" not in said
    without = words(silent, prompts=pictures)
    assert "This file contains the texts of prompts" not in without
    assert "prompts by theirs, never by their text" in without
    assert TEXT in words(told)  # in the table, where there are no pictures


def test_a_file_with_clear_images_says_so() -> None:
    result = samples.failed()
    pairs = samples.pairs(result)[:2]
    notice = "This file shows images as they are"
    assert notice in Page(to_html(result, pairs, images="clear")).words
    assert notice not in Page(to_html(result, pairs, images="blurred")).words
    assert notice not in Page(to_html(result, [], images="clear")).words


def test_an_album_takes_pictures_until_it_is_full() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    size = len(embed(image, images="clear").uri)
    album = Album("clear", max_bytes=5 * size)
    pairs = [album.add(image, image) for _ in range(4)]
    assert [pair is not None for pair in pairs] == [True, True, False, False]
    assert album.num_bytes == 4 * size
    assert album.is_full
    assert album.add(image[:1, :1]) is None  # else a later one would stand for an earlier
    assert Album("none").add(image) is None


def test_clear_images_that_do_not_fit_are_listed_not_dropped() -> None:
    result = rich_samples.rich()
    noise = np.random.default_rng(0).integers(0, 256, (CLEAR_SIDE, CLEAR_SIDE, 3), dtype=np.uint8)
    carlini = result.checks[1].scan
    assert carlini is not None
    pairs = [Pair(finding=each, generated=noise, train=noise) for each in carlini.findings[:60]]
    page = to_html(result, pairs, images="clear")
    num_drawn = len(Page(page).all("img")) // 2
    assert 20 < num_drawn < 60
    assert MAX_BYTES * 0.9 < len(page) < MAX_BYTES * 1.1
    said = Page(page).words
    assert f"{500 - num_drawn} further matches: the images of this report weigh" in said
    for index in range(500):
        assert f"train#{index:05d}@1f2e3d4c" in said or index >= 480
        assert f"train#{index:05d}" in said


@pytest.mark.parametrize(("shape", "small"), [((512, 256, 1), (256, 128, 1)), ((9, 9, 3), None)])
def test_images_are_kept_at_the_size_that_reports_draw(
    shape: tuple[int, int, int], small: tuple[int, int, int] | None
) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    kept = shrunk(image)
    assert kept.shape == (small or shape)
    assert embed(kept, images="clear") == embed(image, images="clear")


THEMES = {"light": 0, "dark": 1}
TONES = ("pass", "fail", "doubt", "error", "idle")


@pytest.mark.parametrize("theme", THEMES)
def test_words_stand_out_from_what_is_behind_them(theme: str) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, 3 for the parts of charts."""
    style = Path(pytest_memscan.reports.__path__[0], "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[THEMES[theme]]))
    names = ("ink", "muted", "accent", "hit", "doubt")
    text = [(name, behind) for name in names for behind in ("page", "panel")]
    text += [(name, f"{tone}-tint") for tone in TONES for name in ("ink", "muted", tone)]
    text += [("on-tone", tone) for tone in TONES]
    for front, behind in text:
        assert contrast(colour[front], colour[behind]) >= 4.5, (front, behind)
    for front in ("accent", "hit", "muted"):
        assert contrast(colour[front], colour["page"]) >= 3, front


def contrast(front: str, behind: str) -> float:
    """Ratio of relative luminances, as WCAG defines it."""
    lighter, darker = sorted((luminance(front), luminance(behind)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return float(np.dot((0.2126, 0.7152, 0.0722), tuple(linear)))
