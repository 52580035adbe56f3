"""What every result is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

FLAT_IMAGE = "one flat colour"  # a training image that cannot be matched, and has nothing to leak


class Verdict(str, Enum):
    """How a run ended. Only ``PASS`` is green."""

    PASS = "pass"  # noqa: S105  # a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    NOT_RUN = "not_run"
    NOT_APPLICABLE = "not_applicable"  # a check's, never a run's

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured number with one-sided confidence bounds.

    ``lower`` and ``upper`` each hold with probability ``confidence`` on their own. For an exact
    count of what was seen (``extracted``) both equal ``value``.
    """

    value: float
    lower: float
    upper: float
    confidence: float = 0.95
    num_trials: int = 0  # generated images behind the number; 0 for a plain count


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one number, the *score* of a generated and a training image, says.

    Every score in these results is in the units of its scan's measure. Computations use the
    *dissimilarity* instead, which is smaller for closer images whatever the measure.
    """

    name: str  # "neighbour-normalised L2", "cosine similarity of sscd descriptors"
    word: str  # for one score: "ratio", "similarity"
    higher_is_closer: bool

    def score(self, dissimilarity: float) -> float:
        """The score of a dissimilarity, and, being its own inverse, the other way round."""
        return 1.0 - dissimilarity if self.higher_is_closer else dissimilarity

    @property
    def limit_word(self) -> str:
        """How a cut is read: "at least" or "at most"."""
        return "at least" if self.higher_is_closer else "at most"


RATIO = Measure(name="neighbour-normalised L2", word="ratio", higher_is_closer=False)


@dataclass(frozen=True, kw_only=True)
class Control:
    """A planted case with a known answer."""

    name: str
    sentence: str  # what was planted
    num_images: int
    num_found: int
    minimum_found: int
    maximum_found: int

    @property
    def passed(self) -> bool:
        """Whether the known answer was given."""
        return self.minimum_found <= self.num_found <= self.maximum_found


@dataclass(frozen=True, kw_only=True)
class SourceCoverage:
    """What became of the images of one source."""

    num_found: int
    num_used: int
    num_resized: int = 0  # larger than what the checkpoint makes
    unusable: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> names


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What was asked for and what was really looked at."""

    planned: int  # generated images
    generated: int
    valid: int  # the denominator of every rate
    invalid: dict[str, int] = field(default_factory=dict)  # reason -> images
    damaged: int = 0  # stored images that had to be generated again
    train_origin: str = ""  # where the training images came from, without a private folder
    train_found: int = 0  # images in there
    train_used: int = 0
    train_resized: int = 0  # larger than what the checkpoint makes
    train_groups: int = 0  # after near-duplicates were merged
    train_unusable: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> names
