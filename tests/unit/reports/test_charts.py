"""Where things lie in the charts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from unit.reports import scans

from pytest_memscan.reports import charts


def test_every_bar_lies_in_the_plot_and_the_tallest_is_the_fullest() -> None:
    chart = charts.histogram(scans.leaky_scan())
    assert chart is not None
    assert all(charts.LEFT <= bar.x <= charts.RIGHT - bar.width for bar in chart.bars)
    assert all(bar.y >= chart.top for bar in chart.bars)
    tallest = max(chart.bars, key=lambda bar: bar.height)
    assert tallest.title == "0.40 to 0.45: 43 images"


def test_only_bins_wholly_below_the_confirmed_cut_stand_out() -> None:
    chart = charts.histogram(scans.leaky_scan())  # the cut is 0.93
    assert chart is not None
    confirmed = [bar.title for bar in chart.bars if bar.is_confirmed]
    assert confirmed[-1] == "0.85 to 0.90: 2 images"
    assert confirmed == [bar.title for bar in chart.bars][: len(confirmed)]


def test_a_single_image_among_many_is_still_visible() -> None:
    scan = replace(scans.clean_scan(), histogram=((0.2, 1), (1.6, 100_000)))
    chart = charts.histogram(scan)
    assert chart is not None
    assert chart.bars[0].height == 2
    assert chart.y_ticks[-1].label == "100k"


def test_labels_of_cuts_do_not_overlap() -> None:
    chart = charts.histogram(scans.leaky_scan())
    assert chart is not None
    assert [mark.label for mark in chart.marks] == [
        "confirmed 0.93",
        "high 1.35",
        "mid 1.4",
        "low 1.5",
    ]
    for left, right in pairwise(chart.marks):
        end = left.label_x + charts.CHARACTER_WIDTH * len(left.label)
        assert right.label_y > left.label_y or right.label_x >= end


def test_the_extrapolated_part_continues_the_measured_one() -> None:
    chart = charts.curve(scans.leaky_scan())
    assert chart is not None
    assert chart.solid is not None
    assert chart.dashed is not None
    assert chart.end is not None
    assert chart.solid.split()[-1] == chart.dashed.split()[0]
    assert chart.dashed.split()[0] == f"{chart.end[0]:.1f},{chart.end[1]:.1f}"
    assert "After 320 generated images: 143." in chart.description
    assert "Extrapolated to 960" in chart.description


def test_points_without_an_interval_interrupt_the_band() -> None:
    points = list(scans.curve())
    points[4] = replace(points[4], lower=None, upper=None)
    chart = charts.curve(replace(scans.leaky_scan(), curve=tuple(points)))
    assert chart is not None
    assert len(chart.bands) == 2


def test_nothing_measured_draws_nothing() -> None:
    scan = replace(scans.clean_scan(), curve=(), histogram=((0.0, 0),))
    assert charts.curve(scan) is None
    assert charts.histogram(scan) is None


@pytest.mark.parametrize("expected", [0.0, 0.4, 3_000_000.0])
def test_a_curve_of_one_point_is_a_dot(expected: float) -> None:
    point = replace(scans.curve()[0], num_generated=1, expected=expected)
    chart = charts.curve(replace(scans.clean_scan(), curve=(point,)))
    assert chart is not None
    assert chart.solid is None
    assert chart.end is not None
    assert charts.TOP <= chart.end[1] <= charts.BOTTOM


def test_a_curve_that_starts_at_no_image_has_an_axis() -> None:
    chart = charts.curve(replace(scans.clean_scan(), curve=scans.curve()[:1]))
    assert chart is not None
    assert chart.x_ticks
