"""Words and numbers as a person reads them, and text that cannot do harm."""

from __future__ import annotations

import pytest

from pytest_memscan.reports import text


@pytest.mark.parametrize(
    ("harmful", "harmless"),
    [
        ("a\nb", r"a\nb"),
        ("a\r::error::b", r"a\r::error::b"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("model\u202egnp.exe", r"model\u202egnp.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("line\u2028separator", r"line\u2028separator"),
        ("lone \udc80 surrogate", r"lone \udc80 surrogate"),
        ("::error file=x::boo", r"\::error file=x::boo"),
        ("  ::error::boo", r"  \::error::boo"),
        ("a ::error::boo", r"a \::error::boo"),
        ("##[error]boo", r"#\#[error]boo"),
        ("a ##vso[task.setvariable]", r"a #\#vso[task.setvariable]"),
        ("memscan::carlini", "memscan::carlini"),
        ("café/模型", "café/模型"),
    ],
)
def test_what_could_steer_a_terminal_or_a_ci_log_is_made_visible(
    harmful: str, harmless: str
) -> None:
    assert text.escape(harmful) == harmless


def test_a_long_name_keeps_both_ends_and_fits_the_limit() -> None:
    shortened = text.escape("acme/" + "x" * 500 + "@3f9c2a1", limit=40)
    assert len(shortened) == 40
    assert shortened.startswith("acme/")
    assert shortened.endswith("x@3f9c2a1")
    assert "..." in shortened


def test_a_text_at_the_limit_is_left_alone() -> None:
    assert text.escape("x" * 120) == "x" * 120


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (0.0, "0 %"),
        (1e-12, "< 0.0001 %"),
        (0.0000123, "0.0012 %"),
        (0.000931, "0.093 %"),
        (0.00931, "0.93 %"),
        (0.0312, "3.12 %"),
        (0.447, "44.7 %"),
        (0.99949, "99.9 %"),
        (0.9996, "> 99.9 %"),
        (1.0, "100 %"),
        (1.25, "125.0 %"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(share: float, words: str) -> None:
    assert text.percent(share) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01, "< 0.1 s"), (1.31, "1.3 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_a_duration_is_in_the_unit_a_person_would_choose(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words
