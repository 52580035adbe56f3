"""Where the parts of the charts of a sweep lie: what is extracted over the scale of guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from pytest_memscan.reports.charts import BOTTOM, LEFT, RIGHT, TOP, Chart, axis, band, polyline
from pytest_memscan.reports.estimates import bounded_share
from pytest_memscan.reports.text import score
from pytest_memscan.results import ConceptScan, Estimate, MethodScores

Point = tuple[float, Estimate]  # scale, and what was measured there


def sweep_charts(concept: ConceptScan) -> tuple[Chart, ...]:
    """AS and A-ESR at 0.7 over the scale; none where a single scale was tried.

    Without model guidance a fine-tune is sampled as it is, which is a scale of 1.
    """
    swept = sorted(_swept(concept.methods), key=lambda each: each.scale or 0.0)
    if len({each.scale for each in swept}) < 2:
        return ()
    direct = next((each for each in concept.methods if each.method == "direct"), None)
    return tuple(
        _chart(
            measure,
            [(each.scale or 0.0, measure.of(each)) for each in swept],
            None if direct is None else measure.of(direct),
        )
        for measure in _MEASURES
    )


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """What stands over the scale."""

    name: str
    of: Callable[[MethodScores], Estimate]
    told: Callable[[Estimate], str]


def _swept(methods: Sequence[MethodScores]) -> Iterator[MethodScores]:
    """Of several values of k at one scale the first; a line has one point there."""
    seen: set[float] = set()
    for each in methods:
        if each.scale is not None and each.scale not in seen:
            seen.add(each.scale)
            yield each


def _chart(measure: _Measure, points: Sequence[Point], plain: Estimate | None) -> Chart:
    name, told = measure.name, measure.told
    last = points[-1][0]
    shown = [each for _, each in points] + ([] if plain is None else [plain])
    x, x_ticks = axis(last, LEFT, RIGHT)
    y, y_ticks = axis(max(each.upper for each in shown) or 1.0, BOTTOM, TOP)
    across = () if plain is None else ((0.0, plain), (last, plain))
    described = "; ".join(f"{told(each)} at scale {scale:g}" for scale, each in points)
    beside = "" if plain is None else f" Direct sampling: {told(plain)}."
    return Chart(
        title=f"{name} over the scale of model guidance",
        description=f"{name} of the extracted images: {described}.{beside}",
        x_label="scale of model guidance",
        y_label=name,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        bands=band([(scale, each.lower, each.upper) for scale, each in points], x, y),
        compared_bands=band([(at, each.lower, each.upper) for at, each in across], x, y),
        solid=polyline([(scale, each.value) for scale, each in points], x, y),
        dashed=polyline([(at, each.value) for at, each in across], x, y),
    )


def _similarity(estimate: Estimate) -> str:
    return f"{score(estimate.value)} [{score(estimate.lower)}, {score(estimate.upper)}]"


_MEASURES = (
    _Measure(name="AS", of=attrgetter("average_similarity"), told=_similarity),
    _Measure(name="A-ESR at 0.7", of=attrgetter("esr_strict"), told=bounded_share),
)
