"""Where the parts of the charts lie; ``charts.html.j2`` draws them.

Positions are in the units of a ``WIDTH`` by ``HEIGHT`` view box with the origin at the top left.
The box is small, so that its letters are still readable when a telephone shrinks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from pytest_memscan.reports.text import quantity, score
from pytest_memscan.results import CurvePoint, ScanResult

WIDTH = 440
HEIGHT = 290
LEFT, RIGHT = 48, 422  # of the plot area
TOP, BOTTOM = 26, 240
BIN_WIDTH = 0.05  # of `ScanResult.histogram`
LABEL_HEIGHT = 14
CHARACTER_WIDTH = 6.4  # of a label, generously


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bin of the histogram."""

    x: float
    y: float
    width: float
    height: float
    is_confirmed: bool  # the whole bin is as close as the confirmed cut
    title: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A vertical line with its name above the plot."""

    x: float
    label: str
    label_x: float
    label_y: float
    anchor: str  # of the label: "start" or "end"
    is_confirmed: bool


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Everything the template needs to draw one chart."""

    title: str
    description: str  # the same in words, for those who cannot see it
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    top: float = TOP  # higher lines of labels start above it
    bars: tuple[Bar, ...] = ()
    marks: tuple[Mark, ...] = ()
    bands: tuple[Markup, ...] = ()  # polygon points
    compared_bands: tuple[Markup, ...] = ()  # of what stands beside it for comparison
    compared: Markup | None = None
    solid: Markup | None = None
    dashed: Markup | None = None
    end: tuple[float, float] | None = None  # where measuring stopped


Scale = Callable[[float], float]
Point = tuple[float, float]
Interval = tuple[float, float, float]  # position, lower, upper


def histogram(scan: ScanResult) -> Chart | None:
    """How close every generated image came to a training image; ``None`` without images."""
    bins = [(edge, count) for edge, count in scan.histogram if count > 0]
    if not bins:
        return None
    cut, measure = scan.calibration.confirmed_cut, scan.measure
    cuts = [(level.cut, f"{level.name} {score(level.cut)}", False) for level in scan.levels]
    cuts.append((cut, f"confirmed {cut:.2f}", True))
    highest = max(max(edge + BIN_WIDTH for edge, _ in bins), max(each[0] for each in cuts) + 0.05)
    x, x_ticks = axis(highest, LEFT, RIGHT)
    marks = place_marks(cuts, x)
    top = max([TOP, *(mark.label_y + 8 for mark in marks)])
    y, y_ticks = axis(max(count for _, count in bins), BOTTOM, top)
    total = sum(count for _, count in bins)

    def is_confirmed(edge: float) -> bool:
        if measure.higher_is_closer:
            return edge >= cut - 1e-9
        return edge + BIN_WIDTH <= cut + 1e-9

    beyond = sum(count for edge, count in bins if is_confirmed(edge))
    closer = "Greater" if measure.higher_is_closer else "Smaller"
    return Chart(
        title="How close the generated images came",
        description=(
            f"Histogram of the {measure.word} of {total} generated images, from {bins[0][0]:.2f} "
            f"to {bins[-1][0] + BIN_WIDTH:.2f}; {beyond} lie in bins closer than the confirmed cut "
            f"of {cut:.2f}. {closer} is closer to one training image."
        ),
        x_label=f"{measure.word} ({closer.lower()} is closer)",
        y_label="generated images",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        top=top,
        bars=tuple(
            _bar(edge, count, x=x, y=y, is_confirmed=is_confirmed(edge)) for edge, count in bins
        ),
        marks=marks,
    )


def curve(scan: ScanResult) -> Chart | None:
    """Distinct training images expected among more and more generated ones."""
    points = sorted(scan.curve, key=lambda point: point.num_generated)
    if not points:
        return None
    tops = [point.upper if point.upper is not None else point.expected for point in points]
    x, x_ticks = axis(max(1, points[-1].num_generated), LEFT, RIGHT)
    y, y_ticks = axis(max([1.0, *tops]), BOTTOM, TOP)
    measured = [point for point in points if not point.extrapolated]
    beyond = [*measured[-1:], *(point for point in points if point.extrapolated)]
    last = measured[-1] if measured else None
    return Chart(
        title="What generating more would bring out",
        description=_curve_description(last, points[-1]),
        x_label="generated images",
        y_label="distinct training images",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        bands=tuple(_bands(points, x, y)),
        solid=_line(measured, x, y),
        dashed=_line(beyond, x, y),
        end=(x(last.num_generated), y(last.expected)) if last else None,
    )


