"""Deciding about a prompt with fewer images than the fixed protocol makes of it.

The fixed protocol (Carlini et al. 2023, section 4.2) makes 500 images of a prompt and flags it when
10 of them are near-identical. Looking every few images allows two early ends. *Flag* when the 10
are there: more images cannot take them away, so the answer is the fixed protocol's. *Clean* when
even a prompt that returns one image with a rate of ``copy_rate`` would have shown more by now; this
can be wrong, and how often is computed here exactly.

Model: each image of a prompt is, independently, its dominant image with probability ``rate``, and
the largest clique is what came up of it, at least one. Other repeated images only make cliques
larger, so the rule then calls clean less often than computed, never more. Where two returns of an
image can fail to be near-identical, ``rate`` is the rate of those that do match.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import special


class Decision(str, Enum):
    """What to do with a prompt after a look at its images."""

    FLAG = "flag"  # memorised, as the fixed protocol would have said
    CLEAN = "clean"  # not memorised, wrong with a known probability
    FULL = "full"  # not memorised: all images of the fixed protocol were made
    CONTINUE = "continue"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """When sampling a prompt stops, and how often that is wrong.

    Boundaries come from a family with one parameter, a tail probability: with a largest clique of
    ``m`` a prompt is clean from the first look on at which a dominant image with ``copy_rate``
    would have come up at most ``m`` times with no more than that probability. The largest tail
    probability is taken whose exact chance of calling such a prompt clean, over all looks, is at
    most ``miss_probability``. A higher rate is missed less often still: more returns at every look
    can only move a prompt away from every boundary.

    A prompt is called clean exactly when for some ``m`` at most ``m`` returns came up by
    boundary ``m``. So looks at other counts than multiples of ``batch``, as when images were
    dropped, miss no more often than stated.

    With the defaults (10 of 500, a look every 10 images, ``copy_rate`` 0.1, ``miss_probability``
    0.05) the boundaries are at 60, 80, 90, 110, 120, 130, 150, 160 and 170 images, and:

    ======  ===============  ===========  ============  ============
    rate    expected images  fixed flags  rule flags    disagreement
    ======  ===============  ===========  ============  ============
    0       60               0.000        0.000         0.000
    0.01    63               0.031        0.000         0.031
    0.02    72               0.543        0.002         0.542
    0.03    85               0.933        0.025         0.908
    0.05    113              1.000        0.281         0.718
    0.07    120              1.000        0.676         0.324
    0.1     101              1.000        0.951         0.049
    0.15    71               1.000        0.999         0.001
    0.2     54               1.000        1.000         0.000
    0.3     38               1.000        1.000         0.000
    1       10               1.000        1.000         0.000
    ======  ===============  ===========  ============  ============

    So the fixed protocol finds images with rates down to 0.02 and the default rule those from 0.1
    on; what comes up more rarely than ``copy_rate`` is the price of the images saved.

    Attributes:
        clique_size: Near-identical generations that flag a prompt, at least 2.
        max_images: Of the fixed protocol.
        batch: Images between two looks.
        copy_rate: Rate from which on a dominant image must be found.
        miss_probability: Chance, at most, of calling a prompt with that rate clean.

    Raises:
        ValueError: If a value is out of range, or the fixed protocol itself would miss a prompt
            with ``copy_rate`` more often than ``miss_probability``.

    Example:
        >>> rule = StoppingRule()
        >>> rule.decide(30, 10), rule.decide(30, 1), rule.decide(60, 1)
        (<Decision.FLAG: 'flag'>, <Decision.CONTINUE: 'continue'>, <Decision.CLEAN: 'clean'>)
    """

    clique_size: int = 10
    max_images: int = 500
    batch: int = 10
    copy_rate: float = 0.1
    miss_probability: float = 0.05

    def __post_init__(self) -> None:
        if not 2 <= self.clique_size <= self.max_images:
            raise ValueError(
                f"clique_size must lie in [2, {self.max_images}] (max_images), "
                f"got {self.clique_size}"
            )
        if not 1 <= self.batch <= self.max_images:
            raise ValueError(
                f"batch must lie in [1, {self.max_images}] (max_images), got {self.batch}"
            )
        for name in ("copy_rate", "miss_probability"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must lie strictly between 0 and 1, got {getattr(self, name)}"
                )
        missed = float(special.bdtr(self.clique_size - 1, self.max_images, self.copy_rate))
        if missed > self.miss_probability:
            raise ValueError(
                f"{self.max_images} images show {self.clique_size} copies of an image with rate "
                f"{self.copy_rate} too rarely: {missed:.3f} of such prompts would be missed even "
                f"with all images, more than {self.miss_probability}. Raise copy_rate or "
                "max_images, or lower clique_size"
            )

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """Images from which on a largest clique of 1, 2, ... ``clique_size - 1`` means clean.

        Ascending; ``max_images`` where only the end of the fixed protocol decides.
        """
        tails = np.unique(self._tails)
        low, high = -1, len(tails)  # misses are too many at `high`, and not at `low`
        while high - low > 1:
            middle = (low + high) // 2
            missed = self._outcomes(self.copy_rate, self._reached(tails[middle])).missed
            low, high = (middle, high) if missed <= self.miss_probability else (low, middle)
        return self._reached(tails[low] if low >= 0 else -1.0)

    def decide(self, num_images: int, largest_clique: int) -> Decision:
        """What to do after so many valid images.

        Args:
            num_images: Of this prompt so far.
            largest_clique: Size of the largest group of near-identical ones among them; any
                number from ``clique_size`` up counts as that. 1 or 0 without near-identical ones.

        Raises:
            ValueError: If the clique is larger than the number of images, or either is negative.
        """
        if not 0 <= largest_clique <= num_images:
            raise ValueError(
                f"largest_clique must lie in [0, {num_images}] (num_images), got {largest_clique}"
            )
        if largest_clique >= self.clique_size:
            return Decision.FLAG
        if num_images >= self.max_images:
            return Decision.FULL
        if num_images >= self.boundaries[max(largest_clique, 1) - 1]:
            return Decision.CLEAN
        return Decision.CONTINUE

    def flag_probability_at(self, rate: float) -> float:
        """Chance that a prompt whose dominant image has this rate is flagged; exact."""
        return 1 - self.miss_probability_at(rate)

    def miss_probability_at(self, rate: float) -> float:
        """Chance that it is not: called clean early, or after all images; exact."""
        return self._outcomes(_checked(rate), self.boundaries).missed

    def fixed_flag_probability_at(self, rate: float) -> float:
        """Chance that the fixed protocol, with all images, flags it; exact."""
        return float(special.bdtrc(self.clique_size - 1, self.max_images, _checked(rate)))

    def disagreement(self, rate: float) -> float:
        """Chance that the fixed protocol would have flagged it and the rule calls it clean; exact.

        The other way round cannot happen.
        """
        return self._outcomes(_checked(rate), self.boundaries).disagreed

    def expected_images(self, rate: float) -> float:
        """Mean number of images until the decision; exact."""
        return self._outcomes(_checked(rate), self.boundaries).images

    @cached_property
    def _looks(self) -> tuple[int, ...]:
        looks = range(self.batch, self.max_images, self.batch)
        return (*looks, self.max_images)

    @cached_property
    def _tails(self) -> NDArray[np.float64]:
        """``(clique_size - 1, num_looks)`` chance of at most m returns at ``copy_rate``."""
        looks = np.asarray(self._looks)
        returns = np.minimum(np.arange(1, self.clique_size)[:, None], looks)
        tails: NDArray[np.float64] = special.bdtr(returns, looks, self.copy_rate)
        return tails

    def _reached(self, tail: float) -> tuple[int, ...]:
        """First look at which each row's tail probability is that small."""
        small = self._tails <= tail
        small[:, -1] = True
        return tuple(self._looks[position] for position in small.argmax(axis=1))

    def _outcomes(self, rate: float, boundaries: tuple[int, ...]) -> _Outcomes:
        """Follow the number of returns from look to look, over all that can happen."""
        first_clean = np.array([boundaries[0], *boundaries])  # by returns: none is as one
        undecided = np.zeros(self.clique_size)  # chance of so many returns and no decision yet
        undecided[0] = 1.0
        missed = disagreed = images = 0.0
        before = 0
        for look in self._looks:
            images += (look - before) * float(undecided.sum())
            # who reaches the clique size is flagged and leaves
            more = _exactly(np.arange(self.clique_size), look - before, rate)
            undecided = np.convolve(undecided, more)[: self.clique_size]
            clean = np.where(look >= first_clean, undecided, 0.0)
            missed += float(clean.sum())
            disagreed += float(clean @ self._still_flagged(self.max_images - look, rate))
            undecided = undecided - clean
            before = look
        return _Outcomes(missed=min(missed, 1.0), disagreed=disagreed, images=images)

    def _still_flagged(self, images_left: int, rate: float) -> NDArray[np.float64]:
        """Chance, for each number of returns, that all images would show the clique size."""
        missing = self.clique_size - np.arange(self.clique_size)
        enough = missing <= images_left
        chance = special.bdtrc(np.where(enough, missing, 1) - 1, max(images_left, 1), rate)
        return np.where(enough, chance, 0.0)


@dataclass(frozen=True, kw_only=True)
class _Outcomes:
    missed: float  # chance of clean
    disagreed: float  # chance of clean where the fixed protocol flags
    images: float  # expected number


def _exactly(successes: NDArray[np.int64], trials: int, rate: float) -> NDArray[np.float64]:
    """Binomial probabilities, ``(len(successes),)``."""
    failures = np.maximum(trials - successes, 0)
    ways = -special.betaln(successes + 1, failures + 1) - np.log(trials + 1)
    chances = np.exp(ways + special.xlogy(successes, rate) + special.xlog1py(failures, -rate))
    return np.where(successes <= trials, chances, 0.0)


def _checked(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}")
    return rate
