"""A sweep over scales of model guidance is drawn; a single scale is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.reports import finetune_samples
from unit.reports.finetune_scans import CFG, DIRECT, FINEXTRACT, mean

from pytest_memscan.reports.charts import BOTTOM, LEFT, RIGHT
from pytest_memscan.reports.finetune_charts import sweep_charts
from pytest_memscan.reports.html import to_html
from pytest_memscan.results import ConceptScan, MethodScores, RunResult


def concept(*methods: MethodScores) -> ConceptScan:
    (scan,) = (each.finetunes for each in finetune_samples.leaky().checks if each.finetunes)
    (only,) = scan.concepts
    return replace(only, methods=(DIRECT, CFG, *methods))


def at(scale: float, value: float) -> MethodScores:
    return replace(FINEXTRACT, scale=scale, average_similarity=mean(value))


@pytest.mark.parametrize("scales", [(), (3.0,), (3.0, 3.0)])
def test_a_single_scale_is_no_sweep(scales: tuple[float, ...]) -> None:
    assert sweep_charts(concept(*(at(scale, 0.5) for scale in scales))) == ()


def test_the_line_goes_through_every_scale_in_order() -> None:
    similarity, rate = sweep_charts(concept(at(5, 0.5), at(1.5, 0.25), at(3, 0.4)))
    assert similarity.solid is not None
    points = [tuple(map(float, pair.split(","))) for pair in str(similarity.solid).split()]
    heights = [BOTTOM - y for _, y in points]
    assert [round((x - LEFT) / (RIGHT - LEFT) * 5, 2) for x, _ in points] == [1.5, 3, 5]
    assert [each / heights[-1] for each in heights] == pytest.approx([0.5, 0.8, 1], abs=0.01)
    told = similarity.description
    assert told.index("at scale 1.5") < told.index("at scale 3") < told.index("at scale 5")
    assert "Direct sampling: 0.317" in told
    assert rate.title == "A-ESR at 0.7 over the scale of model guidance"


def test_the_page_draws_it() -> None:
    result = finetune_samples.leaky()
    swept = concept(at(3, 0.4), at(5, 0.5))

    def page(run: RunResult) -> str:
        return to_html(run, (), images="none")

    checks = tuple(
        check
        if check.finetunes is None
        else replace(check, finetunes=replace(check.finetunes, concepts=(swept,)))
        for check in result.checks
    )
    title = "AS over the scale of model guidance"
    assert title in page(replace(result, checks=checks))
    assert title not in page(result)
