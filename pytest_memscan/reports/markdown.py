"""The summary of a CI job: GitHub's Markdown, without pictures.

Every foreign string passes through `markdown_text`; the size is bounded whatever the result, since
GitHub drops a summary of more than 1 MiB altogether.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence

from pytest_memscan.reports.check_text import coverage_texts, power_texts
from pytest_memscan.reports.estimates import (
    bounds_heading,
    bounds_text,
    is_exact,
    value_text,
    waived_text,
)
from pytest_memscan.reports.leaks import Leak, leaks_of
from pytest_memscan.reports.markdown_text import bullets, code, more, prose, table
from pytest_memscan.reports.overview import Cost, costs, gaps, regressions
from pytest_memscan.reports.plain_words import plain_words
from pytest_memscan.reports.text import check_name, duration, verdict_word
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    MetricChange,
    Regression,
    RunResult,
    ThresholdOutcome,
)

MAX_BYTES = 400_000  # of UTF-8; below half of what GitHub shows, since a job may add its own
NUM_FINDINGS = 20
TOO_LONG = "(too long to be shown here)"
PROVENANCE = (  # what people ask for first; the other reports hold all of it
    "checkpoint",
    "checkpoint commit",
    "base",
    "pipeline",
    "training images",
    "prompt list",
    "similarity",
    "scheduler",
    "steps",
    "seed",
    "dtype",
    "device",
)
RENDER_AGAIN = (
    "Any other format can be made from the JSON report, without the model: "
    "`python -m pytest_memscan.reports report.json --format html --output report.html`."
)


def to_markdown(result: RunResult) -> str:
    """The run as Markdown for ``GITHUB_STEP_SUMMARY``, at most `MAX_BYTES` of UTF-8.

    Holds no picture, and the text of a prompt only where ``result.prompt_texts`` does. Only the
    line of times differs between two runs that measured the same.
    """
    sections = (
        ("", _headline(result)),
        ("Thresholds", _thresholds(result)),
        ("Checks", _checks(result)),
        ("Findings", _findings(result)),
        ("Waivers", _waivers(result)),
        *(("Compared with a baseline", _regression(each)) for each in regressions(result)),
        ("Not scanned", _not_scanned(result)),
        ("Power", _bullets_of(result, power_texts)),
        ("Coverage", _bullets_of(result, coverage_texts)),
        ("Cost", _cost(result)),
        ("Record", _record(result)),
    )
    return _fitted(sections)


def _fitted(sections: Sequence[tuple[str, str]]) -> str:
    text, left = "", MAX_BYTES
    for title, body in sections:
        if body:
            heading = f"\n### {title}\n\n" if title else ""
            section = f"{heading}{body}\n"
            # Room is kept for the headings of those that follow.
            if len(section.encode()) > left - 1000:
                section = f"{heading}{TOO_LONG}\n"
            if len(section.encode()) <= left:
                text, left = text + section, left - len(section.encode())
    return text


def _headline(result: RunResult) -> str:
    head = f"## memscan: {verdict_word(result.verdict)} {code(result.checkpoint)}"
    # One paragraph: at the start of a line, the first word of a sentence could begin a list.
    return f"{head}\n\n**{plain_words(result)}**<br>{prose(result.sentence, limit=1000)}"


def _outcomes(result: RunResult) -> list[ThresholdOutcome]:
    # `status` may repeat what another check measured.
    return list(dict.fromkeys(each for check in result.checks for each in check.thresholds))


def _thresholds(result: RunResult) -> str:
    outcomes = _outcomes(result)
    measured = [each.estimate for each in outcomes if each.estimate is not None]
    heads = ("Required", "Measured", bounds_heading(measured), "Result", "Why", "Set in")
    return table(heads, outcomes, _threshold_row, right="Measured")


def _threshold_row(outcome: ThresholdOutcome) -> tuple[str, ...]:
    estimate = outcome.estimate
    waived = waived_text(outcome)
    return (
        code(outcome.expression),
        "not measured" if estimate is None else prose(value_text(estimate)),
        "none" if estimate is None else _bounds(estimate),
        f"**{verdict_word(outcome.verdict)}**" + (f", {waived}" if waived else ""),
        prose(outcome.sentence),
        code(outcome.source),
    )


def _bounds(estimate: Estimate) -> str:
    # Not as code: the brackets are ours, and no link, since no "(" follows.
    bounds = bounds_text(estimate)
    if not bounds.startswith("["):
        return prose(bounds)
    return f"\\[{prose(bounds[1:-1])}\\]"


def _checks(result: RunResult) -> str:
    return table(
        ("Check", "Result", "Why"),
        result.checks,
        lambda check: (
            code(check_name(check.name)),
            f"**{verdict_word(check.verdict)}**",
            prose(check.sentence),
        ),
    )


def _findings(result: RunResult) -> str:
    """The strongest of each check, so that one check never crowds out the others."""
    found = [_counted(check) for check in result.checks]
    places = [(rank, check) for check, leaks in enumerate(found) for rank in range(len(leaks))]
    shown = sorted((check, rank) for rank, check in sorted(places)[:NUM_FINDINGS])
    waived = {each for outcome in _outcomes(result) for each in outcome.waived}
    totals = [_total(*each) for each in zip(result.checks, found, strict=True)]
    listed = table(
        ("Id", "Check", "What was seen"),
        [found[check][rank] for check, rank in shown],
        lambda leak: _finding_row(result, leak, waived),
    )
    return listed + more(sum(totals) - len(shown))


def _counted(check: CheckOutcome) -> list[Leak]:
    """Without the copies that are too rare to count."""
    return [leak for leak in leaks_of(check) if leak.metrics]


def _total(check: CheckOutcome, leaks: Sequence[Leak]) -> int:
    """All that it counted, where a report holds only some of them."""
    names = {leak.metrics[0] for leak in leaks} & set(check.metrics)
    counts = [check.metrics[name] for name in names if is_exact(check.metrics[name])]
    return max(len(leaks), sum(int(each.value) for each in counts))


def _finding_row(result: RunResult, leak: Leak, waived: set[str]) -> tuple[str, str, str]:
    seen = prose(leak.sentence)
    if leak.num_copies is not None and "memorised_prompts" not in leak.metrics:
        seen += f"; {leak.num_copies:,} {'copy' if leak.num_copies == 1 else 'copies'}"
    if leak.name in result.prompt_texts:
        seen += f"; {code(result.prompt_texts[leak.name], limit=200)}"
    mark = " (waived)" if leak.id in waived else ""
    return code(leak.id) + mark, code(check_name(leak.check)), seen


def _waivers(result: RunResult) -> str:
    return table(
        ("Finding", "State", "Expires", "Reason", "Set in"),
        result.waivers,
        lambda each: (
            *map(code, (each.id, each.state, each.expires)),
            prose(each.reason),
            code(each.source),
        ),
    )


def _regression(regression: Regression) -> str:
    source = f"{code(regression.baseline)} ({code(regression.source)})"
    if not regression.is_comparable:
        differing = [(key, *sides) for key, sides in sorted(regression.differing.items())]
        keys = table(("What", "Then", "Now"), differing, lambda each: tuple(map(code, each)))
        return f"**INCOMPARABLE** with {source}; these have to match:\n\n{keys}"
    if not regression.changes:
        return f"Nothing was compared with {source}."
    heads = ("Metric", "Check", "Then", "Now", "New", "Gone", "p", "Result", "Compared by")
    chance = f"{100 * regression.significance:g} %"
    return (
        f"Baseline: {source}. The chance of any false increase is {chance}.\n\n"
        f"{table(heads, regression.changes, _change_row)}"
    )


def _change_row(change: MetricChange) -> tuple[str, ...]:
    p_value = change.p_value
    return (
        code(change.metric),
        code(check_name(change.check)),
        _both(change.before),
        _both(change.now),
        "" if change.num_new is None else f"{change.num_new:,}",
        "" if change.num_gone is None else f"{change.num_gone:,}",
        "" if p_value is None else (f"{p_value:.2g}" if p_value >= 1e-6 else "&lt; 1e-6"),
        "**INCREASED**" if change.increased else "no increase shown",
        prose(change.test),
    )


def _both(estimate: Estimate) -> str:
    return f"{prose(value_text(estimate))} {_bounds(estimate)}"


def _not_scanned(result: RunResult) -> str:
    return table(
        ("Check", "What", "Why"),
        gaps(result),
        lambda each: (code(each.checks), prose(each.what), prose(each.why)),
    )


def _bullets_of(result: RunResult, texts_of: Callable[[CheckOutcome], Iterable[str]]) -> str:
    pairs = ((check_name(check.name), text) for check in result.checks for text in texts_of(check))
    return bullets(list(pairs))


def _cost(result: RunResult) -> str:
    return table(("Check", "Images", "Denoiser calls", "Time"), costs(result), _cost_row)


def _cost_row(cost: Cost) -> tuple[str, ...]:
    return (
        code(cost.name),
        "" if cost.num_images is None else f"{cost.num_images:,}",
        "" if cost.denoiser_calls is None else f"{cost.denoiser_calls:,}",
        "" if cost.seconds is None else html.escape(duration(cost.seconds)),
    )


def _record(result: RunResult) -> str:
    seen: dict[str, dict[str, None]] = {key: {} for key in PROVENANCE}
    for check in result.checks:
        for key, value in check.provenance.items():
            if key in seen:
                seen[key].setdefault(value)
    known = [(key, list(values)) for key, values in seen.items() if values]
    record = table(
        ("Provenance", "Value"),
        known,
        lambda each: (
            each[0],
            ", ".join(map(code, each[1][:4])) + (", ..." if each[1][4:] else ""),
        ),
    )
    lines = [record] if record else []
    if "report" in result.policy:
        lines.append(f"Reports of this run: {code(result.policy['report'][0], limit=1000)}.")
    version = result.versions.get("pytest-memscan")
    made = f"Made by pytest-memscan {code(version)}. " if version else ""
    return "\n\n".join([*lines, made + RENDER_AGAIN])
