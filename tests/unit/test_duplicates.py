"""What is said of duplicates in the training set, and when it fails a run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pictures import smooth_images
from unit.reports import scans

from pytest_memscan.gate import judge_duplicates, judge_scan
from pytest_memscan.policy import Threshold, parse_threshold, whole_policy
from pytest_memscan.results import Duplicates, Verdict
from pytest_memscan.scans.duplicates import find_duplicates
from pytest_memscan.similarity.reference import prepare

FOUND = Duplicates(
    num_images=100,
    num_groups=2,
    num_redundant=5,
    num_identical=4,
    largest=((0, 1, 2, 3, 4), (8, 9)),
    num_searched=100,
    measure="L2 distance of pixels",
)


def policy(*lines: str) -> list[Threshold]:
    return [parse_threshold(line) for line in lines]


def test_groups_and_images_that_could_go_are_counted() -> None:
    images = smooth_images(120)
    images[[50, 60, 70]] = images[3]
    images[80] = np.clip(images[9].astype(int) + 2, 0, 255)
    found = find_duplicates(prepare(images), images)
    assert found.num_images == found.num_searched == 120
    assert found.num_groups == 2
    assert found.num_redundant == 4
    assert found.num_identical == 3
    assert found.largest == ((3, 50, 60, 70), (9, 80))


def test_duplicates_are_for_information() -> None:
    outcome = judge_duplicates(FOUND, policy("extracted <= 0"))
    assert outcome.verdict is Verdict.PASS
    assert not outcome.thresholds
    assert "among 100 training images: 2 groups; 5 images could go (4" in outcome.sentence


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("duplicate_groups <= 2", Verdict.PASS),
        ("duplicate_groups < 2", Verdict.FAIL),
        ("duplicate_images <= 4", Verdict.FAIL),
        ("duplicate_images <= 5", Verdict.PASS),
    ],
)
def test_duplicates_can_be_limited(line: str, verdict: Verdict) -> None:
    outcome = judge_duplicates(FOUND, policy(line))
    assert outcome.verdict is verdict
    assert [each.expression for each in outcome.thresholds] == [line]


def test_a_limit_that_was_not_wholly_looked_at_is_not_kept() -> None:
    partly = replace(FOUND, num_searched=40)
    assert judge_duplicates(partly, policy("duplicate_groups <= 9")).verdict is Verdict.INCONCLUSIVE
    assert judge_duplicates(partly, policy("duplicate_groups <= 1")).verdict is Verdict.FAIL


def test_a_scan_is_not_judged_by_lines_about_duplicates() -> None:
    outcome = judge_scan(scans.clean_scan(), policy("extracted <= 0", "duplicate_groups <= 0"))
    assert [each.expression for each in outcome.thresholds] == ["extracted <= 0"]


def test_lines_about_duplicates_alone_leave_the_limits_on_leakage() -> None:
    """A gate that limits nothing but duplicates would pass a checkpoint that leaks everything."""
    whole = whole_policy(policy("duplicate_groups <= 0"), {"duplicates", "images"})
    assert [line.expression for line in whole] == [
        "duplicate_groups <= 0",
        "extracted <= 0",
        "leak_rate <= 0.01",
    ]
    given = policy("duplicate_groups <= 0", "ums_high <= 0.1")
    assert whole_policy(given, {"duplicates", "images"}) == tuple(given)
