"""What reports say of steering prompt by prompt, and what they keep to themselves."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
from unit.reports import prompt_scans, samples, splitting_scans
from unit.reports.pages import Page
from unit.reports.splitting_scans import leaky_scan, prompted, run, scan_of

from pytest_memscan.reports import json as report
from pytest_memscan.reports import splitting_prompt_text as words
from pytest_memscan.reports import terminal
from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.pictures import ImagePolicy
from pytest_memscan.reports.prompt_text import PROBE, prompt_name
from pytest_memscan.reports.splitting_lines import splitting_lines
from pytest_memscan.reports.splitting_pictures import MAX_LISTED
from pytest_memscan.results import PromptLeak, RunResult, SplittingScan, Verdict

SECRET = "alice"  # noqa: S105  # a marker, not a password
WORST = [0, 5, 10, 3, 8, 1, 6]  # prompts of the sample, likeliest to leak first


def summary(result: RunResult, *, verbosity: int = 0, width: int = 400) -> str:
    return "\n".join(terminal.summary_lines(result, verbosity=verbosity, width=width))


def of(scan: SplittingScan, verdict: Verdict = Verdict.FAIL) -> RunResult:
    return run(scan, verdict, "4 training images come out within 1,000,000 images.")


def html(result: RunResult, images: ImagePolicy = "blurred") -> str:
    return to_html(result, [], splitting=splitting_scans.pictures(result), images=images)


def rows_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith("  prompt#")]


# --- words --------------------------------------------------------------------------------------


def test_the_worst_come_first_and_those_without_a_copy_are_left_out() -> None:
    scan = prompted(leaky_scan())
    assert [each.prompt_id for each in words.leaking_prompts(scan)] == WORST
    # Where weights say nothing, unsteered rates decide, then how much was copied.
    blind = replace(
        scan,
        degenerate="Nothing was learnt.",
        prompts=tuple(
            replace(each, plain_rate=splitting_scans.plain(7)) if each.prompt_id == 6 else each
            for each in scan.prompts
        ),
    )
    assert [each.prompt_id for each in words.leaking_prompts(blind)] == [6, 0, 1, 3, 5, 8, 10]


def test_a_prompt_is_named_as_in_every_other_part() -> None:
    names = words.prompt_names(prompted(leaky_scan()))
    assert str(names[0]) == "prompt#00000 (line 4)"
    assert str(names[1]) == "prompt#00001 (row 9)"
    assert str(names[2]) == "prompt#00002"  # known only by the name of its file
    finding = prompt_scans.prompt_scan().findings[0]
    assert prompt_name(replace(finding, prompt_id=7, route="escalated")) == names[7].name
    elsewhere = replace(leaky_scan().copies[0], prompt_id=812)
    names = words.prompt_names(prompted(leaky_scan(), copies=(elsewhere,)))
    assert str(names[812]) == "prompt#00812"


def test_an_ordinary_image_is_one_of_the_prompts() -> None:
    scan = prompted(leaky_scan())
    assert words.ordinary_text(scan) == "one of the 12 prompts, each as often"
    alone = replace(scan, prompts=scan.prompts[:1])
    assert words.ordinary_text(alone) == "the one prompt scanned"
    assert words.of_prompts(alone) == " of 1 prompt"
    assert words.ordinary_text(leaky_scan()) == ""
    assert words.of_prompts(leaky_scan()) == ""


def test_what_is_known_of_the_others_is_what_is_known_of_the_least_known() -> None:
    scan = prompted(leaky_scan())
    assert words.quiet_text(scan) == (
        "5 of 12 gave no copy; each one's own unsteered images alone exclude a leak rate above "
        "6.20 % (95 % confidence)"
    )
    quiet = [each for each in scan.prompts if not each.num_copies]
    assert max(each.plain_rate.upper for each in quiet) == pytest.approx(0.062)
    alone = replace(scan, prompts=tuple(quiet[:1]))
    assert words.leaking_text(alone) == "none of 1"
    assert words.quiet_text(alone).startswith("its own unsteered images alone exclude")
    loud = replace(scan, prompts=tuple(each for each in scan.prompts if each.num_copies)[:1])
    assert words.quiet_text(loud) == ""
    assert words.leaking_text(loud) == "1 of 1"


# --- the terminal -------------------------------------------------------------------------------


def test_the_terminal_names_prompts_and_shows_the_five_worst() -> None:
    shown = summary(of(prompted(leaky_scan())))
    for expected in (
        "train#00012 <- steered#00545 of prompt#00000 (line 4)  ratio 0.12: one in about 34,000",
        "train#00033 <- steered#00728 of prompt#00005  ratio 0.27",
        "1,536 trajectories of 12 prompts were steered to at least 143 of 150 training images with "
        "each prompt, all screened",
        "leak rate of DDIMScheduler, eta 1, 50 steps for an image of one of the 12 prompts, each "
        "as often: 0.0044 % [0.0012 %, 0.013 %]",
        "prompts that gave copies, with the leak rate of each: 7 of 12, worst first (-v lists 7)",
        "  and 2 more\n  5 of 12 gave no copy; ",
        "splitting prompts: 104 found in captions.txt, 100 used; 12 of them scanned (12.0 %), the "
        "budget reaches no further",
        "splitting denoiser calls: 102,850, screening included\n",
    ):
        assert expected in shown, expected
    rows = rows_of(shown)
    assert rows[0] == "prompt#00000 line 4 1 in 3,200 [1 in 29,000, 1 in 810] 0 % [0 %, 1 in 14] 2"
    assert [int(row[7:12]) for row in rows] == WORST[:5]
    assert PROBE[:20] not in shown


def test_verbose_lists_every_prompt_that_gave_a_copy() -> None:
    shown = summary(of(prompted(leaky_scan())), verbosity=1)
    assert [int(row[7:12]) for row in rows_of(shown)] == WORST
    assert "worst first\n" in shown
    assert "\n  and 2 more\n" not in shown
    assert "\nislands: 12 for each prompt; after selection" in shown


def test_where_nothing_was_found_no_table_is_shown() -> None:
    shown = summary(of(prompted(splitting_scans.clean_scan()), Verdict.PASS))
    assert (
        "\nprompts that gave copies: none of 12; each one's own unsteered images alone exclude a "
        "leak rate above 6.90 % (95 % confidence)\n"
    ) in shown
    assert "prompt#" not in shown


def test_weights_that_say_nothing_give_no_rate_of_any_prompt() -> None:
    shown = summary(of(prompted(splitting_scans.degenerate_scan()), Verdict.INCONCLUSIVE))
    rows = rows_of(shown)
    assert rows[0] == "prompt#00000 line 4 0 % [0 %, 1 in 14] 2"
    assert "by steering" not in shown[shown.index("prompts that gave") :]
    page = Page(html(of(prompted(splitting_scans.degenerate_scan()), Verdict.INCONCLUSIVE)))
    assert "prompt#00000 line 4 0 % [0 %, 1 in 14] 2" in page.words
    assert "1 in 3,200" not in page.words


def test_the_probe_list_says_what_it_cannot_show() -> None:
    scan = prompted(leaky_scan(), prompt_coverage=prompt_scans.PROBES)
    assert f"probes: {PROBE}" in summary(of(scan))
    assert PROBE in Page(html(of(scan))).words


@pytest.mark.parametrize("result", splitting_scans.prompted_kinds(), ids=lambda r: str(r.verdict))
@pytest.mark.parametrize("verbosity", [0, 1])
def test_lines_are_ascii_and_those_of_sentences_fit(result: RunResult, verbosity: int) -> None:
    for line in splitting_lines(result, verbosity=verbosity, width=80):
        assert line.isascii()
        assert line.isprintable()
        assert line == line.rstrip()
        assert len(line) <= 80 or "   " in line.strip()  # rows of a table stay whole


# --- HTML ---------------------------------------------------------------------------------------


def test_the_page_has_the_prompts_on_cards_and_in_tables() -> None:
    page = Page(html(of(prompted(leaky_scan()))))
    places = []
    for expected in (
        "DDIMScheduler, eta 1, 50 steps for an image of one of the 12 prompts, each as often; ano",
        "Prompts that gave copies 7 of 12, worst first. Prompts are named by their number and",
        "5 of 12 gave no copy; each one's own unsteered images alone exclude a leak rate above",
        "prompt#00000 line 4 1 in 3,200 [1 in 29,000, 1 in 810] 0 % [0 %, 1 in 14] 2",
        "prompt#00005 - 1 in 8,300",
        "prompt#00006 line 4 1 in 33 million",
        "prompt#00000 line 4 train#00012 steered#00545 Ratio 0.12",
        "those of the same number of all prompts taken together; 0 where",
        "Prompt: that of the closest of them.",
        "train#00012 steered#00545 prompt#00000 0.12 1 in 34,000",
        "Islands for each prompt 12",
        "Steered to, with each prompt at least 143",
        "Prompts, from captions.txt Found 104",
        "Scanned the budget reaches 12.0 % 12",
    ):
        assert expected in page.words, expected
        places.append(page.words.index(expected))
    assert places == sorted(places)


@pytest.mark.parametrize("images", ["none", "blurred", "clear"])
@pytest.mark.parametrize("result", splitting_scans.prompted_kinds(), ids=lambda r: str(r.verdict))
def test_every_page_is_sound(result: RunResult, images: ImagePolicy) -> None:
    page = html(result, images)
    parsed = Page(page)
    ids = [each["id"] for _, each in parsed.found if "id" in each]
    assert len(ids) == len(set(ids))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert not re.search(r"\b(nan|inf|None(?! of 12\.))\b", parsed.words)
    # In narrow windows a cell says by itself what it is.
    for table in re.findall(r'<table class="stacks">.*?</table>', page, re.DOTALL):
        assert len(re.findall(r"<td", table)) == len(re.findall(r"<td[^>]*data-label=", table))


def test_no_more_prompts_are_listed_than_a_page_can_hold() -> None:
    worst = splitting_scans.leak(0)
    many = tuple(replace(worst, prompt_id=each) for each in range(MAX_LISTED + 5))
    page = Page(html(of(prompted(leaky_scan(), prompts=many)), "none")).words
    assert f"13 to 60 of {MAX_LISTED} prompts in the same order" in page
    assert "and 5 more prompts that this report does not show" in page
    assert f"prompt#{MAX_LISTED - 1:05d}" in page
    assert f"prompt#{MAX_LISTED:05d}" not in page


def test_a_copy_without_a_prompt_has_none_in_its_row() -> None:
    page = Page(html(of(prompted(leaky_scan(), copies=(splitting_scans.copy(0),))))).words
    assert "train#00012 steered#00545 - 0.12" in page


# --- what stays private, and what stays as it was -----------------------------------------------


def test_a_file_named_after_somebody_is_not_shown() -> None:
    result = of(prompted(leaky_scan()))
    assert SECRET in report.to_json(result)  # which it is for whoever reads results to see to
    for verbosity in (-1, 0, 1, 2):
        assert SECRET not in summary(result, verbosity=verbosity)
    for images in ("none", "clear"):
        assert SECRET not in html(result, images)


def test_hostile_places_and_origins_stay_text() -> None:
    attack = "<script>alert(1)</script>\u202e\x1b[0m\n::error::x line 3"
    scan = prompted(leaky_scan())
    assert scan.prompt_coverage is not None
    scan = replace(
        scan,
        prompts=tuple(replace(each, place=attack) for each in scan.prompts),
        prompt_coverage=replace(scan.prompt_coverage, origin=attack, unusable={attack: (attack,)}),
    )
    for line in splitting_lines(of(scan), verbosity=1, width=60):
        assert line.isprintable()
        assert not line.lstrip().startswith("::")
    page = html(of(scan), "none")
    assert not Page(page).all("script")
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "prompt#00000 line 3" in Page(page).words


def test_results_have_no_field_for_what_a_prompt_says() -> None:
    """A new field of text is a decision about privacy: this list is where it is taken."""
    assert {each.name for each in fields(PromptLeak) if each.type == "str"} == {"place"}


@pytest.mark.parametrize("result", splitting_scans.prompted_kinds(), ids=lambda r: str(r.verdict))
def test_a_run_comes_back_exactly_and_writes_the_same_bytes(result: RunResult) -> None:
    text = report.to_json(result)
    again = report.from_json(text)
    assert again == result
    assert isinstance(scan_of(again).prompts[0], PromptLeak)
    assert report.to_json(again) == text


def test_without_prompts_nothing_is_said_of_any() -> None:
    for result in [*splitting_scans.every_kind(), *samples.every_verdict()]:
        assert "prompt" not in "\n".join(splitting_lines(result, verbosity=1, width=80)).lower()
    for result in splitting_scans.every_kind():
        assert "prompt" not in Page(html(result)).words.lower()
