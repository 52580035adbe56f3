"""A report of more findings grows by them and by nothing else; the pace is recorded as a ratio."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from benchmarks.rendering import FEWER, growth

from pytest_memscan.reports.render import FORMATS

SHORT = ("md", "model-card")  # whatever the number of findings


@pytest.mark.parametrize("kind", FORMATS)
def test_a_report_grows_with_its_findings_at_most(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    seconds, size = growth(kind, 3)
    record_property(f"{kind}: 500 findings / 125, time", round(seconds, 2))
    assert size < (1.1 if kind in SHORT else FEWER)
