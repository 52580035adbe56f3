"""What the fixtures hand to a test, by the names a test uses."""

from __future__ import annotations

import pytest
from unit.gate.splitting_scans import copied, count, rate, splitting_scan

from pytest_memscan.errors import MemscanError
from pytest_memscan.fixture_results import SplittingResult

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
