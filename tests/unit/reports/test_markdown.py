"""The summary of a CI job says everything, in bounds, and foreign text stays text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from unit.reports import kinds, prompt_samples, samples

from pytest_memscan.reports.markdown import MAX_BYTES, NUM_FINDINGS, to_markdown
from pytest_memscan.reports.markdown_text import code, prose, table
from pytest_memscan.results import RunResult, Verdict

# What this package writes itself; everything else would have to come from foreign text.
OURS = {"inline", "text", "code_inline", "softbreak"} | {
    f"{name}_{side}"
    for name in (
        *("heading", "paragraph", "table", "thead", "tbody", "tr", "th", "td", "strong"),
        *("bullet_list", "list_item"),
    )
    for side in ("open", "close")
}
TITLES = (
    *("Thresholds", "Checks", "Findings", "Waivers", "Compared with a baseline", "Not scanned"),
    *("Power", "Coverage", "Cost", "Record"),
)
LIVE = re.compile(r"@|#\w|://|www\.|\bgh-\d|[$~]|:\w+:", re.IGNORECASE)
HOSTILE = (
    "a|b `c` ``d`` <script>alert(1)</script> [x](http://evil.example) ![i](https://evil.example/p) "
    "@everyone #123 org/repo#4 GH-5 www.evil.example mail@evil.example :white_check_mark: $x$ "
    "\n## PASS\n::error::boo\n##[error]boo\n- [ ] task\n| x | y |\n```\n~~~\n<!-- \u202e --> \\"
)


def tokens_of(text: str) -> list[Token]:
    """By an independent reader of Markdown: those of blocks, and those within lines."""
    found: list[Token] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        found += [token, *(token.children or ())]
    return found


def assert_harmless(text: str) -> None:
    for token in tokens_of(text):
        if token.type == "html_inline":
            assert token.content == "<br>"
        else:
            assert token.type in OURS, f"{token.type}: {token.content!r}"
        if token.type == "text":
            assert not LIVE.search(token.content), token.content


def headings_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def num_items(text: str) -> int:
    return sum(each.type == "list_item_open" for each in tokens_of(text))


def test_it_says_what_was_required_and_found_and_how_surely() -> None:
    text = to_markdown(kinds.whole())
    assert text.startswith("## memscan: FAIL `builtin:leaky`\n")
    assert "**<br>132 training images can be extracted" in text
    assert (
        "| `leak_rate <= 0.01` | 80.0 % | \\[76.0 %, 83.6 %\\] | **FAIL** | At least 76.0 %" in text
    )
    assert "| `extracted <= 0` | 132 | exact | **FAIL**, 1 waived |" in text
    assert "this scan would have noticed a leak rate above 0.93 %" in text
    assert "generated 320/320, valid 320, compared with 150 training images" in text
    assert "| `carlini` | 320 | 16,000 |" in text
    assert "| `side` | the whole check | --memscan-scans does not name it |" in text
    assert "| checkpoint commit | `3f9c2a1` |" in text
    assert "json:.memscan/report.json" in text
    assert "python -m pytest_memscan.reports report.json --format html" in text
    assert_harmless(text)


def test_the_worst_findings_are_listed_and_the_rest_is_counted() -> None:
    text = to_markdown(kinds.whole())
    listed = re.findall(r"^\| `(train#\d{5}@[0-9a-f]{8})`", text, flags=re.MULTILINE)
    findings = text.partition("### Findings")[2].partition("###")[0]
    assert findings.count("\n| `train#") == NUM_FINDINGS
    assert listed[:2] == ["train#00042@6d0a4f2b", "train#00101@6d0a4f2b"]
    assert "| `train#00042@6d0a4f2b` (waived) | `carlini` |" in findings
    assert f"and {132 - NUM_FINDINGS} more" in findings


def test_no_check_crowds_out_the_findings_of_another() -> None:
    many = kinds.large()
    both = replace(many, checks=(*many.checks, *prompt_samples.leaky().checks[3:4]))
    text = to_markdown(both)
    assert text.count("`canary#") == 4  # id and sentence of two canaries
    assert f"and {500 + 3 - NUM_FINDINGS} more" in text


@pytest.mark.parametrize("start", ["1. one", "- one", "+ one", "# one", "> one", "===", "    x"])
def test_no_sentence_begins_a_list_or_a_heading(start: str) -> None:
    text = to_markdown(replace(samples.passed(), sentence=f"{start}\n{start}"))
    assert_harmless(text)
    assert num_items(text) == num_items(to_markdown(samples.passed()))
    assert len(headings_of(text)) == len(headings_of(to_markdown(samples.passed())))


def test_waivers_are_shown_whether_used_or_not() -> None:
    text = to_markdown(kinds.whole())
    assert "| `train#00042@6d0a4f2b` | `used` | `2030-01-31` | A logo that is public. |" in text
    assert "| `train#00001@00000000` | `expired` |" in text
    assert "### Waivers" not in to_markdown(samples.failed())


def test_a_comparison_shows_both_runs_or_what_differs() -> None:
    text = to_markdown(kinds.whole())
    assert "| `extracted` | `carlini` | 3 exact | 132 exact | 130 | 1 | &lt; 1e-6 |" in text
    assert "**INCREASED**" in text
    other = to_markdown(kinds.whole(comparable=False))
    assert "**INCOMPARABLE** with `builtin:clean` (`baseline.json`)" in other
    assert "| `seed` | `0` | `1` |" in other


def test_prompts_are_shown_only_if_asked() -> None:
    result = prompt_samples.leaky()
    words = "a portrait of Jane Doe | by the sea"
    assert "Jane" not in to_markdown(result)
    asked = replace(result, prompt_texts={"prompt#00017": words})
    assert "`a portrait of Jane Doe \\x7c by the sea`" in to_markdown(asked)
    assert_harmless(to_markdown(asked))


@pytest.mark.parametrize(
    "result", kinds.every_sample(), ids=lambda r: f"{r.verdict}-{r.checkpoint}"
)
def test_every_sample_is_plain_markdown_without_pictures(result: RunResult) -> None:
    text = to_markdown(result)
    assert_harmless(text)
    assert "data:" not in text
    assert len(text.encode()) < 40_000
    assert not re.search(r"\bnan\b|\binf\b|None|private-name", text)


@pytest.mark.parametrize(
    "result", kinds.every_sample(), ids=lambda r: f"{r.verdict}-{r.checkpoint}"
)
def test_hostile_names_change_nothing_but_the_names(result: RunResult) -> None:
    text = to_markdown(kinds.poisoned(result, HOSTILE))
    assert_harmless(text)
    assert set(headings_of(text)[1:]) <= {f"### {title}" for title in TITLES}
    assert num_items(text) == len(re.findall(r"^- `", text, flags=re.MULTILINE))
    assert text.startswith("## memscan: ")
    assert not re.search(r"^\s*::|##\[", text, flags=re.MULTILINE)
    assert "\u202e" not in text


@pytest.mark.parametrize("filler", ["\U0001f600", "a@b.example ", "`\n"])
def test_it_is_small_whatever_the_result(filler: str) -> None:
    text = filler * 2000
    integrity, carlini, increased, status = kinds.poisoned(kinds.whole(), text).checks
    assert increased.regression is not None
    changes = increased.regression.changes * 500
    huge = replace(
        kinds.poisoned(kinds.whole(), text),
        checks=(
            integrity,
            *(replace(carlini, name=f"{text}{number}") for number in range(20)),
            replace(increased, regression=replace(increased.regression, changes=changes)),
            status,
        ),
        waivers=kinds.poisoned(kinds.whole(), text).waivers * 500,
        not_scanned={f"{text}{number}": f"{text}{number}" for number in range(100)},
        timings={f"{text}{number}": float(number) for number in range(100)},
    )
    shown = to_markdown(huge)
    assert len(shown.encode()) <= MAX_BYTES
    assert shown.startswith("## memscan: FAIL ")
    assert "python -m pytest_memscan.reports" in shown
    assert shown.count("`") % 2 == 0


def test_what_does_not_fit_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_memscan.reports.markdown.MAX_BYTES", 3500)
    shown = to_markdown(kinds.whole())
    assert len(shown.encode()) <= 3500
    assert "### Findings\n\n(too long to be shown here)\n" in shown
    assert "| `leak_rate <= 0.01` |" in shown


def test_only_lines_of_costs_differ_between_equal_runs() -> None:
    slow = replace(kinds.whole(), timings={"generate": 9000.0, "compare": 1.0, "verify": 0.5})
    first, second = to_markdown(kinds.whole()), to_markdown(slow)
    assert first != second
    assert first.partition("### Cost")[0] == second.partition("### Cost")[0]
    assert first.partition("### Record")[2] == second.partition("### Record")[2]


SPECIAL = st.text(alphabet="ab1 |`\\<>&@#*_[]()!:/.~$-\n\r\t\u2028\u202e'\"", max_size=40)


@settings(max_examples=150, deadline=None)
@given(SPECIAL, SPECIAL)
def test_any_text_stays_in_its_cell(name: str, sentence: str) -> None:
    rows = [(code(name), prose(sentence), "x"), ("a", "b", "c")]
    text = f"A **b** {code(name)} c {prose(sentence)}\n\n{table(('A', 'B', 'C'), rows, tuple)}"
    assert_harmless(text)
    types = [each.type for each in tokens_of(text)]
    assert types.count("tr_open") == 3
    assert types.count("td_open") == 6
    assert types.count("strong_open") == 1


def test_names_can_be_copied_as_they_are() -> None:
    name = "train#00042@6d0a4f2b"
    (found,) = [each for each in tokens_of(f"x {code(name)}") if each.type == "code_inline"]
    assert found.content == name


def test_a_verdict_cannot_be_forged_by_a_sentence() -> None:
    result = replace(samples.failed(), sentence="\n\n## memscan: PASS builtin:leaky\n")
    heads = [line for line in to_markdown(result).splitlines() if line.startswith("## ")]
    assert heads == ["## memscan: FAIL `builtin:leaky`"]


def test_an_empty_name_is_called_empty() -> None:
    assert code("") == code("  ") == "(empty)"
    assert to_markdown(RunResult(verdict=Verdict.ERROR, sentence="", checkpoint="")).startswith(
        "## memscan: ERROR (empty)\n"
    )
