"""What the terminal shows: plain ASCII lines that read well in a CI log.

Pure functions from a result to lines; the plugin decides where they are printed. Strings that
come from files go through ``escape``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_memscan.reports.columns import aligned
from pytest_memscan.reports.estimates import (
    bounds_heading,
    bounds_text,
    confirmed_text,
    reason,
    split_expression,
    value_text,
    waived_text,
)
from pytest_memscan.reports.finetune_lines import finetune_lines, other_estimates
from pytest_memscan.reports.prompt_lines import prompt_lines
from pytest_memscan.reports.regression_text import regression_lines
from pytest_memscan.reports.run_lines import run_lines
from pytest_memscan.reports.side_lines import side_lines
from pytest_memscan.reports.splitting_lines import splitting_lines
from pytest_memscan.reports.splitting_text import sound_metrics
from pytest_memscan.reports.text import (
    check_name,
    controls_text,
    coverage_text,
    cut_text,
    duplicates_text,
    escape,
    generated_name,
    percent,
    quantity,
    sentence_lines,
    train_name,
    verdict_word,
    wrap,
)
from pytest_memscan.results import (
    CheckOutcome,
    Estimate,
    Finding,
    Measure,
    RunResult,
    ScanResult,
    ThresholdOutcome,
    Verdict,
)

__all__ = ["escape", "header_lines", "summary_lines", "verdict_line"]

HEADER_WIDTH = 100  # columns; pytest asks for the header before it says how wide the terminal is
NUM_FINDINGS = 10  # listed without -v

Row = tuple[str, str, str, str, str]  # metric, value, bounds, limit, result


def header_lines(checkpoint: str, settings: Mapping[str, str]) -> list[str]:
    """What is about to be scanned, and how: ``memscan: MODEL`` and the settings below it."""
    lines = [f"memscan: {escape(checkpoint)}"]
    line = ""
    for name, value in settings.items():
        item = f"{escape(name)} {escape(value)}"
        if line and len(line) + len(item) + 3 > HEADER_WIDTH:
            lines.append(line)
            line = ""
        line = f"{line} | {item}" if line else f"memscan: {item}"
    return [*lines, line] if line else lines


def summary_lines(result: RunResult, *, verbosity: int, width: int) -> list[str]:
    """The summary below the tests; its last line is ``verdict_line``.

    Args:
        result: What was measured.
        verbosity: pytest's: below 0 only the verdict is shown, above 0 everything.
        width: Columns that sentences are wrapped to.
    """
    lines: list[str] = []
    if verbosity >= 0:
        lines += _table(result)
        lines += _explanations(result, verbosity=verbosity, width=width)
        for scan in _scans(result):
            lines += _scan_lines(scan, verbosity=verbosity, width=width)
        lines += side_lines(result, verbosity=verbosity, width=width)
        lines += splitting_lines(result, verbosity=verbosity, width=width)
        lines += prompt_lines(result, verbosity=verbosity, width=width)
        lines += finetune_lines(result, verbosity=verbosity, width=width)
        lines += regression_lines(result, verbosity=verbosity, width=width)
        lines += run_lines(result, verbosity=verbosity, width=width)
        lines += [
            f"duplicates: {duplicates_text(check.duplicates)}"
            for check in result.checks
            if check.duplicates is not None
        ]
    return [*lines, verdict_line(result)]


def verdict_line(result: RunResult) -> str:
    """``memscan: FAIL builtin:leaky (extracted 143 > 0)``."""
    head = f"memscan: {verdict_word(result.verdict)} {escape(result.checkpoint)}"
    decisive = [each for each in _thresholds(result) if each.verdict is result.verdict]
    if decisive and result.verdict is not Verdict.ERROR:
        others = f", and {len(decisive) - 1} more" if len(decisive) > 1 else ""
        return f"{head} ({reason(decisive[0])}{others})"
    first = next(sentence_lines(result.sentence, limit=160), "")
    return f"{head} ({first})" if first else head


def _scans(result: RunResult) -> list[ScanResult]:
    return [check.scan for check in result.checks if check.scan is not None]


def _thresholds(result: RunResult) -> list[ThresholdOutcome]:
    # `status` may repeat what another check measured; a dict keeps the first of each, in order.
    return list(dict.fromkeys(each for check in result.checks for each in check.thresholds))


def _table(result: RunResult) -> list[str]:
    """Thresholds first, then the other metrics, for information."""
    thresholds = _thresholds(result)
    named = {split_expression(each)[0] for each in thresholds}
    levels = [*_level_estimates(result, named), *_other_estimates(result, named)]
    if not thresholds and not levels:
        return []
    measured = [each.estimate for each in thresholds if each.estimate is not None]
    measured += [estimate for _, estimate in levels]
    header: Row = ("metric", "value", bounds_heading(measured), "limit", "result")
    rows = [_threshold_row(each) for each in thresholds]
    rows += [(name, value_text(each), bounds_text(each), "", "info") for name, each in levels]
    return aligned([header, *rows], right=(1,))


def _level_estimates(result: RunResult, shown: set[str]) -> Iterator[tuple[str, Estimate]]:
    scans = _scans(result)
    for scan in scans:
        prefix = f"{scan.name} " if len(scans) > 1 else ""
        for level in scan.levels:
            for name, estimate in (("ams", level.ams), ("ums", level.ums)):
                if prefix or f"{name}_{level.name}" not in shown:
                    yield f"{prefix}{name}_{level.name}", estimate


def _other_estimates(result: RunResult, shown: set[str]) -> Iterator[tuple[str, Estimate]]:
    for check in result.checks:
        if check.splitting is not None:
            others = sound_metrics(check.splitting).items()
            yield from ((name, each) for name, each in others if name not in shown)
        for measured in (check.side, check.prompt_scan, check.keys, check.repeats):
            metrics = {} if measured is None else measured.metrics
            yield from ((name, metrics[name]) for name in metrics if name not in shown)
        if check.finetunes is not None:
            others = other_estimates(check.finetunes).items()
            yield from ((name, each) for name, each in others if name not in shown)


def _threshold_row(outcome: ThresholdOutcome) -> Row:
    metric, operator, limit = split_expression(outcome)
    estimate = outcome.estimate
    value, bounds = (value_text(estimate), bounds_text(estimate)) if estimate else ("-", "-")
    result = ", ".join(filter(None, (verdict_word(outcome.verdict), waived_text(outcome))))
    return metric, value, bounds, f"{operator} {limit}".strip(), result


def _explanations(result: RunResult, *, verbosity: int, width: int) -> list[str]:
    """Why it is not green: the sentences of the run and of its checks, each said once."""
    sentences: dict[str, str] = {}  # sentence -> who says it
    for check in result.checks:
        if check.verdict is not Verdict.PASS or verbosity > 0:
            sentences.setdefault(check.sentence, _check_label(check))
        if check.verdict is Verdict.ERROR or verbosity > 0:
            # Otherwise the check's own sentence has said it.
            for outcome in check.thresholds:
                sentences.setdefault(outcome.sentence, f"{escape(outcome.expression)}: ")
    if result.verdict is not Verdict.PASS:
        sentences.setdefault(result.sentence, "")
    wrapped = [wrap(label, sentence, width) for sentence, label in sentences.items()]
    return [line for lines in wrapped for line in lines]


def _check_label(check: CheckOutcome) -> str:
    return f"{escape(check_name(check.name))} {verdict_word(check.verdict)}: "


def _scan_lines(scan: ScanResult, *, verbosity: int, width: int) -> list[str]:
    calibration = scan.calibration
    lines = _finding_lines(scan, everything=verbosity > 0)
    lines += wrap("matches: ", _chance_text(scan), width)
    lines += wrap("controls: ", controls_text(scan.controls), width)
    lines += wrap("coverage: ", coverage_text(scan.coverage), width)
    lines.append(f"this scan would have noticed a leak rate above {percent(scan.excluded_rate)}")
    lines.append(
        f"confirmed copies: {scan.num_confirmed_images} generated images "
        f"({cut_text(scan.measure, calibration.confirmed_cut)}); "
        f"{quantity(calibration.expected_false_matches)} expected by chance"
    )
    if verbosity > 0:
        lines += wrap("rule: ", calibration.rule, width)
    return lines


def _finding_lines(scan: ScanResult, *, everything: bool) -> list[str]:
    """The confirmed copies; with ``everything``, also matches that may be coincidence."""
    num_confirmed = confirmed_text(scan)
    head = f"copied training images: {'none' if num_confirmed == '0' else num_confirmed} confirmed"
    if scan.num_findings_total:
        head += f"; {scan.num_findings_total} within a published level"
    copies = [finding for finding in scan.findings if finding.confirmed]
    shown = scan.findings if everything else copies[:NUM_FINDINGS]
    num_more = scan.num_findings_total - len(shown)
    if not everything and num_more:
        head += f" (-v lists {len(scan.findings)})"
    lines = [head, *(f"  {_finding_text(each, scan.measure)}" for each in shown)]
    if shown and num_more:
        lines.append(f"  and {num_more} more")
    return lines


def _finding_text(finding: Finding, measure: Measure) -> str:
    confirmed = "confirmed" if finding.confirmed else "not confirmed"
    again = ""
    if finding.regenerated_score is not None:
        again = f", {finding.regenerated_score:.2f} in float32"
    return (
        f"{train_name(finding.train_id)} <- {generated_name(finding.sample_id)}"
        f"  {measure.word} {finding.score:.2f} ({finding.level}, {confirmed}{again})"
    )


def _chance_text(scan: ScanResult) -> str:
    """Generated images at each level beside those that chance alone puts there."""
    counts = [
        f"{each.name} {each.num_matched} images ({quantity(each.expected_by_chance)}"
        f"{' expected by chance)' if not position else ')'}"
        for position, each in enumerate(scan.levels)
    ]
    return f"at level {', '.join(counts)}"
