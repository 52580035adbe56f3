"""What the fixtures hand to a test, by the names a test uses."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from unit.gate.splitting_scans import copied, count, rate, splitting_scan
from unit.reports import side_scans

from pytest_memscan.errors import MemscanError
from pytest_memscan.fixture_results import LevelName, SideResult, SplittingResult
from pytest_memscan.policy import GUIDED_COUNTS, GUIDED_RATES

COPIES = (
    copied(7, rate(2e-4, 1e-4, 5e-4)),
    copied(3, rate(1e-9, 1e-11, 1e-6), in_reach=False),
)
SCAN = splitting_scan(
    extractable=count(1, 1, 2), leak_rate=rate(2e-4, 1e-4, 6e-4), copies=COPIES, reach=10_000
)


def test_splitting_offers_its_numbers_by_name() -> None:
    result = SplittingResult(SCAN)
    assert result.extractable == count(1, 1, 2)
    assert result.leak_rate == SCAN.leak_rate
    assert result.plain_rate == SCAN.plain_rate
    assert result.copies == COPIES
    assert repr(result) == "<splitting: 1 training images expected within 10,000 images>"


def test_a_price_is_the_rate_of_one_training_image() -> None:
    result = SplittingResult(SCAN)
    assert result.price(7) == COPIES[0].rate
    assert result.price(3) == COPIES[1].rate
    assert result.price(0) is None


def test_no_price_is_given_for_what_may_have_been_cut() -> None:
    result = SplittingResult(splitting_scan(copies=COPIES, num_copies_total=900))
    assert result.price(3) == COPIES[1].rate
    with pytest.raises(MemscanError, match="likeliest 2 of 900 copies"):
        result.price(0)


@pytest.mark.parametrize("num_images", [1, 1000, 10**9])
def test_copies_are_expected_in_proportion_to_the_images(num_images: int) -> None:
    expected = SplittingResult(SCAN).expected_copies(num_images)
    assert expected.value == pytest.approx(num_images * 2e-4)
    assert expected.lower == pytest.approx(num_images * 1e-4)
    assert expected.upper == pytest.approx(num_images * 6e-4)
    assert expected.confidence == SCAN.leak_rate.confidence


@pytest.mark.parametrize("num_images", [0, -1])
def test_copies_among_no_images_are_a_mistake(num_images: int) -> None:
    with pytest.raises(MemscanError, match="expected a number of images"):
        SplittingResult(SCAN).expected_copies(num_images)


# --- SIDE ---------------------------------------------------------------------------------------

# Every metric another number, so that none can stand in for another.
GUIDED = {
    name: rate(number / 100, number / 200, number / 50)
    for number, name in enumerate([*GUIDED_COUNTS, *GUIDED_RATES], start=1)
}
SIDE_SCAN = replace(side_scans.leaky_scan(), metrics=GUIDED)


def test_side_offers_its_numbers_by_name() -> None:
    result = SideResult(SIDE_SCAN)
    assert result.extracted == GUIDED["side_extracted"]
    assert result.leak_rate == GUIDED["side_leak_rate"]
    for level in ("low", "mid", "high"):
        assert result.ams(level) == GUIDED[f"side_ams_{level}"]
        assert result.ums(level) == GUIDED[f"side_ums_{level}"]
    assert result.ams() == GUIDED["side_ams_high"]
    assert result.ums() == GUIDED["side_ums_high"]
    assert result.ams("confirmed") == GUIDED["side_leak_rate"]
    assert result.scan is SIDE_SCAN
    named = {id(result.extracted), *(id(result.ams(each)) for each in get_args(LevelName))}
    named |= {id(result.ums(each)) for each in ("low", "mid", "high")}
    assert named == {id(each) for each in GUIDED.values()}  # every metric has a name


def test_side_says_how_many_came_out() -> None:
    scan = replace(SIDE_SCAN, metrics=GUIDED | {"side_extracted": count(12, 11, 12)})
    assert repr(SideResult(scan)) == "<side: 12 training images extracted>"


def test_a_variant_is_found_by_its_name() -> None:
    result = SideResult(SIDE_SCAN)
    for variant in SIDE_SCAN.variants:
        assert result.variant(variant.name) is variant


def test_a_variant_that_was_not_run_says_why() -> None:
    result = SideResult(SIDE_SCAN)
    with pytest.raises(MemscanError, match="variant side_a was not run: No auxiliary set was giv"):
        result.variant("side_a")
    with pytest.raises(MemscanError, match="variant random_labels was not run: it was not asked "):
        result.variant("random_labels")
