"""What changed since an earlier run."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_memscan.results.basics import Estimate


@dataclass(frozen=True, kw_only=True)
class MetricChange:
    """One metric, then and now."""

    metric: str
    check: str  # that measured it
    before: Estimate
    now: Estimate
    test: str  # how the two were compared, in words
    p_value: float | None  # one-sided, of no increase; None where only intervals were compared
    increased: bool  # significantly, all comparisons of the run taken together
    num_new: int | None = None  # findings (or copies) that were not there before ...
    num_gone: int | None = None  # ... and that are no longer there, where the two are paired


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A run held against an earlier one of the same plan."""

    baseline: str  # checkpoint of the earlier run, as people name it
    source: str  # its file, without a private folder
    significance: float  # chance of at least one false increase, if nothing increased
    changes: tuple[MetricChange, ...] = ()  # empty where the two are incomparable
    differing: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> then, now

    @property
    def is_comparable(self) -> bool:
        """Whether everything matches that must."""
        return not self.differing
