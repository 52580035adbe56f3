"""Which prompts images are worth spending on: detectors calibrated on negatives.

How the negatives score (prompts that cannot be in the training set) says how an unmemorised prompt
does. Prompts are sampled in the order of suspicion: all that are beyond that, and on until several
in a row are clean. Suspicion is no finding: only images are evidence. Of the others a random sample
is audited, so that the share that detectors miss has an interval.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.detectors.catalogue import BY_NAME, Detector
from pytest_memscan.detectors.run import Scores
from pytest_memscan.prompt_statistics import (
    audit_size,
    missed_share,
    prediction_limit,
    tail_p_values,
)
from pytest_memscan.results import DetectorResult, Screening

Floats = NDArray[np.float64]

# The trajectory tells more than the first step, which is strong for any prompt that says much. The
# first of these that apply to a checkpoint decide.
DECIDING = (("early_noise_magnitude",), ("early_spread", "masked_early_spread"))
FALSE_ESCALATION = 0.05  # chance that a prompt like the negatives is suspicious
PATIENCE = 5  # clean prompts in a row, down the order of suspicion, after which it is left


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """What screening found.

    Attributes:
        detectors: Every detector, for reports.
        order: Places of the prompts, the most suspicious first.
        num_suspicious: So many of them are beyond the threshold of a deciding detector, or have
            no score because a prediction was not a number.
    """

    detectors: tuple[DetectorResult, ...]
    order: tuple[int, ...]
    num_suspicious: int


def find_suspects(prompts: Scores, negatives: Scores) -> Suspects:
    """Hold every detector's scores of the prompts against those of the negatives.

    Args:
        prompts: Scores of ``num_prompts`` prompts.
        negatives: The same detectors' scores of the negatives.

    Raises:
        ValueError: The negatives' scores by a deciding detector are all alike, or too few.
    """
    relative, null = prompts.relative_to(negatives), negatives.relative_to(negatives)
    deciding = _deciding(null)
    alarm = FALSE_ESCALATION / max(1, len(deciding))
    num_prompts = len(next(iter(relative.values.values())))
    p_values = np.ones(num_prompts)
    results = []
    for name, values in relative.values.items():
        detector = BY_NAME[name]
        threshold, each = _against(
            values, null.values[name], alarm, detector, decides=name in deciding
        )
        if name in deciding:
            p_values = np.minimum(p_values, each)
        results.append(
            DetectorResult(
                name=name,
                title=detector.title,
                higher_is_memorised=detector.higher_is_memorised,
                calls_per_prompt=prompts.calls_alone[name],
                decides=name in deciding,
                threshold=threshold,
                num_negatives=int(np.isfinite(null.values[name]).sum()),
                num_above=int((each < alarm).sum()),
            )
        )
    results += [_silent(name, reason) for name, reason in prompts.not_applicable.items()]
    return Suspects(
        detectors=tuple(results),
        order=tuple(np.argsort(p_values, kind="stable").tolist()),
        num_suspicious=int((p_values < alarm).sum()),
    )


def _deciding(negatives: Scores) -> tuple[str, ...]:
    """The first set of detectors that tells negatives apart; else the first that applies."""
    applicable = [each for each in DECIDING if set(each) <= set(negatives.values)]
    for names in applicable:
        # At pure noise the noise of a flow model is known, whatever the prompt: one step says 0.
        if all(np.ptp(negatives.values[name][1:]) != 0 for name in names):
            return names
    return applicable[0] if applicable else ()


def _silent(name: str, reason: str) -> DetectorResult:
    return DetectorResult(
        name=name,
        title=BY_NAME[name].title,
        higher_is_memorised=BY_NAME[name].higher_is_memorised,
        calls_per_prompt=0,
        not_applicable=reason,
    )


def _against(
    values: Floats, null: Floats, alarm: float, detector: Detector, *, decides: bool
) -> tuple[float | None, Floats]:
    """A threshold, and the p-value of each score; 0 for one that is not a number.

    No threshold, and p-values of 1, where negatives give none and nothing is decided by it.
    """
    try:
        return _calibrated(values, null[np.isfinite(null)], alarm, detector)
    except ValueError:
        if decides:
            raise
        return None, np.ones(len(values))


def _calibrated(
    values: Floats, null: Floats, alarm: float, detector: Detector
) -> tuple[float, Floats]:
    tail: Literal["lower", "upper"] = "upper" if detector.higher_is_memorised else "lower"
    known = np.isfinite(values)
    p_values = np.zeros(len(values))
    if not len(null):
        raise ValueError("no negative has a score that is a number")
    if (null <= 0).any() or (values[known] < 0).any():
        # Cosines have no logarithm; shifted by a constant they keep their order.
        shift = 1 - min(null.min(), values[known].min(initial=np.inf))
        p_values[known] = tail_p_values(values[known] + shift, null + shift, tail=tail)
        return prediction_limit(null + shift, alarm, tail=tail) - shift, p_values
    p_values[known] = tail_p_values(values[known], null, tail=tail)
    return prediction_limit(null, alarm, tail=tail), p_values


def choose_audit(rest: Sequence[int], *, num_prompts: int, limit: float, seed: int) -> list[int]:
    """Screened-out prompts to be sampled all the same: a random choice, in the order drawn.

    As many as it takes for the share of memorised prompts, should none of them be, to keep
    ``limit`` at 95 %, and one at least where there are any. Being in the order drawn, those that
    come before a budget ends are a random choice too.
    """
    if not rest:
        return []
    among_rest = min(limit * num_prompts / len(rest), 1 - 1e-9)
    count = min(audit_size(len(rest), among_rest), len(rest))
    return random.Random(seed).sample(sorted(rest), count)  # noqa: S311 - reproducible


def screening_result(
    suspects: Suspects, *, num_escalated: int, num_audited: int, num_missed: int
) -> Screening:
    """How prompts were chosen, and what the audit says of those that were not.

    Args:
        suspects: From `find_suspects`.
        num_escalated: Prompts that were sampled in the order of suspicion.
        num_audited: Of the others, those drawn at random and sampled to an end.
        num_missed: Of these, found memorised.
    """
    num_prompts = len(suspects.order)
    return Screening(
        detectors=suspects.detectors,
        num_screened=num_prompts,
        num_suspicious=suspects.num_suspicious,
        num_escalated=num_escalated,
        num_audited=num_audited,
        num_missed=num_missed,
        miss_rate=missed_share(num_prompts - num_escalated, num_audited, num_missed),
    )
