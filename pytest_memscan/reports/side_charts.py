"""Where the parts of the charts of SIDE lie: rates over lambda, accuracy over timestep, growth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_memscan.reports.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Chart,
    Interval,
    axis,
    band,
    polyline,
)
from pytest_memscan.reports.estimates import bounded_share
from pytest_memscan.reports.side_text import (
    PLAIN_SAMPLING,
    best_images,
    mid,
    short_title,
)
from pytest_memscan.reports.splitting_text import expected_text
from pytest_memscan.reports.text import percent
from pytest_memscan.results import (
    CurvePoint,
    Estimate,
    GuidedImages,
    SideScan,
    SideVariant,
)


def ams_chart(variant: SideVariant, scan: SideScan) -> Chart | None:
    """AMS at mid level over lambda, beside plain sampling; ``None`` without a lambda."""
    rates = [(each.scale, mid(each).ams) for each in _by_scale(variant)]
    return _rate_chart("AMS", rates, mid(scan.plain).ams, variant)


def ums_chart(variant: SideVariant, scan: SideScan) -> Chart | None:
    """Likewise UMS."""
    rates = [(each.scale, mid(each).ums) for each in _by_scale(variant)]
    return _rate_chart("UMS", rates, mid(scan.plain).ums, variant)


def _by_scale(variant: SideVariant) -> list[GuidedImages]:
    return sorted(variant.settings, key=lambda each: each.scale)


def _rate_chart(
    name: str,
    rates: Sequence[tuple[float, Estimate]],
    plain: Estimate,
    variant: SideVariant,
) -> Chart | None:
    if not rates:
        return None
    best = next((rate.value for scale, rate in rates if scale == variant.best_scale), None)
    last = max(scale for scale, _ in rates) or 1.0
    x, x_ticks = axis(last, LEFT, RIGHT)
    shown = [plain, *(rate for _, rate in rates)]
    y, y_ticks = axis(max(each.upper for each in shown) or 1.0, BOTTOM, TOP, label=_points_label)
    ends = (0.0, last)
    bounds = [(scale, rate.lower, rate.upper) for scale, rate in rates]
    return Chart(
        title=f"{name} of {short_title(variant)} over lambda",
        description=_rates_described(name, rates, plain, variant),
        x_label="lambda",
        y_label=f"{name} at mid level (%)",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        bands=band(_widened(bounds, last), x, y),
        compared_bands=band([(at, plain.lower, plain.upper) for at in ends], x, y),
        solid=polyline([(scale, rate.value) for scale, rate in rates], x, y),
        dashed=polyline([(at, plain.value) for at in ends], x, y),
        end=None if best is None else (x(variant.best_scale), y(best)),
    )


def _rates_described(
    name: str, rates: Sequence[tuple[float, Estimate]], plain: Estimate, variant: SideVariant
) -> str:
    told = "; ".join(f"{bounded_share(rate)} at lambda {scale:g}" for scale, rate in rates)
    return (
        f"{name} of {short_title(variant)} at mid level: {told}. "
        f"{PLAIN_SAMPLING.capitalize()}: {bounded_share(plain)}."
    )


def accuracy_chart(variant: SideVariant) -> Chart | None:
    """Accuracy of the classifier over timestep, beside chance; ``None`` where it is not known."""
    training = variant.training
    measured = sorted(training.accuracies, key=lambda each: each.timestep)
    if not measured:
        return None
    last = max(each.timestep for each in measured) or 1
    x, x_ticks = axis(last, LEFT, RIGHT)
    y, y_ticks = axis(1.0, BOTTOM, TOP, label=_points_label)
    first = measured[0]
    told = "; ".join(
        f"{bounded_share(each.accuracy)} at timestep {each.timestep:,}" for each in measured
    )
    bounds = [(e.timestep, e.accuracy.lower, e.accuracy.upper) for e in measured]
    return Chart(
        title=f"Accuracy of the classifier of {short_title(variant)} over timestep",
        description=(
            f"Accuracy on samples that the classifier was not trained on: {told}. "
            f"Chance: {percent(training.chance)}."
        ),
        x_label="timestep (greater is noisier)",
        y_label="accuracy (%)",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        bands=band(_widened(bounds, last), x, y),
        solid=polyline([(each.timestep, each.accuracy.value) for each in measured], x, y),
        dashed=polyline([(0.0, training.chance), (float(last), training.chance)], x, y),
        end=(x(first.timestep), y(first.accuracy.value)) if len(measured) == 1 else None,
    )


def growth_chart(variant: SideVariant, scan: SideScan) -> Chart | None:
    """Distinct training images at mid level among more images, at the best lambda and plainly."""
    points, plain = _grown(best_images(variant).curve), _grown(scan.plain.curve)
    if not points:
        return None
    tops = [each.expected if each.upper is None else each.upper for each in [*points, *plain]]
    x, x_ticks = axis(max(1, *(e.num_generated for e in [*points, *plain])), LEFT, RIGHT)
    y, y_ticks = axis(max([1.0, *tops]), BOTTOM, TOP)
    measured = [each for each in points if not each.extrapolated]
    last = measured[-1] if measured else None
    return Chart(
        title=f"What generating more with {short_title(variant)} would bring out",
        description=_growth_described(variant, points, plain),
        x_label="generated images",
        y_label="distinct training images",
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        bands=band(list(_intervals(points)), x, y),
        compared_bands=band(list(_intervals(plain)), x, y),
        solid=polyline([(each.num_generated, each.expected) for each in points], x, y),
        dashed=polyline([(each.num_generated, each.expected) for each in plain], x, y),
        end=(x(last.num_generated), y(last.expected)) if last else None,
    )


def _grown(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    return sorted(points, key=lambda each: each.num_generated)


def _intervals(points: Sequence[CurvePoint]) -> Iterator[Interval]:
    for each in points:
        if each.lower is not None and each.upper is not None:
            yield each.num_generated, each.lower, each.upper


def _growth_described(
    variant: SideVariant, points: Sequence[CurvePoint], plain: Sequence[CurvePoint]
) -> str:
    told = "Expected number of distinct training images at mid level. "
    for name, each in (
        (f"{short_title(variant)} at its best lambda", points),
        (PLAIN_SAMPLING, plain),
    ):
        if each:
            told += f"Among {each[-1].num_generated:,} images, {name}: {expected_text(each[-1])}. "
    return told.strip()


def _widened(bounds: Sequence[Interval], last: float) -> Sequence[Interval]:
    """A single interval gets a width of its own, so that it can be seen beside its dot."""
    if len(bounds) != 1:
        return bounds
    ((at, lower, upper),) = bounds
    return [(max(0.0, at - last / 100), lower, upper), (at + last / 100, lower, upper)]


def _points_label(share: float) -> str:
    """Percentage points, without their sign."""
    return f"{round(100 * share, 6):g}"
