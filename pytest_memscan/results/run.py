"""How checks and runs ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_memscan.results.basics import Coverage, Estimate, Verdict
from pytest_memscan.results.finetunes import FinetuneScan
from pytest_memscan.results.images import Duplicates, Repeats, ScanResult
from pytest_memscan.results.prompts import KeyScan, PromptScan, Screening
from pytest_memscan.results.regression import Regression
from pytest_memscan.results.side import SideScan
from pytest_memscan.results.splitting import SplittingScan

Scan = ScanResult | SplittingScan | SideScan | PromptScan | KeyScan | Repeats | FinetuneScan
SCHEMA_VERSION = 1  # of the JSON report; raised when a field changes its meaning
MEASUREMENT_VERSION = 1  # raised when the same images would give other numbers


@dataclass(frozen=True, kw_only=True)
class Integrity:
    """What was checked about the checkpoint's files before anything was loaded."""

    pipeline: str  # class named by model_index.json
    files: dict[str, str]  # file in the checkpoint -> sha256
    num_tensors: int
    num_parameters: int


@dataclass(frozen=True, kw_only=True)
class Location:
    """A place in a policy file; lines and columns are counted from 1, the end is behind the last.

    Where no file says it, the file that could, from its first line.
    """

    file: str  # relative to where the run was started, with slashes
    line: int = 1
    column: int = 1
    end_column: int = 2


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """A finding that somebody accepted, for a time and a reason, in the policy file."""

    id: str  # of the finding, as reports show it
    reason: str
    expires: str  # the last day it holds, as YYYY-MM-DD
    state: str  # "used", "unused" or "expired"
    source: str  # file it was written in


@dataclass(frozen=True, kw_only=True)
class ThresholdOutcome:
    """One line of the policy, measured."""

    expression: str  # "ums_high <= 0.001"
    source: str  # where it was set
    verdict: Verdict
    sentence: str  # what was measured, and what would settle it when inconclusive
    estimate: Estimate | None = None
    waived: tuple[str, ...] = ()  # ids of findings that waivers took out of it
    location: Location | None = None


@dataclass(frozen=True, kw_only=True)
class CheckOutcome:
    """How one collected item (``memscan::carlini``, ...) ended."""

    name: str
    verdict: Verdict
    sentence: str
    thresholds: tuple[ThresholdOutcome, ...] = ()
    scan: ScanResult | None = None
    integrity: Integrity | None = None
    duplicates: Duplicates | None = None
    prompt_scan: PromptScan | None = None
    screening: Screening | None = None
    keys: KeyScan | None = None
    repeats: Repeats | None = None
    finetunes: FinetuneScan | None = None
    splitting: SplittingScan | None = None
    side: SideScan | None = None
    regression: Regression | None = None

    @property
    def scans(self) -> tuple[Scan, ...]:
        """What it measured by attacking the checkpoint."""
        every = (
            self.scan,
            self.splitting,
            self.side,
            self.prompt_scan,
            self.keys,
            self.repeats,
            self.finetunes,
        )
        return tuple(each for each in every if each is not None)

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Everything it measured that a threshold can name."""
        return {name: value for scan in self.scans for name, value in scan.metrics.items()}

    @property
    def provenance(self) -> dict[str, str]:
        """What must match before it is compared with that of another run."""
        return {name: value for scan in self.scans for name, value in scan.provenance.items()}

    @property
    def coverage(self) -> Coverage | None:
        """Of its generated images, where it made any."""
        if self.scan is not None:
            return self.scan.coverage
        if self.splitting is not None:
            return self.splitting.coverage
        if self.side is not None:
            return self.side.coverage
        if self.prompt_scan is not None:
            return self.prompt_scan.images
        if self.finetunes is not None and len(self.finetunes.concepts) == 1:
            return self.finetunes.concepts[0].images
        return None if self.repeats is None else self.repeats.images


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One `pytest --memscan` run: the object behind every report and the exit code."""

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    sentence: str
    checkpoint: str  # as people name it, with the commit where there is one
    checks: tuple[CheckOutcome, ...] = ()
    not_scanned: dict[str, str] = field(default_factory=dict)  # check this run has not -> why
    waivers: tuple[Waiver, ...] = ()
    prompt_texts: dict[str, str] = field(default_factory=dict)  # "prompt#00017" -> text, if asked
    policy: dict[str, tuple[str, str]] = field(default_factory=dict)  # option -> value, source
    versions: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)  # seconds; not reproducible
