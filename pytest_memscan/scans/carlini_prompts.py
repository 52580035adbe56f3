"""Carlini et al. 2023, section 4.2: extraction from text-to-image models, decided sequentially.

    generate images of a prompt
    join two of them by an edge where their tiled L2 is below a threshold
    a prompt is memorised when there is a clique of ten

The fixed protocol makes 500 images of every prompt. Here a prompt is left as soon as its clique
is there, or as soon as a memorised prompt would have shown more (`sequential`). Ours, too: the edge
threshold comes from prompts that cannot be memorised, and where only part of an image comes again
(a *template*), the tiles that vary least over seeds show it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.cliques import largest_clique, mean_distance, medoid
from pytest_memscan.prompt_statistics import prediction_limit
from pytest_memscan.scans.prompt_images import PromptImages, TextImages
from pytest_memscan.sequential import Decision, StoppingRule
from pytest_memscan.similarity.tiles import masked_variance, tiled_l2, variance

SAME_PICTURE = 0.15  # l2 at which Carlini et al. (section 4.1) call two images the same
NEAR_IDENTICAL = 0.1  # of the distance between images of different prompts
TEMPLATE_ALARM = 0.05  # chance of one or more false template among all sampled prompts
SMALLEST_DISTANCE = 1e-4  # of equal images, whose logarithm does not exist


@dataclass(frozen=True, kw_only=True)
class SampledPrompt:
    """One prompt and what its images say.

    Attributes:
        text_id: Of the prompt.
        decision: What the rule said last; CONTINUE when the budget or a template ended sampling.
        is_template: Whether part of the first images is fixed.
        num_images: Valid ones.
        clique: Sample ids of the largest clique, ascending, at most the size that flags.
        clique_distance: Mean tiled L2 within it; None for a single image.
        representative: Sample id of its medoid; the first image where nothing repeats.
        first: The first valid images, `num_first` at most, which variances are measured on; None
            without any.
    """

    text_id: int
    decision: Decision
    is_template: bool
    num_images: int
    clique: tuple[int, ...]
    clique_distance: float | None
    representative: int | None
    first: TextImages | None

    @property
    def is_settled(self) -> bool:
        """Whether sampling came to an end."""
        return self.is_template or self.decision is not Decision.CONTINUE

    @property
    def kind(self) -> str:
        """How the prompt is memorised: "verbatim", "template", or "" when it is not."""
        if self.decision is Decision.FLAG:
            return "verbatim"
        return "template" if self.is_template else ""


def num_first(rule: StoppingRule) -> int:
    """Images of every text that variances are measured on: whole batches, enough for a clique."""
    return min(rule.batch * math.ceil(rule.clique_size / rule.batch), rule.max_images)


def edge_threshold(negatives: Sequence[NDArray[np.uint8]]) -> float:
    """Tiled L2 below which two generations of one prompt are near-identical.

    A tenth of the distance between images of different negatives, at the median, and at most
    ``SAME_PICTURE``. The tail of the distances within negatives would be of no use: parts of
    memorised prompts can bring up the memorised image.

    Args:
        negatives: ``(num_images, height, width, channels)`` uint8 of each.

    Raises:
        ValueError: Most of these images are equal.
    """
    apart = tiled_l2(np.stack([images[0] for images in negatives]))
    typical = float(np.median(apart[np.triu_indices(len(negatives), 1)]))
    if typical < SMALLEST_DISTANCE:
        raise ValueError("the images of different prompts are equal")
    return min(SAME_PICTURE, NEAR_IDENTICAL * typical)


def template_threshold(negatives: Sequence[NDArray[np.uint8]], num_prompts: int) -> float:
    """Share of the variance that the least varying tiles of a prompt's images have.

    Below it they vary less than the rest of the image would lead to expect of any prompt.

    Args:
        negatives: As for `edge_threshold`.
        num_prompts: Prompts it will be asked of; a false alarm among any of them has probability
            ``TEMPLATE_ALARM`` at most, were they like the negatives (Bonferroni).
    """
    shares = np.array([fixed_share(images) for images in negatives])
    return float(prediction_limit(shares, TEMPLATE_ALARM / max(1, num_prompts), tail="lower"))


def fixed_share(images: NDArray[np.uint8]) -> float:
    """Variance of the least varying quarter of the tiles, as a share of the whole image's.

    In (0, 1]; 1 for images that are all equal, of which no part is more fixed than the others.
    """
    whole = variance(images)
    return min(max(masked_variance(images), SMALLEST_DISTANCE**2) / whole, 1.0) if whole else 1.0


def is_template(images: NDArray[np.uint8], *, edge: float, threshold: float) -> bool:
    """Whether part of a prompt's images is near-identical while the rest varies.

    Two images differ in that part by ``sqrt(2 * variance)`` on average, which has to be below the
    distance of near-identical images; and it has to be less of the whole than chance explains.
    """
    near = math.sqrt(2 * masked_variance(images)) <= edge
    return near and fixed_share(images) < threshold


def sample_prompt(
    images: PromptImages, text_id: int, *, rule: StoppingRule, edge: float, template: float
) -> SampledPrompt:
    """Make images of a prompt until the rule or the budget ends it.

    A prompt whose first images (`num_first`) show a fixed part is memorised, and left too. Invalid
    images are not looked at: with many of them the images of the protocol end before the rule does.

    Cost: every new image is compared with all before it, so ``n**2 / 2`` comparisons for ``n``
    images, and a clique search at every look. Memory: the images of this prompt.
    """
    seen: TextImages | None = None
    distances = np.zeros((0, 0))
    clique: tuple[int, ...] = ()
    decision, fixed, first = Decision.CONTINUE, None, num_first(rule)
    for start in range(0, rule.max_images, rule.batch):
        count = min(rule.batch, rule.max_images - start)
        if not images.can_afford(count):
            break
        new = images.take(text_id, start, count)
        seen, distances = _extended(seen, distances, new)
        clique = largest_clique(distances <= edge, enough=rule.clique_size).members
        decision = rule.decide(len(seen), len(clique))
        if fixed is None and len(seen) >= first and decision is not Decision.FLAG:
            fixed = is_template(seen.first(first).pixels, edge=edge, threshold=template)
        if fixed or decision is not Decision.CONTINUE:
            break
    seen = None if seen is None or not len(seen) else seen
    return _sampled(text_id, decision, bool(fixed), seen, distances, clique, first=first)


def _extended(
    seen: TextImages | None, distances: NDArray[np.float64], new: TextImages
) -> tuple[TextImages, NDArray[np.float64]]:
    """All images so far, and the tiled L2 between any two of them."""
    if seen is not None and not len(new):
        return seen, distances
    among = tiled_l2(new.pixels) if len(new) else np.zeros((0, 0))
    if seen is None or not len(seen):
        return new, among
    across = tiled_l2(new.pixels, seen.pixels)
    return seen.and_then(new), np.block([[distances, across.T], [across, among]])


def _sampled(
    text_id: int,
    decision: Decision,
    fixed: bool,
    seen: TextImages | None,
    distances: NDArray[np.float64],
    clique: tuple[int, ...],
    *,
    first: int,
) -> SampledPrompt:
    repeats = len(clique) > 1
    ids = np.zeros(0, np.int64) if seen is None else seen.sample_ids
    return SampledPrompt(
        text_id=text_id,
        decision=decision,
        is_template=fixed,
        clique=tuple(ids[list(clique)].tolist()),
        clique_distance=mean_distance(distances, clique) if repeats else None,
        representative=int(ids[medoid(distances, clique) if repeats else 0]) if len(ids) else None,
        num_images=len(ids),
        first=None if seen is None else seen.first(first),
    )
