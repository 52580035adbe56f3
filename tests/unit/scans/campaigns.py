"""Whole scans of a world in which the truth about every text is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from unit.scans.worlds import Painter, World

from pytest_memscan.detectors.run import Scores
from pytest_memscan.results import PromptCoverage
from pytest_memscan.scans.prompt_findings import Judged
from pytest_memscan.scans.prompt_images import PromptImages, Texts
from pytest_memscan.scans.text_to_image import Campaign, PromptPlan, Tools
from pytest_memscan.sequential import StoppingRule
from pytest_memscan.similarity.tiles import variance

RULE = StoppingRule(clique_size=3, max_images=24, batch=4, copy_rate=0.4, miss_probability=0.05)
CALLS_PER_IMAGE = 6
CALLS_PER_SCORE = 8
NUM_NEGATIVES = 16  # of each form

VERBATIM, TEMPLATES = (2, 9, 17), (4, 25)
MEMORISED = {*VERBATIM, *TEMPLATES}
WORLD = World(rates=dict.fromkeys(VERBATIM, 0.9), templates=TEMPLATES)
Pixels = NDArray[np.uint8]


def texts_of(
    num_prompts: int,
    num_canaries: int = 0,
    *,
    num_words: int = 0,
    num_strings: int = NUM_NEGATIVES,
) -> Texts:
    """Prompts of two words, but for the first ``num_words``; canaries and strings of one."""
    prompts = [f"w{each}" if each < num_words else f"prompt {each}" for each in range(num_prompts)]
    return Texts(
        prompts=tuple(prompts),
        canaries=tuple(f"key{each}" for each in range(num_canaries)),
        recombined=tuple(f"recombined {each}" for each in range(NUM_NEGATIVES)),
        strings=tuple(f"string{each}" for each in range(num_strings)),
    )


@dataclass(frozen=True, kw_only=True)
class Detectors:
    """Log-normal scores; those of the suspicious ones are a thousandth.

    Attributes:
        suspicious: Text ids.
        seed: Of the scores.
        asked: Ids, call by call.
    """

    suspicious: Sequence[int] = ()
    seed: int = 0
    asked: list[list[int]] = field(default_factory=list)

    def __call__(self, ids: Sequence[int]) -> Scores:
        self.asked.append(list(ids))
        values = {
            name: np.array([self._score(text_id, place) for text_id in ids])
            for place, name in enumerate(("early_spread", "masked_early_spread"))
        }
        return Scores(
            values=values,
            calls_alone=dict.fromkeys(values, CALLS_PER_SCORE),
            calls=CALLS_PER_SCORE * len(ids),
        )

    def _score(self, text_id: int, place: int) -> float:
        rng = np.random.default_rng([self.seed, text_id, place])
        return float(np.exp(rng.normal(0, 0.3))) * (1e-3 if text_id in self.suspicious else 1)


def coverage(texts: Texts, planned: Sequence[int]) -> PromptCoverage:
    number = len(texts.prompts)
    return PromptCoverage(
        origin="given",
        is_probe=False,
        num_found=number,
        num_used=number,
        num_planned=len(planned),
    )


def scan(
    world: World,
    texts: Texts,
    *,
    score: Callable[[Sequence[int]], Scores],
    planned: Sequence[int] | None = None,
    rule: StoppingRule = RULE,
    most: int | None = None,
    limit: float = 0.1,
    seed: int = 0,
    nearest: Callable[[Pixels], tuple[int, float]] | None = None,
    variances: Callable[[Pixels], dict[str, float]] | None = None,
) -> Judged:
    rows = rule.max_images + rule.batch
    painter = Painter(paint=world, rows_per_text=rows, seed=seed)
    images = PromptImages(sampler=painter, rows_per_text=rows, most=most)  # type: ignore[arg-type]
    planned = texts.prompt_ids if planned is None else planned
    plan = PromptPlan(
        texts=texts,
        prompts=coverage(texts, planned),
        planned=planned,
        limit=limit,
        rule=rule,
        calls_per_image=CALLS_PER_IMAGE,
        places=[f"line {each + 1}" for each in range(len(texts.prompts) + len(texts.canaries))],
        seed=seed,
    )
    tools = Tools(
        images=images,
        score=score,
        variances=variances or (lambda pixels: {"pixel": variance(pixels)}),
        nearest=nearest,
    )
    return Judged(campaign=Campaign(plan=plan, tools=tools), provenance={"seed": str(seed)})


def kinds(judged: Judged, *routes: str) -> dict[int, str]:
    """Id -> kind of what was found, by whichever of these routes."""
    return {
        each.prompt_id: each.kind
        for each in judged.findings
        if each.kind and (not routes or each.route in routes)
    }


def routes(judged: Judged) -> Counter[str]:
    return Counter(each.route for each in judged.findings)
