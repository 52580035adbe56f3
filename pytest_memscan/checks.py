"""Which checks a run has: what is known of the checkpoint and of the inputs decides.

Names of the collected items, in the order they run. A Hub checkpoint that was not fetched yet may
be of either kind, so its run has the checks of both; those that turn out not to apply say so.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_memscan.checkpoints.families import Kind
from pytest_memscan.errors import OptionError
from pytest_memscan.policy import METRICS, Subject, Threshold

CHECKS = (
    "integrity",
    "duplicates",
    "repeats",
    "prompt_detectors",
    "carlini",
    "extended_side",
    "status",
)
_ALWAYS = ("integrity", "status")
_SUBJECT_OF_SCAN: dict[str, dict[Kind, Subject]] = {
    "carlini": {"unconditional": "images", "text-to-image": "prompts"},
    "extended_side": {"text-to-image": "keys"},
    "repeats": {"unconditional": "repeats"},
}


def why_not(name: str, kind: Kind, *, has_train_data: bool) -> str:
    """Why a check does not apply, or ""."""
    if name in ("prompt_detectors", "extended_side") and kind == "unconditional":
        return "it needs prompts, and the checkpoint is unconditional"
    if name == "repeats" and kind == "text-to-image":
        return "it is for unconditional checkpoints, and this one is text-to-image"
    if name == "repeats" and has_train_data:
        return "there are training images, and comparing with them says more"
    if name == "duplicates" and not has_train_data:
        return "no training images were given"
    if name == "carlini" and kind == "unconditional" and not has_train_data:
        return "no training images were given; memscan::repeats looks for what comes up again"
    return ""


def checks_of(
    kind: Kind | None, *, has_train_data: bool, scans: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """The checks of a run, in order.

    Args:
        kind: Of the checkpoint; None when it is not known before it is fetched.
        has_train_data: Whether training images are there to compare with.
        scans: Those asked for by name; None for every one that applies.
    """
    kinds: tuple[Kind, ...] = ("unconditional", "text-to-image") if kind is None else (kind,)
    return tuple(
        name
        for name in CHECKS
        if name in _ALWAYS
        or (
            any(not why_not(name, each, has_train_data=has_train_data) for each in kinds)
            and (scans is None or name in scans or name == "duplicates")
        )
    )


def subjects_of(kind: Kind | None, checks: tuple[str, ...]) -> set[Subject]:
    """What these checks measure."""
    subjects: set[Subject] = {"duplicates"} if "duplicates" in checks else set()
    for name, by_kind in _SUBJECT_OF_SCAN.items():
        if name in checks:
            subjects |= {
                subject for each, subject in by_kind.items() if kind is None or each == kind
            }
    return subjects


def check_measured(
    lines: Iterable[Threshold],
    kind: Kind | None,
    *,
    has_train_data: bool,
    scans: tuple[str, ...] | None = None,
) -> None:
    """Refuse a line of the policy that nothing in this run could be held against.

    Args:
        lines: Of the policy.
        kind: As for `checks_of`, like the others.
        has_train_data: Whether training images are there to compare with.
        scans: Those asked for by name.

    Raises:
        OptionError: Names the line, the checks of the run, and what would do.
    """
    checks = checks_of(kind, has_train_data=has_train_data, scans=scans)
    with_images = subjects_of(kind, checks_of(kind, has_train_data=True, scans=scans))
    subjects = subjects_of(kind, checks)
    measured = [name for subject in METRICS if subject in subjects for name in METRICS[subject]]
    for line in lines:
        if line.subject in subjects:
            continue
        remedy = f"write a limit on {' or '.join(measured)}" if measured else "ask for more scans"
        if line.subject in with_images:
            remedy = f"pass --memscan-train-data, or {remedy}"
        raise OptionError(
            f'{line.source}: "{line.expression}" cannot be judged: no check of this run '
            f"({', '.join(checks)}) measures {line.metric}; {remedy}"
        )
