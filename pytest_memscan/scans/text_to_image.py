"""Every scan of a text-to-image checkpoint, on one set of images.

    score prompts and negatives with the detectors
    calibrate all thresholds on the images of the negatives
    sample planted strings, prompts in the order of suspicion while they are memorised, and some
        of the others at random, each to its end
    judge by cliques and fixed parts (`carlini_prompts`) and by variance (`extended_side`)

Cost: a fixed number of images for the negatives, a few denoiser calls for each prompt, and images
only for the prompts that are sampled. Memory: the first images of all sampled prompts, and all
images of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.detectors.run import Scores
from pytest_memscan.errors import PromptError
from pytest_memscan.results import PromptCoverage
from pytest_memscan.scans.carlini_prompts import (
    SampledPrompt,
    edge_threshold,
    num_first,
    sample_prompt,
    template_threshold,
)
from pytest_memscan.scans.prompt_detectors import (
    PATIENCE,
    Suspects,
    choose_audit,
    find_suspects,
)
from pytest_memscan.scans.prompt_images import PromptImages, TextImages, Texts
from pytest_memscan.sequential import StoppingRule

MIN_NEGATIVES = 16  # fewer say too little about the tail
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PromptPlan:
    """What is asked of a scan.

    Attributes:
        texts: Prompts, planted strings and negatives.
        prompts: What became of the list of prompts.
        canaries: The same of the planted strings, where given.
        planned: Ids of the prompts that the budget reaches, ascending.
        limit: Share of memorised prompts that the audit has to be able to exclude.
        rule: When sampling a prompt stops.
        calls_per_image: Single-sample denoiser forwards.
        places: Where each prompt and then each planted string was found: "line 7". No names of
            files, which are private.
        seed: Of the audit's choice.
    """

    texts: Texts
    prompts: PromptCoverage
    canaries: PromptCoverage | None = None
    planned: Sequence[int]
    limit: float
    rule: StoppingRule
    calls_per_image: int
    places: Sequence[str] = ()
    seed: int = 0

    @property
    def num_first(self) -> int:
        """Images of each negative, and of every sampled text those that variances are taken of."""
        return num_first(self.rule)

    def place_of(self, text_id: int) -> str:
        """Where a prompt or planted string was found."""
        return self.places[text_id] if text_id < len(self.places) else ""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a scan works with.

    Attributes:
        images: Images by text, made as they are needed.
        score: Ids of texts -> their detector scores.
        variances: ``(num_images, height, width, channels)`` of one text -> variance by space.
        nearest: One image -> nearest training image and their normalised L2; None without any.
        progress: Told what is being done, how many are done, and of how many.
    """

    images: PromptImages
    score: Callable[[Sequence[int]], Scores]
    variances: Callable[[Pixels], dict[str, float]]
    nearest: Callable[[Pixels], tuple[int, float]] | None = None
    progress: Callable[[str, int, int], None] = field(default=lambda *_: None)


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """The first images of prompts that cannot be in the training set, by form."""

    recombined: Mapping[int, TextImages]
    strings: Mapping[int, TextImages]

    @cached_property
    def everything(self) -> list[Pixels]:
        """Images of all of them."""
        both = (*self.recombined.values(), *self.strings.values())
        return [each.pixels for each in both]

    @cached_property
    def images(self) -> list[Pixels]:
        """Of recombined prompts, which are most like prompts; of all where these are too few."""
        chosen = list(self.recombined.values())
        if len(chosen) < MIN_NEGATIVES:
            chosen += self.strings.values()
        return [each.pixels for each in chosen]


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """One scan; everything is done when first asked for, and once."""

    plan: PromptPlan
    tools: Tools
    _routes: dict[int, str] = field(default_factory=dict)

    @cached_property
    def negatives(self) -> Negatives:
        """Their first images.

        Raises:
            PromptError: Too few of them are valid to calibrate on.
        """
        texts = self.plan.texts
        ids = [*texts.recombined_ids, *texts.string_ids]
        first: dict[int, TextImages] = {}
        for done, text_id in enumerate(ids):
            self.tools.progress("negatives sampled", done, len(ids))
            images = self.tools.images.take(text_id, 0, self.plan.num_first)
            if len(images) == self.plan.num_first:
                first[text_id] = images
        if len(first) < MIN_NEGATIVES:
            raise PromptError(
                f"{len(first)} of {len(ids)} negatives give valid images, too few to calibrate on; "
                "the checkpoint makes no pictures with this sampler and dtype, so there is nothing "
                "to judge"
            )
        return Negatives(
            recombined={each: first[each] for each in texts.recombined_ids if each in first},
            strings={each: first[each] for each in texts.string_ids if each in first},
        )

    @cached_property
    def scores(self) -> Scores:
        """Detector scores of the planned prompts."""
        return self.tools.score(self.plan.planned)

    @cached_property
    def negative_scores(self) -> Scores:
        """Detector scores of the negatives that thresholds come from."""
        texts = self.plan.texts
        ids: list[int] = list(texts.recombined_ids)
        return self.tools.score(ids if len(ids) >= MIN_NEGATIVES else [*ids, *texts.string_ids])

    @cached_property
    def suspects(self) -> Suspects:
        """Which prompts are suspicious, and in which order."""
        with calibrating():
            return find_suspects(self.scores, self.negative_scores)

    @cached_property
    def edge(self) -> float:
        """Tiled L2 of near-identical images."""
        with calibrating():
            return edge_threshold(self.negatives.everything)

    @cached_property
    def template(self) -> float:
        """Share of the variance in the fixed part of a template's images."""
        with calibrating():
            return template_threshold(self.negatives.images, len(self.plan.planned))

    @cached_property
    def sampled(self) -> dict[int, SampledPrompt]:
        """Every text that was sampled, as far as the rule and the budget say."""
        return {each.text_id: each for each in self._sampled()}

    @cached_property
    def routes(self) -> dict[int, str]:
        """Why each text was sampled."""
        return {text_id: self._routes[text_id] for text_id in self.sampled}

    def _sampled(self) -> Iterator[SampledPrompt]:
        for text_id in self.plan.texts.canary_ids:
            yield self._sample(text_id, "canary")
        order = [self.plan.planned[place] for place in self.suspects.order]
        num_clean = 0  # in a row
        for number, text_id in enumerate(order):
            if number >= self.suspects.num_suspicious and num_clean >= PATIENCE:
                break
            sampled = self._sample(text_id, "escalated")
            num_clean = 0 if sampled.kind else num_clean + 1
            yield sampled
        rest = [text_id for text_id in order if text_id not in self._routes]
        for text_id in choose_audit(
            rest, num_prompts=len(order), limit=self.plan.limit, seed=self.plan.seed
        ):
            yield self._sample(text_id, "audit")

    def _sample(self, text_id: int, route: str) -> SampledPrompt:
        self._routes[text_id] = route
        most = len(self.plan.planned) + len(self.plan.texts.canaries)
        self.tools.progress("prompts sampled", len(self._routes) - 1, most)
        return sample_prompt(
            self.tools.images,
            text_id,
            rule=self.plan.rule,
            edge=self.edge,
            template=self.template,
        )


@contextmanager
def calibrating() -> Iterator[None]:
    """Negatives that say nothing are the checkpoint's fault, and said as such."""
    try:
        yield
    except ValueError as error:
        raise PromptError(
            f"no threshold can be calibrated on the checkpoint's own negatives: {error}. A "
            "checkpoint that answers every prompt alike cannot be judged by its prompts"
        ) from None
