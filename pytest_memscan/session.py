"""One run, from checkpoint to check outcomes: measure, judge, remember.

The same object serves the collected items and the fixtures.
"""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from pytest_memscan.baselines import read_baseline
from pytest_memscan.checkpoints.families import Kind
from pytest_memscan.checkpoints.integrity import joined
from pytest_memscan.checks import why_not
from pytest_memscan.errors import MemscanError, OptionError, shown_path
from pytest_memscan.gate import (
    judge_duplicates,
    judge_finetunes,
    judge_integrity,
    judge_keys,
    judge_prompt_scan,
    judge_regression,
    judge_repeats,
    judge_scan,
    judge_screening,
    judge_side,
    judge_splitting,
    judge_status,
    judge_with_waivers,
    not_applicable,
    waived_ids,
)
from pytest_memscan.measurements import Measurements
from pytest_memscan.regression import compare
from pytest_memscan.results import CheckOutcome, Regression, Verdict
from pytest_memscan.waivers import utc_today

SECONDS_LEFT_BEHIND = 2 * 24 * 3600
_ABOUT_OTHERS = ("regression", "status")


@dataclass(kw_only=True)
class Session(Measurements):
    """Runs each check at most once and remembers how it ended.

    Attributes:
        crashes: Errors of ours rather than the user's, by check.
    """

    crashes: dict[str, Exception] = field(default_factory=dict)
    _outcomes: dict[str, CheckOutcome] = field(default_factory=dict)

    def check(self, name: str) -> CheckOutcome:
        """How one check ended; errors become outcomes, so that every item says its own."""
        if name not in self._outcomes:
            try:
                with _third_party_warnings_kept_out():
                    self._outcomes[name] = self._run(name)
            except MemscanError as error:
                self._outcomes[name] = _error(name, str(error))
            except Exception as error:  # shown with its traceback by the item
                self.crashes[name] = error
                self._outcomes[name] = _error(
                    name, f"unexpected {type(error).__name__}; please report it with its traceback"
                )
        return self._outcomes[name]

    def _run(self, name: str) -> CheckOutcome:
        if name == "integrity":
            return self._vet()
        if name == "status":
            others = [self.check(each) for each in self.config.checks if each != name]
            return judge_status(others, self.config.thresholds)
        if name == "regression":
            return judge_regression(self._regression())
        kind = self.inputs.kind
        if reason := why_not(name, kind, situation=self.inputs.situation):
            if name in (self.config.scans or ()):
                raise OptionError(f"{name} was asked for and does not apply: {reason}")
            return not_applicable(name, reason)
        return self._judge(name, kind)

    def _judge(self, name: str, kind: Kind) -> CheckOutcome:
        """Measure, unless that was done, and hold it against the policy."""
        thresholds = self.config.thresholds
        judged = partial(
            judge_with_waivers,
            thresholds=thresholds,
            waivers=self.config.waivers,
            today=utc_today(),
        )
        if name == "duplicates":
            return judge_duplicates(self.duplicates, thresholds)
        if name == "repeats":
            return judge_repeats(self.repeats, thresholds)
        if name == "prompt_detectors":
            return judge_screening(self.prompt_results.screening)
        if name == "finextract":
            return judged(judge_finetunes, self.finetunes)
        if name == "splitting":
            return judged(judge_splitting, self.splitting)
        if name == "side":
            return judged(judge_side, self.side)
        if name == "extended_side":
            return judged(judge_keys, self.prompt_results.keys)
        if kind == "unconditional":
            return judged(judge_scan, self.carlini)
        return judged(judge_prompt_scan, self.prompt_results.prompts)

    def _vet(self) -> CheckOutcome:
        """Look at every file of the checkpoints before anything is made with them."""
        for inputs in self._of_concepts:
            inputs.pipeline(self.config.dtype)
            if self.config.concepts:  # the models of a whole set need not fit into memory
                inputs.forget_models()
        return judge_integrity(joined([inputs.integrity for inputs in self._of_concepts]))

    def _regression(self) -> Regression:
        """What changed since the run that is compared with.

        Raises:
            OptionError: Its report cannot be used, or there is none.
        """
        path = self.config.baseline
        if path is None:
            raise OptionError("no earlier run was given; name its report with --memscan-baseline")
        checks = [self.check(each) for each in self.config.checks if each not in _ABOUT_OTHERS]
        waivers, today = self.config.waivers, utc_today()
        return compare(
            read_baseline(path),
            checks,
            [line.metric for line in self.config.thresholds],
            source=shown_path(path),
            waived={each for check in checks for each in waived_ids(check, waivers, today)},
        )

    def close(self) -> None:
        """Remove what only this run needed, and what killed runs left behind days ago."""
        shutil.rmtree(self.work_dir, ignore_errors=True)
        for left_behind in self.work_dir.parent.glob("*"):
            with suppress(OSError):
                if time.time() - left_behind.stat().st_mtime > SECONDS_LEFT_BEHIND:
                    shutil.rmtree(left_behind, ignore_errors=True)


def _error(name: str, sentence: str) -> CheckOutcome:
    return CheckOutcome(name=name, verdict=Verdict.ERROR, sentence=sentence)


@contextmanager
def _third_party_warnings_kept_out() -> Iterator[None]:
    """Somebody else's deprecation must not end a scan, and no log may name a prompt.

    diffusers logs the end of every prompt that is longer than its tokenizer reads.
    """
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
