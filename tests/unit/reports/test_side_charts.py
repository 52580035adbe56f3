"""Where the parts of the charts of SIDE lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
from markupsafe import Markup
from unit.reports import side_scans as scans

from pytest_memscan.reports import charts
from pytest_memscan.reports.charts import Chart
from pytest_memscan.reports.side_charts import accuracy_chart, ams_chart, growth_chart, ums_chart


def points(line: Markup | None) -> list[tuple[float, float]]:
    assert line is not None
    pairs = [each.split(",") for each in line.split()]
    return [(float(x), float(y)) for x, y in pairs]


def drawn(chart: Chart | None) -> Chart:
    assert chart is not None
    return chart


def every_chart() -> list[Chart]:
    made = []
    for scan in (scans.leaky_scan(), scans.clean_scan(), scans.first_scan()):
        for each in scan.variants:
            made += [ams_chart(each, scan), ums_chart(each, scan)]
            made += [accuracy_chart(each), growth_chart(each, scan)]
    return [each for each in made if each is not None]


def test_ams_rises_to_the_best_lambda_and_falls() -> None:
    scan = scans.leaky_scan()
    variant = scans.side_c()
    chart = drawn(ams_chart(variant, scan))
    line = points(chart.solid)
    assert len(line) == len(scans.SCALES)
    heights = [y for _, y in line]
    best = scans.SCALES.index(7.0)
    assert min(heights) == heights[best]  # the origin is at the top
    assert heights[: best + 1] == sorted(heights[: best + 1], reverse=True)
    assert chart.end == pytest.approx(line[best], abs=0.06)
    unit = (charts.RIGHT - charts.LEFT) / 15
    assert [x for x, _ in line] == pytest.approx(
        [charts.LEFT + unit * scale for scale in scans.SCALES], abs=0.06
    )
    ums = drawn(ums_chart(variant, scan))
    assert ums.y_label == "UMS at mid level (%)"
    assert ums.solid != chart.solid


def test_settings_are_drawn_by_lambda_whatever_their_order() -> None:
    scan, variant = scans.leaky_scan(), scans.side_c()
    turned = replace(variant, settings=variant.settings[::-1])
    assert ams_chart(turned, scan) == ams_chart(variant, scan)


def test_plain_sampling_is_a_dashed_line_with_its_interval() -> None:
    scan = scans.leaky_scan()
    chart = drawn(ams_chart(scans.side_c(), scan))
    (start, height), (end, other) = points(chart.dashed)
    assert height == other
    assert start == charts.LEFT
    assert end == points(chart.solid)[-1][0]
    rate = scan.plain.levels[1].ams
    (band,) = chart.compared_bands
    lower, upper = max(y for _, y in points(band)), min(y for _, y in points(band))
    unit = (charts.BOTTOM - charts.TOP) / 0.05
    assert charts.BOTTOM - height == pytest.approx(unit * rate.value, abs=0.06)
    assert charts.BOTTOM - lower == pytest.approx(unit * rate.lower, abs=0.06)
    assert charts.BOTTOM - upper == pytest.approx(unit * rate.upper, abs=0.06)


def test_a_single_lambda_is_a_dot_with_its_interval() -> None:
    scan = scans.first_scan()
    chart = drawn(ams_chart(scan.variants[0], scan))
    assert chart.solid is None
    assert chart.end is not None
    xs = [x for x, _ in points(chart.bands[0])]
    assert min(xs) < chart.end[0] < max(xs)
    assert max(xs) - min(xs) < 10


def test_accuracy_is_drawn_against_chance() -> None:
    chart = drawn(accuracy_chart(scans.side_c()))
    line, chance = points(chart.solid), points(chart.dashed)
    assert len(line) == 10
    assert [y for _, y in line] == sorted(y for _, y in line)
    assert {y for _, y in chance} == {round(240 - 214 * 0.031, 1)}
    assert [tick.label for tick in chart.y_ticks] == ["0", "20", "40", "60", "80", "100"]
    alone = drawn(accuracy_chart(scans.ol_ti()))
    assert alone.solid is None
    assert alone.end is not None
    assert len(alone.bands) == 1


def test_growth_compares_with_plain_sampling() -> None:
    scan = scans.leaky_scan()
    chart = drawn(growth_chart(scans.side_c(), scan))
    guided, plain = points(chart.solid), points(chart.dashed)
    assert len(guided) == len(plain) == 14
    assert all(ours[1] <= theirs[1] for ours, theirs in zip(guided, plain, strict=True))
    assert chart.end == pytest.approx(guided[10], abs=0.06)
    alone = drawn(growth_chart(scans.first_scan().variants[0], scans.first_scan()))
    assert alone.dashed is None
    assert alone.compared_bands == ()


def test_everything_lies_in_the_plot() -> None:
    for chart in every_chart():
        lines = [chart.solid, chart.dashed, *chart.bands, *chart.compared_bands]
        for x, y in (point for line in lines if line for point in points(line)):
            assert charts.LEFT <= x <= charts.RIGHT
            assert charts.TOP <= y <= charts.BOTTOM
        assert all(len(tick.label) <= 5 for tick in (*chart.x_ticks, *chart.y_ticks))


def test_the_charts_are_told_in_words() -> None:
    scan = scans.first_scan()
    variant = scan.variants[0]
    assert drawn(ams_chart(variant, scan)).description == (
        "AMS of SIDE-C at mid level: 3.79 % [3.16 %, 4.47 %] at lambda 7. "
        "Plain sampling: 0 % [0 %, 0.12 %]."
    )
    assert drawn(accuracy_chart(scans.ol_ti())).description == (
        "Accuracy on samples that the classifier was not trained on: 85.0 % [74.4 %, 96.2 %] at "
        "timestep 0. Chance: 3.10 %."
    )
    grown = drawn(growth_chart(scans.side_c(), scans.leaky_scan())).description
    assert "Among 25,600 images, SIDE-C at its best lambda: 81 [57, 106]." in grown
    assert "Among 25,600 images, plain sampling: 40 [28, 51]." in grown
    for chart in every_chart():
        assert "inf" not in chart.description
        assert "nan" not in chart.description


def test_what_is_not_there_is_not_drawn() -> None:
    scan = scans.leaky_scan()
    variant = scans.side_c()
    nothing = replace(variant, settings=())
    assert ams_chart(nothing, scan) is None
    assert ums_chart(nothing, scan) is None
    assert (
        accuracy_chart(replace(variant, training=replace(variant.training, accuracies=()))) is None
    )
    assert growth_chart(scans.clean_scan().variants[0], scan) is None


def test_lambda_zero_alone_has_an_axis() -> None:
    scan = scans.leaky_scan()
    variant = replace(scans.side_c(), settings=(scans.plain(),), best_scale=0.0)
    chart = drawn(ams_chart(variant, scan))
    assert chart.end is not None
    assert chart.end[0] == charts.LEFT
