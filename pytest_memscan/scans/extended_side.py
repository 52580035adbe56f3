"""Extended SIDE: keys whose images hardly vary over seeds (SIDE, arXiv:2410.02467).

    for each key: generate images, take their mean image and their variance
    a key is extracted when the variance is below a threshold; its mean image is the evidence

Neither the space of the variance nor the threshold is published. Here variance is measured in
pixels, in latents and between descriptors, and the pixels decide; the threshold follows from
negatives of the same form: unused random strings for planted strings and other single words,
recombined prompts for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.prompt_statistics import holm, prediction_limit, tail_p_values
from pytest_memscan.results import Estimate, KeyFinding, KeyScan, KeyVariance, PromptCoverage

TITLE = "Extended SIDE: variance over seeds"
DECIDING_SPACE = "pixel"
ALARM = 0.05  # chance of one or more false key among all of a form
SMALLEST_VARIANCE = 1e-9
MAX_FINDINGS = 500


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key and what its first images say.

    Attributes:
        prompt_id: Position in its list.
        place: Where it was found: "line 7".
        is_canary: In the list of planted strings; else in that of prompts.
        is_verbatim: Whether it gives near-identical images, which is evidence enough.
        num_images: That variances are measured on.
        variances: Space -> variance over them.
        nearest: Training image nearest to their mean, and normalised L2; None without any.
    """

    prompt_id: int
    place: str
    is_canary: bool
    is_verbatim: bool
    num_images: int
    variances: Mapping[str, float]
    nearest: tuple[int, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Form:
    """Keys of one form with the negatives that they are held against.

    Attributes:
        name: "strings" or "prompts".
        keys: Of this form.
        negatives: Space -> ``(num_negatives,)`` variances.
        num_candidates: Texts of this form that were screened. Keys were chosen among them, most of
            them for what they looked like, so all of them count as tested. None for the keys.
    """

    name: str
    keys: Sequence[Key]
    negatives: Mapping[str, NDArray[np.float64]]
    num_candidates: int | None = None

    @property
    def num_tested(self) -> int:
        """Tests that share the chance of a false key."""
        return max(len(self.keys), self.num_candidates or 0)


def extended_side(
    forms: Sequence[Form],
    *,
    images_per_key: int,
    canaries: PromptCoverage | None,
    provenance: Mapping[str, str] | None = None,
) -> KeyScan:
    """Which keys give nearly the same image from every seed.

    Args:
        forms: All keys, by form; each is tested at ``ALARM`` in all (Holm 1979).
        images_per_key: That variances are measured on.
        canaries: The list of planted strings, where one was given.
        provenance: Recorded as it is.
    """
    findings = [finding for form in forms for finding in _findings(form)]
    findings.sort(key=lambda each: (each.p_value, each.prompt_id))
    flagged = [each for each in findings if each.flagged]
    return KeyScan(
        title=TITLE,
        spaces=tuple(_spaces(forms)),
        deciding_space=DECIDING_SPACE,
        images_per_key=images_per_key,
        num_keys=len(findings),
        num_canaries=sum(each.is_canary for each in findings),
        metrics={
            "low_variance_prompts": _count(sum(not each.is_canary for each in flagged)),
            "extracted_canaries": _count(sum(each.is_canary for each in flagged)),
        },
        findings=tuple(findings[:MAX_FINDINGS]),
        num_findings_total=len(findings),
        sentence=(
            "log variance of negatives of the same form, Student-t prediction; "
            f"Holm over all screened texts of a form at {ALARM:g}"
        ),
        canaries=canaries,
        provenance=dict(provenance or {}),
    )


def _findings(form: Form) -> list[KeyFinding]:
    if not form.keys:
        return []
    values = _floored([key.variances[DECIDING_SPACE] for key in form.keys])
    p_values = tail_p_values(values, _floored(form.negatives[DECIDING_SPACE]))
    others = np.ones(form.num_tested - len(p_values))
    flags = holm(np.concatenate([p_values, others]), ALARM)[: len(p_values)]
    return [
        KeyFinding(
            prompt_id=key.prompt_id,
            place=key.place,
            is_canary=key.is_canary,
            flagged=bool(flag) or key.is_verbatim,
            num_images=key.num_images,
            variances=dict(key.variances),
            p_value=float(p_value),
            train_id=None if key.nearest is None else key.nearest[0],
            train_distance=None if key.nearest is None else key.nearest[1],
        )
        for key, p_value, flag in zip(form.keys, p_values, flags, strict=True)
    ]


def _spaces(forms: Sequence[Form]) -> list[KeyVariance]:
    """Threshold for all keys together (Bonferroni) in each space that all of them have.

    For information: in the deciding space Holm's steps flag no fewer.
    """
    return [
        KeyVariance(
            space=space,
            form=form.name,
            threshold=(limit := float(prediction_limit(_floored(null), ALARM / form.num_tested))),
            num_negatives=len(null),
            num_below=sum(key.variances[space] < limit for key in form.keys),
        )
        for form in forms
        if form.keys
        for space, null in form.negatives.items()
        if all(space in key.variances for key in form.keys)
    ]


def _floored(variances: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Equal images have no variance, and zero no logarithm."""
    return np.maximum(np.asarray(variances, dtype=np.float64), SMALLEST_VARIANCE)


def _count(number: int) -> Estimate:
    return Estimate(value=number, lower=number, upper=number)
