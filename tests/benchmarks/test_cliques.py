"""Cliques are as large as networkx's; the pace is recorded as a ratio, never asserted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from benchmarks.test_matching import figures_of


def test_first_cliques_are_as_large_as_those_of_networkx(
    record_property: Callable[[str, object], None],
) -> None:
    pytest.importorskip("networkx")
    figures = figures_of("cliques", "120", "--cap=1")["120 images"]
    extracted = figures.pop("extract")
    for density, each in figures.items():
        record_property(f"networkx / memscan at density {density}", each["networkx / memscan"])
        assert each["first clique"] >= (each["first clique of networkx"] or 0)
    assert figures["0.02"]["first clique of networkx"] is not None
    assert extracted["plateau"]["supported"] >= 1
