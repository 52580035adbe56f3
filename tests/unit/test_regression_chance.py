"""How often chance fools a comparison, and how often a real increase is noticed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.baseline_samples import carlini, compared, without_ids

from pytest_memscan.results import (
    CheckOutcome,
)

copies_of = st.dictionaries(st.integers(0, 99), st.integers(0, 30))


@settings(deadline=None, max_examples=60)
@given(copies_of)
def test_a_leaky_checkpoint_against_itself_is_no_increase(copies: dict[int, int]) -> None:
    check = carlini(copies, planned=100)
    for now in (check, without_ids(check)):
        assert not any(each.increased for each in compared(check, now).changes)


@settings(deadline=None, max_examples=60)
@given(copies_of, copies_of)
def test_what_rose_one_way_did_not_rise_the_other_way(
    one: dict[int, int], other: dict[int, int]
) -> None:
    there = compared(carlini(one, planned=100), carlini(other, planned=100)).changes
    back = compared(carlini(other, planned=100), carlini(one, planned=100)).changes
    for up, down in zip(there, back, strict=True):
        assert not (up.increased and down.increased)
        assert (up.num_new, up.num_gone) == (down.num_gone, down.num_new)


def sampled(
    rng: np.random.Generator, share: float, *, kept: frozenset[int] = frozenset()
) -> CheckOutcome:
    """So many images are copies, each of one of 40 training images; and those that are kept."""
    hits = set(np.flatnonzero(rng.random(320) < share).tolist()) | kept
    return carlini({hit: int(rng.integers(40)) for hit in hits})


def test_chance_alone_is_called_an_increase_less_often_than_said() -> None:
    rng = np.random.default_rng(8)
    wrong = [
        any(each.increased for each in compared(sampled(rng, share), sampled(rng, share)).changes)
        for share in (0.005, 0.05, 0.3)
        for _ in range(150)
    ]
    assert np.mean(wrong) <= 0.05


def test_an_increase_that_matters_is_noticed() -> None:
    rng = np.random.default_rng(9)
    seen = [
        any(each.increased for each in compared(sampled(rng, 0.0), sampled(rng, 0.06)).changes)
        for _ in range(60)
    ]
    assert np.mean(seen) > 0.9
    pairs = [frozenset(np.flatnonzero(rng.random(320) < 0.1).tolist()) for _ in range(60)]
    seen = [
        any(
            each.increased
            for each in compared(
                sampled(rng, 0.0, kept=kept), sampled(rng, 0.04, kept=kept), ("leak_rate",)
            ).changes
        )
        for kept in pairs
    ]
    assert np.mean(seen) > 0.9  # as shares, 10 % against 13.6 % of 320 images would show nothing
