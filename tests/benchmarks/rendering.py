"""What it takes to render a report of many findings, in each format.

    PYTHONPATH=tests python -m benchmarks.rendering [REPEATS]

Prints JSON: seconds and bytes for 500 findings by format, HTML with pictures of 256 x 256 pixels
too; and seconds for 500 findings relative to 125 of them, in the same process.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.peers import race
from unit.reports.rich_samples import pairs, rich

from pytest_memscan.reports.picture_files import Pictures
from pytest_memscan.reports.render import FORMATS, render
from pytest_memscan.results import RunResult

FEWER = 4  # times fewer findings in the baseline
SIDE = 256


def with_findings(number: int) -> RunResult:
    """The sample with its first so many findings."""
    result = rich()
    checks = tuple(
        check
        if check.scan is None
        else replace(
            check,
            scan=replace(
                check.scan,
                findings=check.scan.findings[:number],
                num_findings_total=number,
            ),
        )
        for check in result.checks
    )
    return replace(result, checks=checks)


def growth(kind: str, repeats: int) -> tuple[float, float]:
    """Time and bytes for all findings relative to those for a quarter of them, no pictures."""
    few = with_findings(500 // FEWER)
    contestants = {"many": lambda: render(kind, rich()), "few": lambda: render(kind, few)}
    seconds, texts = race(contestants, repeats=repeats)
    return seconds["many"] / seconds["few"], len(texts["many"]) / len(texts["few"])


def main(repeats: int) -> dict[str, Any]:
    """Every format, and HTML with every kind of picture."""
    pictures = Pictures(pairs=pairs(rich(), size=SIDE))
    contestants = {kind: partial(render, kind, rich()) for kind in FORMATS}
    contestants |= {
        f"html, {images}": partial(render, "html", rich(), pictures=pictures, images=images)
        for images in ("blurred", "clear")
    }
    seconds, texts = race(contestants, repeats=repeats)
    figures: dict[str, Any] = {
        name: {"seconds": round(seconds[name], 3), "bytes": len(text.encode())}
        for name, text in texts.items()
    }
    for kind in FORMATS:
        figures[kind]["500 findings / 125"] = round(growth(kind, repeats)[0], 2)
    return figures


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3), indent=2))
