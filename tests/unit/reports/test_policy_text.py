"""What a run would be held against, as it is printed before one."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.reports.policy_text import PolicyLine, policy_lines
from pytest_memscan.results import Location, Waiver

TODAY = datetime.date(2026, 11, 23)
POLICY = {
    "fail": ("extracted <= 0", "memscan.toml"),
    "train_data": ("images", "memscan.toml"),
    "seed": ("7", "--memscan-seed"),
    "report": ("json:.memscan/report.json; html:.memscan/report.html", "default"),
}
LINES = [
    PolicyLine(
        expression="extracted <= 0",
        source="memscan.toml",
        location=Location(file="memscan.toml", line=3, column=9, end_column=23),
    ),
    PolicyLine(expression="leak_rate <= 0.01", source="default"),
]


def waiver(expires: str, *, reason: str = "Public domain", name: str = "train#00013") -> Waiver:
    return Waiver(
        id=f"{name}@1f2e3d4c",
        reason=reason,
        expires=expires,
        state="unused",
        source="memscan.toml",
    )


def printed(
    *,
    policy: dict[str, tuple[str, str]] | None = None,
    lines: list[PolicyLine] | None = None,
    waivers: tuple[Waiver, ...] = (),
    not_scanned: dict[str, str] | None = None,
    width: int = 80,
) -> list[str]:
    return policy_lines(
        POLICY if policy is None else policy,
        LINES if lines is None else lines,
        waivers,
        ("integrity", "carlini", "status"),
        not_scanned or {},
        today=TODAY,
        width=width,
    )


def test_settings_lines_and_checks_with_where_they_come_from() -> None:
    side = "it learns from thousands of its own images; --memscan-scans side asks for it"
    shown = printed(not_scanned={"side": side, "finextract": "no base is known"}, width=72)
    assert shown == [
        "settings",
        "  train-data  images                      memscan.toml",
        "  seed        7                           --memscan-seed",
        "  report      json:.memscan/report.json;  default",
        "              html:.memscan/report.html",
        "",
        "policy",
        "  extracted <= 0     memscan.toml:3",
        "  leak_rate <= 0.01  default",
        "",
        "checks",
        "  integrity, carlini, status",
        "",
        "not in this run",
        "  side        it learns from thousands of its own images;",
        "              --memscan-scans side asks for it",
        "  finextract  no base is known",
    ]


@pytest.mark.parametrize(
    ("expires", "expected"),
    [
        ("2027-01-31", "expires in 69 days, 2027-01-31 (memscan.toml)"),
        ("2026-11-24", "expires in 1 day, 2026-11-24"),
        ("2026-11-23", "expires after today, 2026-11-23"),
        ("2026-11-22", "EXPIRED 1 day ago, 2026-11-22"),
        ("2025-11-23", "EXPIRED 365 days ago"),
    ],
)
def test_waivers_with_the_days_they_have_left(expires: str, expected: str) -> None:
    head, first, second = printed(waivers=(waiver(expires),))[-3:]
    assert head == "waivers"
    assert first.startswith(f"  train#00013@1f2e3d4c  {expected}")
    assert second == "    Public domain"


def test_nothing_is_left_out_where_there_is_nothing() -> None:
    shown = printed(policy={}, lines=[])
    assert shown[:4] == ["settings", "", "policy", "  no limit on anything"]


@given(text=st.text(max_size=60), width=st.integers(0, 120))
def test_foreign_text_is_plain_ascii_on_lines_of_its_own(text: str, width: int) -> None:
    shown = printed(
        policy={"train_data": (text, text)},
        lines=[PolicyLine(expression="extracted <= 0", source=text)],
        waivers=(waiver("2027-01-31", reason=text),),
        not_scanned={"side": text},
        width=width,
    )
    for line in shown:
        assert line.isascii()
        assert line.isprintable()
        assert not line.lstrip().startswith("::")


def test_a_line_is_as_wide_as_the_terminal() -> None:
    reason = "a reason that somebody wrote, with all that a lawyer said about it " * 3
    for width in (60, 80, 132):
        shown = printed(waivers=(waiver("2027-01-31", reason=reason),), width=width)
        assert max(map(len, shown)) <= width
