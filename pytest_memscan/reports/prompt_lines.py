"""What the terminal shows of prompts, their screening, keys and repeats."""

from __future__ import annotations

from pytest_memscan.reports.key_text import (
    NOTHING_TO_COMPARE,
    flagged_text,
    key_text,
    repeats_text,
    shown_text,
    space_text,
)
from pytest_memscan.reports.prompt_text import (
    PROBE,
    calls_text,
    detector_text,
    finding_text,
    is_memorised,
    lone_screenings,
    memorised_text,
    placed_name,
    power_text,
    prompts_text,
    screening_text,
    unsettled_text,
)
from pytest_memscan.reports.text import controls_text, coverage_text, generated_name, wrap
from pytest_memscan.results import KeyScan, PromptScan, Repeats, RunResult, Screening

NUM_FINDINGS = 10  # listed without -v
NUM_GROUPS = 5  # of repeats, likewise
NUM_MEMBERS = 4  # named of each


def prompt_lines(result: RunResult, *, verbosity: int, width: int) -> list[str]:
    """Every part that is about prompts, keys or repeats; none where there is none.

    Args:
        result: What was measured.
        verbosity: pytest's; above 0 every finding and every rule is shown.
        width: Columns that sentences are wrapped to.
    """
    lines: list[str] = []
    for screening in lone_screenings(result):
        lines += _screening_lines(screening, width)
    for check in result.checks:
        if check.prompt_scan is not None:
            lines += _scan_lines(check.prompt_scan, verbosity=verbosity, width=width)
        if check.keys is not None:
            lines += _key_lines(check.keys, verbosity=verbosity, width=width)
        if check.repeats is not None:
            lines += _repeat_lines(check.repeats, verbosity=verbosity, width=width)
    return lines


def _scan_lines(scan: PromptScan, *, verbosity: int, width: int) -> list[str]:
    lines = _finding_lines(scan, everything=verbosity > 0, width=width)
    if unsettled_text(scan):
        lines += wrap("undecided: ", unsettled_text(scan), width)
    lines += _screening_lines(scan.screening, width)
    if scan.controls:
        lines += wrap("controls: ", controls_text(scan.controls), width)
    lines += wrap("denoiser calls: ", calls_text(scan.calls), width)
    lines += wrap("prompts: ", prompts_text(scan.prompts), width)
    if scan.prompts.is_probe:
        lines += wrap("probes: ", PROBE, width)
    lines += wrap("images: ", coverage_text(scan.images), width)
    lines += wrap("power: ", power_text(scan.rule), width)
    if verbosity > 0:
        lines += wrap("rule: ", scan.rule.sentence, width)
    return lines


def _finding_lines(scan: PromptScan, *, everything: bool, width: int) -> list[str]:
    head = f"memorised prompts: {memorised_text(scan)}"
    memorised = [each for each in scan.findings if is_memorised(each)]
    shown = scan.findings if everything else memorised[:NUM_FINDINGS]
    if len(shown) < len(scan.findings):
        head += f" (-v lists {len(scan.findings)})"
    lines = wrap("", head, width)
    for each in shown:
        lines += wrap("", f"{placed_name(each)}  {finding_text(each)}", width, indent="  ")
    num_more = (scan.num_findings_total if everything else len(memorised)) - len(shown)
    return [*lines, f"  and {num_more:,} more"] if shown and num_more else lines


def _screening_lines(screening: Screening, width: int) -> list[str]:
    lines = wrap("screening: ", screening_text(screening), width)
    for detector in screening.detectors:
        lines += wrap("", detector_text(detector), width, indent="  ")
    return lines


def _key_lines(keys: KeyScan, *, verbosity: int, width: int) -> list[str]:
    flagged = [each for each in keys.findings if each.flagged]
    shown = keys.findings if verbosity > 0 else flagged[:NUM_FINDINGS]
    more = f" (-v lists {len(keys.findings)})" if len(shown) < len(keys.findings) else ""
    lines = wrap("keys: ", flagged_text(keys) + more, width)
    for each in shown:
        words = key_text(each, keys.deciding_space)
        lines += wrap("", f"{placed_name(each)}  {words}", width, indent="  ")
    num_more = (keys.num_findings_total if verbosity > 0 else len(flagged)) - len(shown)
    if shown and num_more:
        lines.append(f"  and {num_more:,} more")
    spaces = (space_text(each, decides=each.space == keys.deciding_space) for each in keys.spaces)
    label = f"variance over {keys.images_per_key} images a key: "
    lines += wrap(label, "; ".join(spaces), width)
    if keys.canaries is not None:
        lines += wrap("canaries: ", prompts_text(keys.canaries), width)
    return lines + (wrap("rule: ", keys.sentence, width) if verbosity > 0 else [])


def _repeat_lines(repeats: Repeats, *, verbosity: int, width: int) -> list[str]:
    lines = wrap("repeats: ", repeats_text(repeats), width)
    shown = repeats.largest if verbosity > 0 else repeats.largest[:NUM_GROUPS]
    for group in shown:
        names = ", ".join(map(generated_name, group[:NUM_MEMBERS]))
        more = f" and {len(group) - NUM_MEMBERS:,} more" if len(group) > NUM_MEMBERS else ""
        lines += wrap("", names + more, width, indent="  ")
    if shown and repeats.num_groups > len(shown):
        lines.append(f"  and {repeats.num_groups - len(shown):,} more groups")
    lines += wrap("power: ", shown_text(repeats), width)
    lines += wrap("rule: ", repeats.rule, width)
    lines += wrap("images: ", coverage_text(repeats.images), width)
    lines.append(f"denoiser calls: {repeats.denoiser_calls:,}")
    return lines + wrap("", NOTHING_TO_COMPARE, width)
