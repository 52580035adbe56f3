"""The reach of a splitting scan, where training images are few."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from unit.test_controls import smooth_images

from pytest_memscan.scans.controls import least_cut, run_controls
from pytest_memscan.scans.splitting import Splitting
from pytest_memscan.similarity.reference import prepare


def scan_of(num_train: int, **changes: Any) -> Splitting:
    pixels = smooth_images(num_train)
    return Splitting(
        load_pipeline=lambda _: None,
        store=cast("Any", None),
        num_images=100,
        seed=0,
        batch_size=8,
        steps=10,
        dtype="float32",
        reach=1_000_000,
        reference=prepare(pixels),
        pixels=pixels,
        **changes,
    )


@pytest.mark.parametrize("num_train", [30, 200])
def test_the_least_cut_is_the_tightest_that_confirms_planted_copies(num_train: int) -> None:
    reference = scan_of(num_train).reference
    least = least_cut(reference)
    for cut, passed in ((least, True), (0.999 * least, False)):
        controls = run_controls(reference, confirmed_cut=cut)
        planted = [each.passed for each in controls if each.name.endswith("_confirmed")]
        assert all(planted) == passed


@pytest.mark.parametrize("num_train", [30, 200])
def test_the_reach_is_shortened_no_more_than_planted_copies_need(num_train: int) -> None:
    scan = scan_of(num_train, shortest_reach=100)
    least = least_cut(scan.reference)
    assert scan.within in {10**power for power in range(2, 7)}
    assert scan.cut.dissimilarity >= least or scan.within == 100
    if scan.within < scan.reach:
        longer = replace(scan, reach=10 * scan.within, shortest_reach=None)
        assert longer.cut.dissimilarity < least


def test_a_reach_that_was_asked_for_stays() -> None:
    assert scan_of(30).within == 1_000_000
