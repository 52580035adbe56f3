"""What the terminal shows of copies that were found by steering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_memscan.reports.columns import aligned
from pytest_memscan.reports.estimates import bounds_heading, odds_bounds, odds_text
from pytest_memscan.reports.prompt_text import PROBE, prompts_text
from pytest_memscan.reports.splitting_prompt_text import (
    PromptName,
    leaking_prompts,
    leaking_text,
    ordinary_text,
    prompt_names,
    quiet_text,
)
from pytest_memscan.reports.splitting_text import (
    NOT_CONFIRMED,
    OUT_OF_REACH,
    copied_text,
    degenerate_text,
    effort_text,
    found_label,
    growth_text,
    health_text,
    image_name,
    islands_text,
    nothing_text,
    plain_text,
    price_text,
    rate_text,
    score_text,
    standing_text,
    told_growth,
    tried_text,
)
from pytest_memscan.reports.text import (
    controls_text,
    coverage_text,
    escape,
    score,
    train_name,
    wrap,
)
from pytest_memscan.results import PromptLeak, RunResult, SplittingScan, SteeredCopy

NUM_COPIES = 10  # listed without -v
NUM_PROMPTS = 5  # likewise


def splitting_lines(result: RunResult, *, verbosity: int, width: int) -> list[str]:
    """Every scan that steered; no lines where there is none.

    Args:
        result: What was measured.
        verbosity: pytest's; above 0 every copy, every prompt that gave one, every rate and every
            rule is shown.
        width: Columns that sentences are wrapped to.
    """
    lines: list[str] = []
    for check in result.checks:
        if check.splitting is not None:
            lines += _scan_lines(check.splitting, everything=verbosity > 0, width=width)
    return lines


def _scan_lines(scan: SplittingScan, *, everything: bool, width: int) -> list[str]:
    lines: list[str] = []
    if scan.num_copies_total:
        lines += _copy_lines(scan, everything=everything, width=width)
    if scan.degenerate:
        lines += wrap("no rates by steering: ", degenerate_text(scan), width)
    if scan.num_copies_total or scan.degenerate:
        lines += wrap("steering: ", tried_text(scan), width)
    else:
        lines += wrap("steering: ", nothing_text(scan), width)
    lines += wrap(f"leak rate of {_whose(scan)}: ", _rates_text(scan), width)
    lines += _prompt_lines(scan, everything=everything, width=width) if scan.prompts else []
    lines += _detail_lines(scan, width) if everything else []
    lines += wrap(f"{escape(scan.name)} controls: ", controls_text(scan.controls), width)
    lines += _list_lines(scan, width)
    lines += wrap(f"{escape(scan.name)} coverage: ", coverage_text(scan.coverage), width)
    lines += wrap(f"{escape(scan.name)} denoiser calls: ", effort_text(scan), width)
    return lines


def _copy_lines(scan: SplittingScan, *, everything: bool, width: int) -> list[str]:
    """The copies, likeliest first; all that the result holds with ``everything``."""
    shown = scan.copies if everything else scan.copies[:NUM_COPIES]
    num_more = scan.num_copies_total - len(shown)
    hint = f" (-v lists {len(scan.copies):,})" if len(shown) < len(scan.copies) else ""
    lines = wrap(f"{found_label(scan)}: ", copied_text(scan) + hint, width)
    names = prompt_names(scan)
    for copy in shown:
        lines += wrap("", _copy_text(scan, copy, names), width, indent="  ")
    return [*lines, f"  and {num_more:,} more"] if num_more > 0 else lines


def _copy_text(scan: SplittingScan, copy: SteeredCopy, names: Mapping[int, PromptName]) -> str:
    finding = copy.finding
    prompt = "" if copy.prompt_id is None else f" of {names[copy.prompt_id]}"
    found = (
        f"{train_name(finding.train_id)} <- {image_name(finding, scan)}{prompt}  "
        f"{scan.measure.word} {score_text(finding)}"
    )
    if not scan.degenerate:
        found += f": {price_text(copy)}"
    standing = standing_text(copy, scan)
    told = [standing] if standing in (NOT_CONFIRMED, OUT_OF_REACH) else []
    return "; ".join([found, islands_text(copy, scan), *told])


def _rates_text(scan: SplittingScan) -> str:
    """Both estimates beside each other; without weights that say something, only the plain one."""
    heading = bounds_heading([scan.leak_rate, scan.plain_rate])
    if scan.degenerate:
        return f"{plain_text(scan)} ({heading})"
    return f"{rate_text(scan.leak_rate)}; {plain_text(scan)} ({heading})"


def _whose(scan: SplittingScan) -> str:
    """The sampler; with prompts also what an ordinary image is."""
    ordinary = ordinary_text(scan)
    return escape(scan.sampler) + (f" for an image of {ordinary}" if ordinary else "")


def _prompt_lines(scan: SplittingScan, *, everything: bool, width: int) -> list[str]:
    """The worst prompts; those that gave no copy in one sentence."""
    leaking = leaking_prompts(scan)
    if not leaking:
        return wrap(
            "prompts that gave copies: ", f"{leaking_text(scan)}; {quiet_text(scan)}", width
        )
    shown = leaking if everything else leaking[:NUM_PROMPTS]
    hint = f" (-v lists {len(leaking):,})" if len(shown) < len(leaking) else ""
    label = "prompts that gave copies, with the leak rate of each: "
    lines = wrap(label, leaking_text(scan) + hint, width)
    lines += _prompt_table(scan, shown)
    if len(shown) < len(leaking):
        lines.append(f"  and {len(leaking) - len(shown):,} more")
    return lines + wrap("", quiet_text(scan), width, indent="  ")


def _prompt_table(scan: SplittingScan, shown: Sequence[PromptLeak]) -> list[str]:
    """Chance that an ordinary image of each prompt is a copy."""
    if not shown:
        return []
    names = prompt_names(scan)
    heading = bounds_heading([each.plain_rate for each in shown])
    header = ["prompt", "place", "never steered", heading, "copied"]
    rows = [
        [
            names[each.prompt_id].name,
            names[each.prompt_id].place or "-",
            odds_text(each.plain_rate.value),
            odds_bounds(each.plain_rate),
            f"{each.num_copied:,}",
        ]
        for each in shown
    ]
    if not scan.degenerate:
        header[2:4] = ["by steering", heading, "never steered", "bounds"]
        for row, each in zip(rows, shown, strict=True):
            row[2:2] = [odds_text(each.leak_rate.value), odds_bounds(each.leak_rate)]
    right = (2, len(header) - 1) if scan.degenerate else (2, 4, len(header) - 1)
    return [f"  {line}" for line in aligned([header, *rows], right=right)]


def _list_lines(scan: SplittingScan, width: int) -> list[str]:
    """What became of the prompts that were given."""
    if scan.prompt_coverage is None:
        return []
    lines = wrap(f"{escape(scan.name)} prompts: ", prompts_text(scan.prompt_coverage), width)
    return lines + (wrap("probes: ", PROBE, width) if scan.prompt_coverage.is_probe else [])


def _detail_lines(scan: SplittingScan, width: int) -> list[str]:
    lines = wrap("islands: ", health_text(scan), width)
    if not scan.degenerate:
        growth = growth_text(told_growth(scan))
        lines += wrap("expected of those found: ", growth, width) if growth else []
        lines += _rate_table(scan)
    return lines + wrap(f"{escape(scan.name)} rule: ", scan.calibration.rule, width)


def _rate_table(scan: SplittingScan) -> list[str]:
    """How often an image comes as close as each similarity threshold."""
    if not any(each.steered.value > 0 or each.plain.value > 0 for each in scan.rates):
        return []
    rows = [
        (
            score(each.score),
            odds_text(each.steered.value),
            odds_bounds(each.steered),
            odds_text(each.plain.value),
            odds_bounds(each.plain),
        )
        for each in scan.rates
    ]
    limit = f"{scan.measure.word} {scan.measure.limit_word}"
    heading = bounds_heading([each.steered for each in scan.rates])
    header = (limit, "by steering", heading, "never steered", "bounds")
    return [
        "chance that an ordinary image comes this close to a training image:",
        *(f"  {line}" for line in aligned([header, *rows], right=(0, 1, 3))),
    ]