def _curve_description(last: CurvePoint | None, end: CurvePoint) -> str:
    text = "Curve of the expected number of distinct copied training images. "
    if last is not None:
        text += f"After {last.num_generated} generated images: {quantity(last.expected)}. "
    if end.extrapolated:
        text += f"Extrapolated to {end.num_generated}: about {quantity(end.expected)}"
        if end.lower is not None and end.upper is not None:
            text += f", between {quantity(end.lower)} and {quantity(end.upper)}"
        text += "."
    return text.strip()


def _bar(edge: float, count: int, *, x: Scale, y: Scale, is_confirmed: bool) -> Bar:
    # A single image among ten thousand is what this report is about: it gets a visible bar.
    height = max(BOTTOM - y(count), 2.0)
    images = "image" if count == 1 else "images"
    return Bar(
        x=_round(x(edge) + 0.5),
        y=_round(BOTTOM - height),
        width=_round(max(x(edge + BIN_WIDTH) - x(edge) - 1, 0.5)),
        height=_round(height),
        is_confirmed=is_confirmed,
        title=f"{edge:.2f} to {edge + BIN_WIDTH:.2f}: {count} {images}",
    )


def place_marks(cuts: Sequence[tuple[float, str, bool]], x: Scale) -> tuple[Mark, ...]:
    """Vertical lines whose labels do not overlap, and that do not cross each other's labels."""
    marks: list[Mark] = []
    taken: list[tuple[float, int]] = []  # right end and line of the labels so far
    for value, label, is_confirmed in sorted(cuts):
        at = x(value)
        length = CHARACTER_WIDTH * len(label) + 8
        turned = at + length > WIDTH  # no room on the right: the label ends at its line
        start = at - length if turned else at
        row = max((line + 1 for end, line in taken if end > start), default=0)
        taken.append((at if turned else at + length, row))
        mark = Mark(
            x=_round(at),
            label=label,
            label_x=_round(at - 4 if turned else at + 4),
            label_y=12 + LABEL_HEIGHT * row,
            anchor="end" if turned else "start",
            is_confirmed=is_confirmed,
        )
        marks.append(mark)
    return tuple(marks)


def axis(
    highest: float, start: float, end: float, *, label: Callable[[float], str] | None = None
) -> tuple[Scale, tuple[Tick, ...]]:
    """A linear scale from 0 at ``start`` to at least ``highest`` at ``end``, and its ticks.

    Args:
        highest: More than 0.
        start: Position of 0.
        end: Position of the last tick.
        label: Of a number; as it is, in at most five characters, where there is none.
    """
    named = label or _tick_label
    step = nice_step(highest)
    limit = step * math.ceil(highest / step - 1e-9)

    def scale(value: float) -> float:
        return start + (end - start) * value / limit

    numbers = [index * step for index in range(round(limit / step) + 1)]
    return scale, tuple(Tick(at=_round(scale(n)), label=named(n)) for n in numbers)


def _tick_label(number: float) -> str:
    """``"0.5"``, ``"5,000"``, ``"50k"`` or ``"2M"``: an axis has room for five characters."""
    if number < 10_000:
        return f"{round(number, 6):,g}"
    return f"{number / 1e6:g}M" if number >= 1e6 else f"{number / 1000:g}k"


def nice_step(highest: float) -> float:
    """The 1, 2 or 5 times a power of ten that cuts an axis into at most five parts."""
    least = highest / 5
    power = float(10 ** math.floor(math.log10(least)))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9))


def _bands(points: Iterable[CurvePoint], x: Scale, y: Scale) -> Iterable[Markup]:
    """One polygon for each unbroken run of points that have an interval."""
    for has_interval, run in groupby(points, lambda p: p.lower is not None and p.upper is not None):
        if has_interval:
            yield from band([(p.num_generated, p.lower or 0.0, p.upper or 0.0) for p in run], x, y)


def _line(points: Sequence[CurvePoint], x: Scale, y: Scale) -> Markup | None:
    return polyline([(point.num_generated, point.expected) for point in points], x, y)


def polyline(points: Sequence[Point], x: Scale, y: Scale) -> Markup | None:
    """A line through the points; none through fewer than two."""
    return _drawn(points, x, y) if len(points) > 1 else None


def band(intervals: Sequence[Interval], x: Scale, y: Scale) -> tuple[Markup, ...]:
    """One polygon between the bounds; none where there are fewer than two intervals."""
    if len(intervals) < 2:
        return ()
    there = [(at, upper) for at, _, upper in intervals]
    back = [(at, lower) for at, lower, _ in reversed(intervals)]
    return (_drawn([*there, *back], x, y),)


def _drawn(points: Iterable[Point], x: Scale, y: Scale) -> Markup:
    return Markup(" ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points))  # noqa: S704 - digits only


def _round(position: float) -> float:
    return round(position, 1)
