"""Where things lie on logarithmic axes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from unit.reports import splitting_scans as scans

from pytest_memscan.reports import charts
from pytest_memscan.reports.splitting_charts import MAX_DECADES, growth_chart, log_axis, rate_chart
from pytest_memscan.results import Measure


def points(line: Markup | None) -> list[tuple[float, float]]:
    assert line is not None
    pairs = [each.split(",") for each in line.split()]
    return [(float(x), float(y)) for x, y in pairs]


def test_equal_factors_are_equal_distances() -> None:
    scale, ticks = log_axis([1e-4, 1e2], (0.0, 600.0), label=str)
    assert [scale(10.0**power) for power in range(-4, 3)] == pytest.approx(
        [0, 100, 200, 300, 400, 500, 600]
    )
    assert scale(0.0) == 0
    assert scale(1e9) == 600
    assert [tick.label for tick in ticks] == ["100.0", "1.0", "0.01", "0.0001"]


@given(
    st.lists(st.floats(min_value=1e-300, max_value=1e12), min_size=1, max_size=6),
    st.sampled_from([1.0, float("inf")]),
)
def test_every_number_finds_room_and_there_are_a_few_ticks(
    numbers: list[float], most: float
) -> None:
    scale, ticks = log_axis([*numbers, 0.0], (240.0, 26.0), label=str, most=most)
    assert all(26 <= scale(each) <= 240 for each in [*numbers, 0.0, 1e300])
    assert 1 <= len(ticks) <= 7
    assert all(26 <= tick.at <= 240 for tick in ticks)
    assert sorted(tick.at for tick in ticks) == [tick.at for tick in ticks]


def test_too_many_decades_are_cut_below() -> None:
    scale, _ = log_axis([1e-40, 1.0], (0.0, 120.0), label=str)
    assert scale(10.0**-MAX_DECADES) == pytest.approx(0)
    assert scale(1e-6) == pytest.approx(60)


def test_the_steered_rate_goes_on_where_the_plain_one_has_run_out() -> None:
    chart = rate_chart(scans.leaky_scan())
    assert chart is not None
    steered, plain = points(chart.solid), points(chart.compared)
    assert len(steered) == 10
    assert len(plain) == 4  # ratio 1.0 and looser
    assert plain[0][0] == pytest.approx(steered[6][0])
    assert [y for _, y in steered] == sorted((y for _, y in steered), reverse=True)
    band = points(chart.compared_bands[0])
    assert band[0][1] < charts.BOTTOM  # the upper bound stays at the closest threshold
    assert band[-1][1] == charts.BOTTOM  # where the lower one is zero
    assert [mark.label for mark in chart.marks] == ["confirmed 0.93"]
    assert [tick.label for tick in chart.y_ticks] == ["1", "100", "10k", "1M", "100M"]


def test_thresholds_at_which_nothing_was_seen_end_the_line_and_its_band() -> None:
    scan = scans.leaky_scan()
    nothing = scans.rate(0.0, 0.0, 1.0)
    rates = (*scan.rates[:7], *(replace(each, steered=nothing) for each in scan.rates[7:]))
    chart = rate_chart(replace(scan, rates=rates))
    whole = rate_chart(scan)
    assert chart is not None
    assert whole is not None
    assert len(points(chart.solid)) == 7
    assert len(points(chart.bands[0])) == 14
    assert points(chart.solid)[0][0] == points(whole.solid)[3][0]


def test_everything_lies_in_the_plot() -> None:
    for chart in (rate_chart(scans.leaky_scan()), growth_chart(scans.leaky_scan())):
        assert chart is not None
        lines = [chart.solid, *chart.bands, *chart.compared_bands]
        for x, y in (point for line in lines for point in points(line)):
            assert charts.LEFT <= x <= charts.RIGHT
            assert charts.TOP <= y <= charts.BOTTOM
        assert all(len(tick.label) <= 5 for tick in (*chart.x_ticks, *chart.y_ticks))


def test_the_charts_are_told_in_words() -> None:
    chart = rate_chart(scans.leaky_scan())
    assert chart is not None
    assert chart.description == (
        "Leak rate of DDIMScheduler, eta 1, 50 steps at each ratio that counts. "
        "At 1.3: 20.0 % of images by steering, 19.9 % of the images that were never steered. "
        "At 0.4: one in 28 million images by steering, 0 % of the images that were never steered."
    )
    growth = growth_chart(scans.leaky_scan())
    assert growth is not None
    assert "Among 1,000,000,000: 11 [2.2, 27]." in growth.description
    assert [mark.label for mark in growth.marks] == ["reach 1M"]


def test_a_similarity_is_drawn_in_its_own_direction() -> None:
    scan = scans.leaky_scan()
    measure = Measure(name="cosine of x", word="similarity", higher_is_closer=True)
    rates = tuple(replace(each, score=round(1.3 - each.score, 2)) for each in scan.rates)
    calibration = replace(scan.calibration, confirmed_cut=0.5)
    chart = rate_chart(replace(scan, measure=measure, rates=rates, calibration=calibration))
    assert chart is not None
    assert chart.x_label == "similarity that counts (greater is closer)"
    heights = [y for _, y in points(chart.solid)]
    assert heights == sorted(heights)


def test_what_is_not_there_is_not_drawn() -> None:
    clean = scans.clean_scan()
    assert rate_chart(clean) is None
    assert growth_chart(clean) is None
    assert growth_chart(replace(scans.leaky_scan(), growth=scans.growth()[:1])) is None
    lone = rate_chart(replace(scans.leaky_scan(), rates=scans.rates()[:1]))
    assert lone is not None
    assert lone.solid is None
    assert lone.bands == ()


def test_points_without_an_interval_have_no_band() -> None:
    scan = scans.leaky_scan()
    growth = tuple(replace(each, lower=None, upper=None) for each in scan.growth)
    chart = growth_chart(replace(scan, growth=growth, reach=10**12))
    assert chart is not None
    assert chart.bands == ()
    assert chart.marks == ()


def test_a_bound_that_says_nothing_takes_no_room() -> None:
    scan = scans.leaky_scan()
    growth = tuple(
        replace(each, lower=1e-12, upper=float(each.num_generated)) for each in scan.growth
    )
    wide = growth_chart(replace(scan, growth=growth))
    assert wide is not None
    assert len(wide.y_ticks) <= 7
    assert wide.y_ticks[0].label == "10k"  # a thousand times the 11 that are expected
    assert min(y for _, y in points(wide.bands[0])) == charts.TOP
    assert max(y for _, y in points(wide.bands[0])) == charts.BOTTOM
