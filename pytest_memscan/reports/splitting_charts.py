"""Where the parts of the charts of rare copies lie, on logarithmic axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from pytest_memscan.reports.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Chart,
    Scale,
    Tick,
    band,
    nice_step,
    place_marks,
    polyline,
)
from pytest_memscan.reports.estimates import one_in, share_text
from pytest_memscan.reports.splitting_text import expected_text
from pytest_memscan.reports.text import score
from pytest_memscan.results import CurvePoint, RateAt, SplittingScan

MAX_DECADES = 12  # of an axis; what lies below is not drawn
MAX_TICKS = 6


def rate_chart(scan: SplittingScan) -> Chart | None:
    """Leak rate against the similarity that counts; ``None`` where no image came close at all."""
    rates = sorted(scan.rates, key=lambda each: each.score)
    seen = [each for each in rates if each.steered.value > 0]
    if not seen:
        return None
    measure, cut = scan.measure, scan.calibration.confirmed_cut
    steered = [(each.score, each.steered.value) for each in seen]
    plain = [(each.score, each.plain.value) for each in rates if each.plain.value > 0]
    bounds = [bound for e in seen for bound in (e.steered.lower, e.steered.upper)]
    x, x_ticks = _span([cut, *(each.score for each in rates)])
    values = [value for _, value in [*steered, *plain]]
    marks = place_marks([(cut, f"confirmed {score(cut)}", True)], x)
    shown = [*values, *(each.plain.upper for each in rates), *_worth_room(bounds, values)]
    y, y_ticks = log_axis(shown, (BOTTOM, TOP), label=_rate_label, most=1.0)
    closer = "greater" if measure.higher_is_closer else "smaller"
    return Chart(
        title="Leak rate against similarity threshold",
        description=_rates_described(scan),
        x_label=f"{measure.word} that counts ({closer} is closer)",
        y_label="one image in",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        marks=marks,
        bands=band([(e.score, e.steered.lower, e.steered.upper) for e in seen], x, y),
        compared_bands=band([(e.score, e.plain.lower, e.plain.upper) for e in rates], x, y),
        solid=polyline(steered, x, y),
        compared=polyline(plain, x, y),
    )


def growth_chart(scan: SplittingScan) -> Chart | None:
    """Distinct copied images among more and more ordinary ones; ``None`` where none is expected."""
    points = sorted(scan.growth, key=lambda each: each.num_generated)
    points = [each for each in points if each.num_generated >= 1 and each.expected > 0]
    if len(points) < 2:
        return None
    intervals = [
        (float(each.num_generated), each.lower, each.upper)
        for each in points
        if each.lower is not None and each.upper is not None
    ]
    numbers = [float(each.num_generated) for each in points]
    expected = [each.expected for each in points]
    bounds = [bound for _, *both in intervals for bound in both]
    shown = [*expected, *_worth_room(bounds, expected)]
    x, x_ticks = log_axis(numbers, (LEFT, RIGHT), label=_count_label)
    y, y_ticks = log_axis(shown, (BOTTOM, TOP), label=_count_label)
    reach = [(float(scan.reach), f"reach {_count_label(scan.reach)}", False)]
    return Chart(
        title="When copies are to be expected",
        description=_growth_described(points),
        x_label="ordinary images",
        y_label="distinct copied images",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        marks=place_marks(reach if numbers[0] <= scan.reach <= numbers[-1] else [], x),
        bands=band(intervals, x, y),
        solid=polyline(list(zip(numbers, expected, strict=True)), x, y),
    )


def log_axis(
    numbers: Sequence[float],
    ends: tuple[float, float],
    *,
    label: Callable[[float], str],
    most: float = math.inf,
) -> tuple[Scale, tuple[Tick, ...]]:
    """A logarithmic scale over whole decades, and its ticks; what lies outside is put at its end.

    Args:
        numbers: What must find room; not what is zero, nor what is too many decades below the rest.
        ends: Positions of the smallest and of the greatest number.
        label: Of a power of ten.
        most: The axis ends here, whatever is shown.
    """
    powers = [round(math.log10(min(each, most)), 9) for each in numbers if each > 0]
    top = math.ceil(max(powers))
    bottom = min(math.floor(min(powers)), top - 1)
    bottom = max(bottom, top - MAX_DECADES)
    start, end = ends

    def scale(value: float) -> float:
        power = min(max(math.log10(value), bottom), top) if value > 0 else bottom
        return start + (end - start) * (power - bottom) / (top - bottom)

    step = math.ceil((top - bottom + 1) / MAX_TICKS)
    ticks = (10.0**power for power in range(top, bottom - 1, -1) if power % step == 0)
    return scale, tuple(Tick(at=round(scale(each), 1), label=label(each)) for each in ticks)


def _worth_room(bounds: Iterable[float], values: Sequence[float]) -> list[float]:
    """Those that are not a thousand times below every value, or above; the rest is cut off."""
    return [each for each in bounds if min(values) / 1000 <= each <= 1000 * max(values)]


def _span(numbers: Sequence[float]) -> tuple[Scale, tuple[Tick, ...]]:
    """A linear scale that begins near the smallest number, not at zero."""
    low, high = min(numbers), max(numbers)
    step = nice_step(max(high - low, 1e-3))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)

    def scale(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (value / step - first) / (last - first)

    ticks = range(first, last + 1)
    return scale, tuple(
        Tick(at=round(scale(n * step), 1), label=f"{round(n * step, 6):g}") for n in ticks
    )


def _rate_label(rate: float) -> str:
    return _count_label(1 / rate)


def _count_label(number: float) -> str:
    """``"1e-6"``, ``"0.001"``, ``"1,000"``, ``"10k"``, ``"10bn"``: room for five characters."""
    if number < 0.001 * (1 - 1e-9):
        return f"{number:.0e}".replace("e-0", "e-")
    for size, word in ((1e9, "bn"), (1e6, "M"), (1e4, "k")):
        if number >= size * (1 - 1e-9):
            return f"{number / (1e3 if word == 'k' else size):.3g}{word}"
    return f"{number:,.0f}" if number >= 1 else f"{number:.3g}"


def _rates_described(scan: SplittingScan) -> str:
    sentences = [f"Leak rate of {scan.sampler} at each {scan.measure.word} that counts."]
    for each in _ends(scan.rates):
        sentences.append(
            f"At {score(each.score)}: {one_in(each.steered.value)} by steering, "
            f"{share_text(each.plain.value)} of the images that were never steered."
        )
    return " ".join(sentences)


def _ends(rates: Sequence[RateAt]) -> Sequence[RateAt]:
    return rates if len(rates) < 3 else (rates[0], rates[-1])


def _growth_described(points: Sequence[CurvePoint]) -> str:
    first, last = points[0], points[-1]
    return (
        "Expected number of distinct copied training images. "
        f"Among {first.num_generated:,} ordinary images: {expected_text(first)}. "
        f"Among {last.num_generated:,}: {expected_text(last)}."
    )
