"""What the terminal shows of SIDE: every variant beside plain sampling."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_memscan.reports.columns import aligned
from pytest_memscan.reports.estimates import bounded_share, bounds_heading
from pytest_memscan.reports.side_label_text import labels_text, training_text
from pytest_memscan.reports.side_text import (
    HOW_TO_READ,
    PLAIN_SAMPLING,
    added_text,
    best_images,
    calls_text,
    copied_text,
    gain_text,
    guidance_text,
    image_name,
    level_of,
    means_text,
    mid,
    origin_text,
    ratio_bounds,
    ratio_value,
    score_text,
    short_title,
    top_label,
    top_shares,
    variant_label,
)
from pytest_memscan.reports.text import (
    controls_text,
    coverage_text,
    escape,
    score,
    train_name,
    wrap,
)
from pytest_memscan.results import GuidedFinding, GuidedImages, RunResult, SideScan, SideVariant


def side_lines(result: RunResult, *, verbosity: int, width: int) -> list[str]:
    """Every scan by SIDE; no lines where there is none.

    Args:
        result: What was measured.
        verbosity: pytest's; above 0 every match, every lambda, every class and every rule is
            shown.
        width: Columns that sentences are wrapped to.
    """
    lines: list[str] = []
    for check in result.checks:
        if check.side is not None:
            lines += _scan_lines(check.side, everything=verbosity > 0, width=width)
    return lines


def _scan_lines(scan: SideScan, *, everything: bool, width: int) -> list[str]:
    name = escape(scan.name)
    lines = _match_lines(scan, everything=everything, width=width)
    lines += _variant_table(scan)
    lines += wrap(f"{name}: ", added_text(scan), width)
    for variant, why in scan.left_out.items():
        lines += wrap(f"{name} left out: ", f"{variant}: {why}", width)
    lines += _detail_lines(scan, width) if everything else []
    lines += wrap(f"{name} controls: ", controls_text(scan.controls), width)
    lines += wrap(f"{name} coverage: ", coverage_text(scan.coverage), width)
    return lines + (wrap(f"{name} calls: ", calls_text(scan), width) if everything else [])


def _match_lines(scan: SideScan, *, everything: bool, width: int) -> list[str]:
    """How many training images were matched; which, with ``everything``."""
    hint = f" (-v lists {len(scan.findings):,})" if scan.findings and not everything else ""
    lines = wrap("copied training images with SIDE: ", copied_text(scan) + hint, width)
    if not everything:
        return lines
    for found in scan.findings:
        lines += wrap("", _match_text(found, scan), width, indent="  ")
    num_more = scan.num_findings_total - len(scan.findings)
    lines += [f"  and {num_more:,} more"] if num_more > 0 else []
    return lines + wrap("copied: ", origin_text(scan), width)


def _match_text(found: GuidedFinding, scan: SideScan) -> str:
    finding = found.finding
    confirmed = "confirmed" if finding.confirmed else "not confirmed"
    return (
        f"{train_name(finding.train_id)} <- {image_name(found)}  {scan.measure.word} "
        f"{score_text(finding)} ({finding.level}, {confirmed}; {guidance_text(found, scan)})"
    )


def _variant_table(scan: SideScan) -> list[str]:
    """AMS and UMS at mid level, each variant at its best lambda."""
    rows: list[tuple[str, ...]] = [(PLAIN_SAMPLING, "", *_rates(scan.plain), "", "")]
    for each in scan.variants:
        ratios = (f"{ratio_value(r)} {ratio_bounds(r)}" for r in (each.gain.ams, each.gain.ums))
        best = best_images(each)
        rows.append((escape(variant_label(each)), f"{best.scale:g}", *_rates(best), *ratios))
    header = ("at mid level", "best lambda", "AMS", "UMS", "AMS ratio", "UMS ratio")
    return [f"  {line}" for line in aligned([header, *rows], right=(1,))]


def _rates(images: GuidedImages) -> tuple[str, str]:
    level = mid(images)
    return bounded_share(level.ams), bounded_share(level.ums)


def _detail_lines(scan: SideScan, width: int) -> list[str]:
    lines: list[str] = []
    for variant in scan.variants:
        lines += _variant_lines(variant, scan, width)
    ratios = [ratio for each in scan.variants for ratio in (each.gain.ams, each.gain.ums)]
    rates = [rate for level in scan.plain.levels for rate in (level.ams, level.ums)]
    shown = f"{bounds_heading(rates)} of AMS and UMS, {bounds_heading(ratios)} of ratios"
    lines += wrap("", f"in brackets: {shown if ratios else bounds_heading(rates)}", width)
    lines += wrap("", HOW_TO_READ, width) if ratios else []
    return lines + wrap(f"{escape(scan.name)} rule: ", scan.calibration.rule, width)


def _variant_lines(variant: SideVariant, scan: SideScan, width: int) -> list[str]:
    name, labels = escape(short_title(variant)), variant.labels
    lines = wrap("", variant.title, width)
    lines += wrap(f"  {name} ", gain_text(variant, scan), width)
    lines += wrap("  labels: ", f"{labels.sentence.rstrip('. ')}; {labels_text(labels)}", width)
    lines += wrap("  classifier: ", training_text(variant.training), width)
    means = means_text(variant)
    lines += wrap("  mean over lambda, as in the paper: ", means, width) if means else []
    settings = (scan.plain, *variant.settings)
    for table in (
        _rate_table("AMS", settings),
        _rate_table("UMS", settings),
        _copy_table(settings),
    ):
        lines += [f"  {line}" for line in table]
    return lines


def _rate_table(metric: str, settings: Sequence[GuidedImages]) -> list[str]:
    """AMS or UMS of every lambda at every level; plain sampling is the first of them."""
    levels = [level.name for level in settings[0].levels]
    header = ("lambda", *(f"{metric} {level}" for level in levels))
    rows = []
    for name, each in zip(_scales(settings), settings, strict=True):
        scores = [level_of(each, level) for level in levels]
        rates = [level.ams if metric == "AMS" else level.ums for level in scores]
        rows.append((name, *map(bounded_share, rates)))
    return aligned([header, *rows], right=(0,))


def _copy_table(settings: Sequence[GuidedImages]) -> list[str]:
    """What every lambda copied, and how close its closest images come."""
    shares = top_shares(settings)
    header = ("lambda", "images", "leak rate", "copied", "not by plain sampling")
    rows = [
        (
            name,
            f"{each.num_images:,}",
            bounded_share(each.leak_rate),
            f"{each.num_copied:,}",
            f"{each.num_new:,}",
            *(score(each.top[share]) for share in shares),
        )
        for name, each in zip(_scales(settings), settings, strict=True)
    ]
    right = {0, 1, *range(3, 5 + len(shares))}
    return aligned([(*header, *map(top_label, shares)), *rows], right=right)


def _scales(settings: Sequence[GuidedImages]) -> list[str]:
    return ["plain", *(f"{each.scale:g}" for each in settings[1:])]
