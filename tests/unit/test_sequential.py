"""The stopping rule: exact error rates against enumeration and simulation."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_memscan.sequential import Decision, StoppingRule

DEFAULT = StoppingRule()
RULES = {
    "default": DEFAULT,
    "sure": StoppingRule(miss_probability=0.001),
    "rarer copies": StoppingRule(copy_rate=0.04),
    "uneven batches": StoppingRule(max_images=95, batch=8, clique_size=4, copy_rate=0.2),
    "a look at every image": StoppingRule(max_images=120, batch=1, clique_size=3),
    "looks as large as the clique": StoppingRule(max_images=60, batch=20, copy_rate=0.4),
}
GRID = (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.7, 1.0)


def sample(rule: StoppingRule, returned: np.ndarray) -> tuple[Decision, int]:
    """One prompt, looked at as a scan does: whether each image is the dominant one."""
    for look in [*range(rule.batch, rule.max_images, rule.batch), rule.max_images]:
        decision = rule.decide(look, max(1, int(returned[:look].sum())))
        if decision is not Decision.CONTINUE:
            return decision, look
    raise AssertionError("the rule never came to an end")


def test_decisions_of_the_default_rule() -> None:
    assert DEFAULT.boundaries == (60, 80, 90, 110, 120, 130, 150, 160, 170)
    assert DEFAULT.decide(10, 10) is Decision.FLAG
    assert DEFAULT.decide(500, 500) is Decision.FLAG
    assert DEFAULT.decide(170, 10) is Decision.FLAG
    assert DEFAULT.decide(50, 1) is Decision.CONTINUE
    assert DEFAULT.decide(60, 0) is DEFAULT.decide(60, 1) is Decision.CLEAN
    assert DEFAULT.decide(60, 2) is Decision.CONTINUE
    assert DEFAULT.decide(169, 9) is Decision.CONTINUE
    assert DEFAULT.decide(170, 9) is Decision.CLEAN
    assert DEFAULT.decide(0, 0) is Decision.CONTINUE
    assert DEFAULT.decide(500, 9) is Decision.FULL


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_boundaries_rise_and_are_looks(rule: StoppingRule) -> None:
    assert len(rule.boundaries) == rule.clique_size - 1
    assert all(one <= other for one, other in pairwise(rule.boundaries))
    assert all(each % rule.batch == 0 or each == rule.max_images for each in rule.boundaries)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_promise_holds_at_the_copy_rate_and_above(rule: StoppingRule) -> None:
    rates = np.linspace(rule.copy_rate, 1, 60)
    missed = [rule.miss_probability_at(rate) for rate in rates]
    assert missed[0] <= rule.miss_probability
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(missed))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_next_tighter_boundaries_would_break_the_promise(rule: StoppingRule) -> None:
    """Of the family: first look with P(at most m returns) <= tail, for any tail."""
    looks = np.array([*range(rule.batch, rule.max_images, rule.batch), rule.max_images])
    returns = np.arange(1, rule.clique_size)
    tails = stats.binom.cdf(returns[:, None], looks[None], rule.copy_rate)

    def boundaries(tail: float) -> tuple[int, ...]:
        small = tails <= tail
        small[:, -1] = True
        return tuple(looks[small.argmax(axis=1)].tolist())

    family = sorted({boundaries(tail) for tail in tails.ravel()}, reverse=True)
    chosen = family.index(rule.boundaries)
    assert missed_by_enumeration(rule, family[chosen]) <= rule.miss_probability
    if chosen + 1 < len(family):
        assert missed_by_enumeration(rule, family[chosen + 1]) > rule.miss_probability


def missed_by_enumeration(rule: StoppingRule, boundaries: tuple[int, ...]) -> float:
    """P(some boundary m is met with at most m returns), step by step from boundary to boundary.

    The statement of the class docstring, computed from the boundaries alone.
    """
    rate, alive, before, missed = rule.copy_rate, {0: 1.0}, 0, 0.0
    for boundary in sorted({*boundaries, rule.max_images}):
        most = max((m for m, at in enumerate(boundaries, 1) if at <= boundary), default=-1)
        if boundary == rule.max_images:
            most = rule.clique_size - 1
        after: dict[int, float] = {}
        for returns, chance in alive.items():
            for more in range(boundary - before + 1):
                after[returns + more] = after.get(returns + more, 0.0) + chance * float(
                    stats.binom.pmf(more, boundary - before, rate)
                )
        missed += sum(chance for returns, chance in after.items() if returns <= most)
        # at the clique size and beyond a prompt is flagged: it can no longer be missed
        alive = {n: chance for n, chance in after.items() if most < n < rule.clique_size}
        before = boundary
    return missed


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_chance_of_a_miss_follows_from_the_boundaries_alone(rule: StoppingRule) -> None:
    expected = missed_by_enumeration(rule, rule.boundaries)
    assert rule.miss_probability_at(rule.copy_rate) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("miss", [0.3, 0.05])
def test_every_sequence_of_a_small_protocol_is_counted(miss: float) -> None:
    """All 2 ** 12 sequences of images; the second rule stops when all the rest could be copies."""
    rule = StoppingRule(
        clique_size=3, max_images=12, batch=2, copy_rate=0.45, miss_probability=miss
    )
    assert rule.boundaries[0] < 12  # or nothing would be decided early
    sequences = np.array(list(product([0, 1], repeat=12)))
    ends = [sample(rule, sequence) for sequence in sequences]
    for rate in GRID:
        returned = sequences.sum(axis=1)
        chance = rate**returned * (1 - rate) ** (12 - returned)
        flagged = np.array([decision is Decision.FLAG for decision, _ in ends])
        images = np.array([number for _, number in ends])
        fixed = returned >= 3
        assert rule.flag_probability_at(rate) == pytest.approx(chance @ flagged)
        assert rule.miss_probability_at(rate) == pytest.approx(chance @ ~flagged)
        assert rule.fixed_flag_probability_at(rate) == pytest.approx(chance @ fixed)
        assert rule.disagreement(rate) == pytest.approx(chance @ (fixed & ~flagged))
        assert rule.expected_images(rate) == pytest.approx(chance @ images)
        assert not (flagged & ~fixed).any()


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.05, 0.1, 0.3, 1.0])
def test_simulated_prompts_end_as_computed(rate: float) -> None:
    number = 4_000
    returned = np.random.default_rng(round(1000 * rate)).random((number, 500)) < rate
    ends = [sample(DEFAULT, row) for row in returned]
    flagged = np.array([decision is Decision.FLAG for decision, _ in ends])
    fixed = returned.sum(axis=1) >= DEFAULT.clique_size
    assert not (flagged & ~fixed).any()  # a flag is always the fixed protocol's answer
    for happened, probability in (
        (flagged, DEFAULT.flag_probability_at(rate)),
        (fixed, DEFAULT.fixed_flag_probability_at(rate)),
        (fixed & ~flagged, DEFAULT.disagreement(rate)),
    ):
        assert 0 <= probability <= 1
        low, high = stats.binom.interval(0.9999, number, probability)
        assert low <= happened.sum() <= high
    images = np.array([number_of for _, number_of in ends])
    error = images.std() / np.sqrt(number)
    assert images.mean() == pytest.approx(DEFAULT.expected_images(rate), abs=4 * error + 1e-9)


def test_looks_that_come_at_other_counts_miss_no_more_often() -> None:
    """Black images are dropped, so that looks come after 9, 17, 28 ... valid ones."""
    rng = np.random.default_rng(1)
    number, missed = 3_000, 0
    for _ in range(number):
        returned = rng.random(500) < DEFAULT.copy_rate
        look, decision = 0, Decision.CONTINUE
        while decision is Decision.CONTINUE:
            look = min(look + int(rng.integers(5, 11)), 500)
            decision = DEFAULT.decide(look, max(1, int(returned[:look].sum())))
        missed += decision is not Decision.FLAG
    assert missed <= stats.binom.ppf(0.9999, number, DEFAULT.miss_probability)


@pytest.mark.parametrize("rate", GRID)
def test_a_rule_that_never_stops_early_is_the_fixed_protocol(rate: float) -> None:
    limit = float(stats.binom.cdf(9, 500, 0.1))
    rule = StoppingRule(miss_probability=limit * (1 + 1e-9))
    assert rule.boundaries[0] >= 250
    assert rule.miss_probability_at(0.1) <= limit * (1 + 1e-9)
    assert rule.flag_probability_at(rate) <= rule.fixed_flag_probability_at(rate) + 1e-12
    assert rule.disagreement(rate) == pytest.approx(
        rule.fixed_flag_probability_at(rate) - rule.flag_probability_at(rate), abs=1e-12
    )


@settings(deadline=None, max_examples=30)
@given(
    st.integers(2, 8),
    st.integers(60, 200),
    st.integers(1, 25),
    st.floats(0.2, 0.9),
    st.floats(0.01, 0.3),
)
def test_every_rule_that_can_be_built_keeps_its_promise(
    clique_size: int, max_images: int, batch: int, copy_rate: float, miss: float
) -> None:
    rule = (
        StoppingRule(
            clique_size=clique_size,
            max_images=max_images,
            batch=batch,
            copy_rate=copy_rate,
            miss_probability=miss,
        )
        if stats.binom.cdf(clique_size - 1, max_images, copy_rate) <= miss
        else DEFAULT
    )
    assert rule.miss_probability_at(rule.copy_rate) <= rule.miss_probability
    assert rule.expected_images(0.0) == pytest.approx(rule.boundaries[0])
    assert rule.flag_probability_at(1.0) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clique_size": 1}, "clique_size"),
        ({"max_images": 9}, "clique_size"),
        ({"batch": 0}, "batch"),
        ({"batch": 501}, "batch"),
        ({"copy_rate": 0.0}, "copy_rate"),
        ({"miss_probability": 1.0}, "miss_probability"),
        ({"copy_rate": 0.02}, "Raise copy_rate or max_images"),
    ],
)
def test_a_rule_cannot_be_built_wrong(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StoppingRule(**values)  # type: ignore[arg-type]


def test_impossible_counts_and_rates_are_refused() -> None:
    for counts in ((5, 6), (5, -1), (-1, 0)):
        with pytest.raises(ValueError, match="largest_clique"):
            DEFAULT.decide(*counts)
    with pytest.raises(ValueError, match="rate must lie"):
        DEFAULT.expected_images(1.5)
