"""The plain data that every room speaks: what was measured, and what it means.

Nothing here computes, reads a file or knows pytest or torch. Everything is frozen, keyword-only
and JSON-ready: numbers, strings, tuples and other dataclasses of this module.
"""

from pytest_memscan.results.basics import (
    FLAT_IMAGE,
    RATIO,
    Control,
    Coverage,
    Estimate,
    Measure,
    SourceCoverage,
    Verdict,
)
from pytest_memscan.results.finetunes import (
    Clustering,
    ConceptScan,
    ExtractedImage,
    FinetuneScan,
    Fit,
    MethodScores,
    TrainMatch,
)
from pytest_memscan.results.images import (
    Calibration,
    CurvePoint,
    Duplicates,
    Finding,
    LevelScore,
    Repeats,
    ScanResult,
)
from pytest_memscan.results.prompts import (
    CallCount,
    DetectorResult,
    KeyFinding,
    KeyScan,
    KeyVariance,
    PromptCoverage,
    PromptFinding,
    PromptResults,
    PromptRule,
    PromptScan,
    Screening,
)
from pytest_memscan.results.run import (
    SCHEMA_VERSION,
    CheckOutcome,
    Integrity,
    RunResult,
    ThresholdOutcome,
)
from pytest_memscan.results.splitting import PromptLeak, RateAt, SplittingScan, SteeredCopy

__all__ = [
    "FLAT_IMAGE",
    "RATIO",
    "SCHEMA_VERSION",
    "Calibration",
    "CallCount",
    "CheckOutcome",
    "Clustering",
    "ConceptScan",
    "Control",
    "Coverage",
    "CurvePoint",
    "DetectorResult",
    "Duplicates",
    "Estimate",
    "ExtractedImage",
    "Finding",
    "FinetuneScan",
    "Fit",
    "Integrity",
    "KeyFinding",
    "KeyScan",
    "KeyVariance",
    "LevelScore",
    "Measure",
    "MethodScores",
    "PromptCoverage",
    "PromptFinding",
    "PromptLeak",
    "PromptResults",
    "PromptRule",
    "PromptScan",
    "RateAt",
    "Repeats",
    "RunResult",
    "ScanResult",
    "Screening",
    "SourceCoverage",
    "SplittingScan",
    "SteeredCopy",
    "ThresholdOutcome",
    "TrainMatch",
    "Verdict",
]
