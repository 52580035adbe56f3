"""Tables and curves from scans by SIDE.

    python docs/side.py table REPORT.json ...            (reports of memscan::side)
    python docs/side.py curves OUT.png REPORT.json ...
    python docs/side.py growth OUT.png REPORT.json ...

Needs the "docs" extra. Reports of one checkpoint under several seeds stand together: their names
begin alike, up to the last hyphen (``clouds-0.json``, ``clouds-1.json``). ``table`` prints
Markdown. ``curves`` draws AMS and UMS at mid level over lambda. ``growth`` draws distinct training
images at mid level over the number of images: the curve that the images of a scan give (Colwell
et al. 2012; dotted where extrapolated), and as points what the scans found.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from pytest_memscan.reports.json import from_json
from pytest_memscan.results import Estimate, GuidedImages, SideScan, SideVariant

LEVELS = ("low", "mid", "high")
MID = 1
SHORT = {
    "side_c": "SIDE-C",
    "side_c_rest": "SIDE-C+rest",
    "side_o": "SIDE-O",
    "side_a": "SIDE-A",
    "ol_ti": "OL-TI",
    "random_labels": "random labels",
}


def scan_of(report: Path) -> SideScan:
    found = [check.side for check in from_json(report.read_text(encoding="utf-8")).checks]
    return next(scan for scan in found if scan is not None)


def by_checkpoint(reports: Sequence[Path]) -> Mapping[str, list[SideScan]]:
    grouped: dict[str, list[SideScan]] = defaultdict(list)
    for report in reports:
        grouped[report.stem.rpartition("-")[0] or report.stem].append(scan_of(report))
    return grouped


def percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f}"


def cells(images: GuidedImages) -> list[str]:
    return [f"{percent(level.ams)} / {percent(level.ums)}" for level in images.levels]


def ratio(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.lower:.2f}, {estimate.upper:.2f}]"


def best_of(variant: SideVariant) -> GuidedImages:
    return next(each for each in variant.settings if each.scale == variant.best_scale)


def print_table(reports: Sequence[Path]) -> None:
    print(
        "| checkpoint | attack | lambda | AMS / UMS low | mid | high | copied | new "
        "| AMS ratio, mid | UMS ratio, mid |"
    )
    print("|" + "---|" * 10)
    for name, scans in by_checkpoint(reports).items():
        for scan in scans:
            plain = scan.plain
            row = [name, "Random", "0", *cells(plain), str(plain.num_copied), "", "1", "1"]
            print("| " + " | ".join(row) + " |")
            for variant in scan.variants:
                best = best_of(variant)
                row = [
                    "",
                    SHORT.get(variant.name, variant.name),
                    f"{best.scale:g}",
                    *cells(best),
                    str(best.num_copied),
                    str(best.num_new),
                    ratio(variant.gain.ams),
                    ratio(variant.gain.ums),
                ]
                print("| " + " | ".join(row) + " |")


def draw_curves(reports: Sequence[Path], out: Path) -> None:
    grouped = by_checkpoint(reports)
    figure, rows = plt.subplots(
        len(grouped), 2, figsize=(9, 2.9 * len(grouped)), squeeze=False, layout="constrained"
    )
    for axes, (name, scans) in zip(rows, grouped.items(), strict=True):
        for axis, kind in zip(axes, ("ams", "ums"), strict=True):
            plain = np.mean([getattr(s.plain.levels[MID], kind).value for s in scans])
            axis.axhline(100 * plain, color="0.4", linestyle="--", label="Random")
            for number, variant in enumerate(scans[0].variants):
                alike = [v for s in scans for v in s.variants if v.name == variant.name]
                scales = [each.scale for each in variant.settings]
                values = np.array(
                    [[getattr(e.levels[MID], kind).value for e in v.settings] for v in alike]
                )
                axis.plot(
                    scales,
                    100 * values.mean(axis=0),
                    marker="o",
                    markersize=3,
                    color=f"C{number}",
                    label=SHORT.get(variant.name, variant.name),
                )
            axis.set_xscale("log")
            axis.set_xticks(scales, [f"{scale:g}" for scale in scales])
            axis.minorticks_off()
            axis.set_ylabel(f"{kind.upper()} at mid level, %")
            axis.set_title(name, fontsize=9)
            axis.set_ylim(bottom=0)
    for axis in rows[-1]:
        axis.set_xlabel("lambda")
    rows[0][0].legend(fontsize=7)
    figure.savefig(out, dpi=130)


def draw_growth(reports: Sequence[Path], out: Path) -> None:
    grouped = by_checkpoint(reports)
    figure, axes = plt.subplots(
        1, len(grouped), figsize=(4 * len(grouped), 3.2), squeeze=False, layout="constrained"
    )
    for axis, (name, scans) in zip(axes[0], grouped.items(), strict=True):
        for number, (label, images) in enumerate(_compared(scans)):
            for each in images:
                inside = [point for point in each.curve if point.num_generated <= each.num_images]
                ahead = [point for point in each.curve if point.num_generated >= each.num_images]
                for points, style in ((inside, "-"), (ahead[:3], ":")):
                    axis.plot(
                        [point.num_generated for point in points],
                        [point.expected for point in points],
                        style,
                        color=f"C{number}",
                    )
            axis.plot([], [], color=f"C{number}", label=label)
            sizes = [each.num_images for each in images]
            found = [each.levels[MID].ums.value * each.num_images for each in images]
            axis.plot(sizes, found, "o", color=f"C{number}", markersize=4)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("images")
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("distinct training images, mid level")
    axes[0][0].legend(fontsize=7)
    figure.savefig(out, dpi=130)


def _compared(scans: Sequence[SideScan]) -> list[tuple[str, list[GuidedImages]]]:
    """Plain sampling and the variants of clusters, at the lambda of the highest AMS."""
    guided: dict[str, list[GuidedImages]] = defaultdict(list)
    for scan in scans:
        for variant in scan.variants:
            if variant.labels.num_clusters:
                name = f"{SHORT[variant.name]}, {variant.labels.num_clusters} clusters"
                guided[name].append(best_of(variant))
    return [("Random", [scan.plain for scan in scans]), *guided.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    table = actions.add_parser("table")
    table.add_argument("reports", type=Path, nargs="+")
    for name in ("curves", "growth"):
        drawn = actions.add_parser(name)
        drawn.add_argument("out", type=Path)
        drawn.add_argument("reports", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.action == "table":
        print_table(arguments.reports)
    elif arguments.action == "curves":
        draw_curves(arguments.reports, arguments.out)
    else:
        draw_growth(arguments.reports, arguments.out)


if __name__ == "__main__":
    main()
