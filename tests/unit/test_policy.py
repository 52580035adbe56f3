"""The threshold grammar, and limits that no result could keep."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.errors import OptionError
from pytest_memscan.policy import (
    COUNTS,
    DEFAULT_POLICY,
    RATES,
    Subject,
    Threshold,
    check_can_be_shown,
    parse_threshold,
    whole_policy,
)


@pytest.mark.parametrize(
    ("text", "metric", "operator", "limit"),
    [
        ("extracted <= 0", "extracted", "<=", 0),
        ("extracted<3", "extracted", "<", 3),
        ("  ums_high  <=  0.001 ", "ums_high", "<=", 0.001),
        ("leak_rate < 1e-2", "leak_rate", "<", 0.01),
        ("ams_low <= .5", "ams_low", "<=", 0.5),
    ],
)
def test_a_threshold_is_metric_operator_limit(
    text: str, metric: str, operator: str, limit: float
) -> None:
    threshold = parse_threshold(text, source="memscan.toml")
    assert (threshold.metric, threshold.operator, threshold.limit) == (metric, operator, limit)
    assert threshold.source == "memscan.toml"
    assert parse_threshold(threshold.expression).limit == limit


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a threshold"),
        ("extracted", "not a threshold"),
        ("extracted <=", "not a threshold"),
        ("extracted = 0", "not a threshold"),
        ("extracted == 0", "not a threshold"),
        ("extracted >= 0", "not a threshold"),
        ("0 >= extracted", "not a threshold"),
        ("extracted <= 0, leak_rate <= 0.01", "not a threshold"),
        ("extracted <= 0\nleak_rate <= 0.01", "not a threshold"),
        ("ums_hihg <= 0.01", "unknown metric 'ums_hihg'"),
        ("Extracted <= 0", "unknown metric 'Extracted'"),
        ("leak_rate <= nan", "a number of at least 0"),
        ("leak_rate <= inf", "a number of at least 0"),
        ("leak_rate <= -0.1", "a number of at least 0"),
        ("leak_rate <= few", "a number of at least 0"),
        ("leak_rate <= 1%", "0.01 means 1 %"),
        ("leak_rate <= 1 %", "0.01 means 1 %"),
        ("leak_rate <= 0", "extracted <= 0"),
        ("leak_rate < 0", "extracted <= 0"),
        ("leak_rate <= 1", "between 0 and 1"),
        ("leak_rate <= 1.1", "between 0 and 1"),
        ("leak_rate <= 1e-320", "below 1e-09"),
        ("steered_leak_rate <= 0", "between 0 and 1"),
        ("extractable_images <= 0.5", "whole-number limit"),
        ("extracted < 0", "whole-number limit"),
        ("extracted <= 0.5", "whole-number limit"),
        ("extracted <= -1", "a number of at least 0"),
    ],
)
def test_what_is_not_a_threshold_is_quoted_with_a_remedy(text: str, complaint: str) -> None:
    with pytest.raises(OptionError, match=re.escape(complaint)) as error:
        parse_threshold(text, source="--memscan-fail")
    assert str(error.value).startswith(f"--memscan-fail: {text!r}")
    assert "\n" not in str(error.value)


def test_an_unknown_metric_is_answered_with_those_there_are() -> None:
    with pytest.raises(OptionError) as error:
        parse_threshold("ssim <= 0.1")
    assert all(metric in str(error.value) for metric in [*RATES, *COUNTS])


def test_the_default_policy_can_be_parsed_and_shown_with_the_default_budget() -> None:
    for subject, texts in DEFAULT_POLICY.items():
        for text in texts:
            threshold = parse_threshold(text)
            assert threshold.subject == subject
            assert threshold.is_default
            check_can_be_shown(threshold, num_images=320)


@pytest.mark.parametrize(
    ("value", "at_most", "below"), [(0.009, True, True), (0.01, True, False), (0.011, False, False)]
)
def test_only_the_operator_with_an_equals_sign_includes_the_limit(
    value: float, at_most: bool, below: bool
) -> None:
    assert parse_threshold("leak_rate <= 0.01").holds(value) is at_most
    assert parse_threshold("leak_rate < 0.01").holds(value) is below


@pytest.mark.parametrize(("limit", "needed"), [(0.01, 299), (0.001, 2995), (0.5, 5)])
def test_a_rate_needs_the_images_that_its_bound_needs(limit: float, needed: int) -> None:
    threshold = parse_threshold(f"ums_high <= {limit}")
    check_can_be_shown(threshold, num_images=needed)
    with pytest.raises(OptionError, match=f"--memscan-budget {needed}img"):
        check_can_be_shown(threshold, num_images=needed - 1)


@given(num_images=st.integers(1, 10**7))
def test_the_smallest_limit_named_in_the_refusal_can_be_shown(num_images: int) -> None:
    with pytest.raises(OptionError) as error:
        check_can_be_shown(parse_threshold("leak_rate <= 1e-9"), num_images=num_images)
    found = re.search(r"raise the limit to ([\d.e-]+)$", str(error.value))
    assert found is not None
    check_can_be_shown(parse_threshold(f"leak_rate <= {found[1]}"), num_images=num_images)


@given(num_images=st.integers(1, 10**4))
def test_steering_may_show_what_so_few_images_could_not(num_images: int) -> None:
    check_can_be_shown(parse_threshold("steered_leak_rate <= 1e-8"), num_images=num_images)


def test_a_count_can_be_shown_with_any_number_of_images() -> None:
    check_can_be_shown(parse_threshold("extracted <= 0"), num_images=1)


@given(limit=st.integers(0, 10**9))
def test_an_expression_says_its_limit_in_full(limit: int) -> None:
    assert parse_threshold(f"extracted <= {limit}").expression == f"extracted <= {limit}"


def lines(*texts: str) -> list[Threshold]:
    return [parse_threshold(text, source="--memscan-fail") for text in texts]


def test_a_subject_nobody_wrote_about_keeps_its_default_lines() -> None:
    """A gate that limits nothing but duplicates would pass a checkpoint that leaks everything."""
    given = lines("duplicate_groups <= 0", "verbatim_prompts <= 2")
    policy = whole_policy(given, {"duplicates", "images", "prompts"})
    assert [(line.expression, line.is_default) for line in policy] == [
        ("duplicate_groups <= 0", False),
        ("verbatim_prompts <= 2", False),
        ("extracted <= 0", True),
        ("leak_rate <= 0.01", True),
    ]


@given(
    texts=st.lists(st.sampled_from([f"{metric} <= 1" for metric in COUNTS]), max_size=4),
    subjects=st.sets(st.sampled_from(sorted(DEFAULT_POLICY))),
)
def test_whatever_is_measured_is_limited_and_nothing_written_is_lost(
    texts: list[str], subjects: set[Subject]
) -> None:
    given = lines(*texts)
    policy = whole_policy(given, subjects)
    assert list(policy[: len(given)]) == given
    limited = {line.subject for line in policy}
    assert limited >= subjects - {"duplicates"}
    for line in policy[len(given) :]:
        assert line.is_default
        assert line.subject in subjects
        assert line.subject not in {each.subject for each in given}
