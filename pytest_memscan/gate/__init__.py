"""Thresholds x results -> verdict. Pure: what was measured comes in, sentences come out."""

from pytest_memscan.gate.finetunes import judge_finetunes
from pytest_memscan.gate.images import judge_coverage, judge_duplicates, judge_scan
from pytest_memscan.gate.prompts import (
    judge_keys,
    judge_prompt_scan,
    judge_repeats,
    judge_screening,
)
from pytest_memscan.gate.regression import judge_regression
from pytest_memscan.gate.run import (
    judge_coverages,
    judge_integrity,
    judge_run,
    judge_status,
    not_applicable,
)
from pytest_memscan.gate.side import judge_side
from pytest_memscan.gate.splitting import judge_splitting, judge_splitting_coverage
from pytest_memscan.gate.waivers import judge_with_waivers, waived_ids

__all__ = [
    "judge_coverage",
    "judge_coverages",
    "judge_duplicates",
    "judge_finetunes",
    "judge_integrity",
    "judge_keys",
    "judge_prompt_scan",
    "judge_regression",
    "judge_repeats",
    "judge_run",
    "judge_scan",
    "judge_screening",
    "judge_side",
    "judge_splitting",
    "judge_splitting_coverage",
    "judge_status",
    "judge_with_waivers",
    "not_applicable",
    "waived_ids",
]
