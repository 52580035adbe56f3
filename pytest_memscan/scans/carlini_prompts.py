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
EDGE_ALARM = 0.01  # chance that ten images of a prompt not memorised have any edge
TEMPLATE_ALARM = 0.05  # chance of one or more false template among all sampled prompts
SMALLEST_DISTANCE = 1e-4  # of equal images, whose logarithm does not exist


@dataclass(frozen=True, kw_only=True)
class SampledPrompt:
    """One prompt and what its images say.

    Attributes:
        text_id: Of the prompt.
        decision: How sampling ended; CONTINUE when the budget did.
        num_images: Valid ones.
        clique: Sample ids of the largest clique, ascending, at most the size that flags.
        clique_distance: Mean tiled L2 within it; None for a single image.
        representative: Sample id of its medoid; the first image where nothing repeats.
        first: The first images, which variances are measured on; None without any.
    """

    text_id: int
    decision: Decision
    num_images: int
    clique: tuple[int, ...]
    clique_distance: float | None
    representative: int | None
    first: TextImages | None

    @property
    def is_settled(self) -> bool:
        """Whether sampling came to an end."""
        return self.decision is not Decision.CONTINUE


def edge_threshold(negatives: Sequence[NDArray[np.uint8]]) -> float:
    """Tiled L2 below which two generations of one prompt are near-identical.

    Of each negative, the closest two of its images; the threshold is where a further prompt like
    these would have its closest two with probability ``EDGE_ALARM``, and at most ``SAME_PICTURE``.

    Args:
        negatives: ``(num_images, height, width, channels)`` uint8 of each, of equal numbers.
    """
    closest = [
        max(SMALLEST_DISTANCE, float(tiled_l2(images)[np.triu_indices(len(images), 1)].min()))
        for images in negatives
    ]
    limit = prediction_limit(np.array(closest), EDGE_ALARM, tail="lower")
    return min(SAME_PICTURE, float(limit))


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
    return max(masked_variance(images), SMALLEST_DISTANCE**2) / whole if whole else 1.0


def is_template(images: NDArray[np.uint8], *, edge: float, threshold: float) -> bool:
    """Whether part of a prompt's images is near-identical while the rest varies.

    Two images differ in that part by ``sqrt(2 * variance)`` on average, which has to be below the
    distance of near-identical images; and it has to be less of the whole than chance explains.
    """
    near = math.sqrt(2 * masked_variance(images)) <= edge
    return near and fixed_share(images) < threshold


def sample_prompt(
    images: PromptImages, text_id: int, *, rule: StoppingRule, edge: float
) -> SampledPrompt:
    """Make images of a prompt until the rule or the budget ends it.

    Cost: every new image is compared with all before it, so ``n**2 / 2`` comparisons for ``n``
    images, and a clique search at every look. Memory: the images of this prompt.
    """
    seen: TextImages | None = None
    distances = np.zeros((0, 0))
    clique: tuple[int, ...] = ()
    decision = Decision.CONTINUE
    for start in range(0, rule.max_images, rule.batch):
        count = min(rule.batch, rule.max_images - start)
        if not images.can_afford(count):
            break
        new = images.take(text_id, start, count)
        seen, distances = _extended(seen, distances, new)
        clique = largest_clique(distances <= edge, enough=rule.clique_size).members
        decision = rule.decide(len(seen), len(clique))
        if decision is not Decision.CONTINUE:
            break
    return _sampled(text_id, decision, seen, distances, clique, num_first=rule.batch)


def _extended(
    seen: TextImages | None, distances: NDArray[np.float64], new: TextImages
) -> tuple[TextImages, NDArray[np.float64]]:
    """All images so far, and the tiled L2 between any two of them."""
    among = tiled_l2(new.pixels)
    if seen is None:
        return new, among
    across = tiled_l2(new.pixels, seen.pixels)
    return seen.and_then(new), np.block([[distances, across.T], [across, among]])


def _sampled(
    text_id: int,
    decision: Decision,
    seen: TextImages | None,
    distances: NDArray[np.float64],
    clique: tuple[int, ...],
    *,
    num_first: int,
) -> SampledPrompt:
    repeats = len(clique) > 1
    ids = np.zeros(0, np.int64) if seen is None else seen.sample_ids
    return SampledPrompt(
        text_id=text_id,
        decision=decision,
        clique=tuple(ids[list(clique)].tolist()),
        clique_distance=mean_distance(distances, clique) if repeats else None,
        representative=int(ids[medoid(distances, clique) if repeats else 0]) if len(ids) else None,
        num_images=len(ids),
        first=None if seen is None else seen.first(num_first),
    )
