"""What a scan of a fine-tune works with, how many images it makes, and when it stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.results import ConceptScan, Coverage, Fit, PromptCoverage
from pytest_memscan.sampler import Sampler
from pytest_memscan.similarity.described import DescriptorReference

IMAGES_PER_TRAIN_IMAGE = 50  # as the authors: 500 for 10
DEFAULT_TRAIN_IMAGES = 10  # what an attacker assumes who knows none
MOST_IMAGES = 2_000  # of each method, unless a budget says more
RATE = 0.02  # an image that is made this often must be found
ALPHA = 0.05  # share of scans in which it is not
NUM_LOOKS = 5
Vectors = NDArray[np.float32]
Report = Callable[[str, int], None]  # what is being made, and images made in all


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way of generating.

    Attributes:
        name: "direct", "cfg", "finextract" or "base".
        settings: For people.
        sampler: Makes and keeps its images.
        calls_per_image: Single-sample forwards, of either denoiser.
        scale: Of model guidance; None where there is none.
    """

    name: str
    settings: str
    sampler: Sampler
    calls_per_image: int
    scale: float | None = None


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When model guidance stops.

    Attributes:
        planned: Images, if it does not stop before.
        limit: Copied training images that the policy allows; None to make all that are planned.
        batch: Images that are made together; it never stops within a batch.
        rate: An image that is made at least this often must be found before "none" is believed.
    """

    planned: int
    limit: int | None
    batch: int = 1
    rate: float = RATE

    def looks(self) -> list[int]:
        """Numbers of images after which it may stop, the last one being all of them."""
        if self.limit is None:
            return [self.planned]
        sizes = (self.planned * look / NUM_LOOKS for look in range(1, NUM_LOOKS + 1))
        whole = {math.ceil(size / self.batch) * self.batch for size in sizes}
        return sorted({min(size, self.planned) for size in whole})

    def why(self, num_images: int, num_copied: int, num_train: int) -> str:
        """Why enough is known after so many images, or ""."""
        if self.limit is None or num_images >= self.planned:
            return ""
        if num_copied > self.limit:
            return (
                f"{num_copied} training images are copied already, more than the limit of "
                f"{self.limit}"
            )
        if not num_copied and shown_rate(num_images, num_train) <= self.rate:
            return (
                f"none is copied, and one that comes up in {100 * self.rate:g} % of the images "
                "would have been seen"
            )
        return ""


def shown_rate(num_images: int, num_train: int) -> float:
    """Rate at which each of some training images would have come up at least once.

    All of them together with 95 % (Bonferroni): ``(1 - rate) ** num_images = 0.05 / num_train``.

    Example:
        >>> round(shown_rate(500, 10), 4)
        0.0105
    """
    if num_images < 1:
        return 1.0
    return 1.0 - float((ALPHA / max(1, num_train)) ** (1.0 / num_images))


def images_to_show(rate: float, num_train: int) -> int:
    """Images after which `shown_rate` is at most ``rate``.

    Example:
        >>> images_to_show(0.02, 10)
        263
    """
    return math.ceil(math.log(ALPHA / max(1, num_train)) / math.log1p(-rate))


@dataclass(frozen=True, kw_only=True)
class Target:
    """One fine-tune, and everything it is scanned with.

    Attributes:
        name: As people name it.
        fit: How it belongs to its base.
        captions: Which captions are used, where they come from, and why they may be the wrong
            ones, for people.
        guided: Model guidance, with one setting or several.
        baselines: Direct, and with classifier-free guidance where that is possible.
        base: The base alone, with the same captions.
        order: Rows of the plan in the order in which they are made, so that any number of images
            has every caption equally often.
        describe: ``(num_images, height, width, channels)`` uint8 -> unit vectors.
        reference: Training images; None where there are none to compare with.
        high_level: Similarity of the descriptor's high level, where it has one.
        holdout: Images of the same kind that were not trained on.
        source: What is known of the training images.
        stopping: When enough is known.
        rule: How the extracted set is chosen.
        prompts: What became of a list of captions.
        report: Told what is being made.
    """

    name: str
    fit: Fit
    captions: tuple[str, str, str]
    guided: tuple[Method, ...]
    baselines: tuple[Method, ...]
    base: Method
    order: Sequence[int]
    describe: Callable[[NDArray[np.uint8]], Vectors]
    reference: DescriptorReference | None
    high_level: float | None
    holdout: NDArray[np.uint8] | None
    source: Coverage | None
    stopping: Stopping
    rule: str = "plateau"
    prompts: PromptCoverage | None = None
    report: Report = field(default=lambda *_: None)


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """One fine-tune's result, and what a comparison of several needs besides.

    ``best`` is by method and setting the best match of each training image in the extracted set;
    ``sampler`` has the images that `concept` shows.
    """

    concept: ConceptScan
    sampler: Sampler
    best: dict[tuple[str, int], NDArray[np.float64]]
