"""Which checks a run has: what is known of the checkpoint and of the inputs decides.

Names of the collected items, in the order they run. A Hub checkpoint that was not fetched yet may
be of either kind, and a fine-tune or not, so its run has the checks of all of them; those that
turn out not to apply say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pytest_memscan.checkpoints.families import Kind
from pytest_memscan.errors import OptionError
from pytest_memscan.policy import METRICS, Subject, Threshold

CHECKS = (
    "integrity",
    "duplicates",
    "repeats",
    "finextract",
    "prompt_detectors",
    "carlini",
    "splitting",
    "side",
    "extended_side",
    "regression",
    "status",
)
_ALWAYS = ("integrity", "status")
_WHATEVER_IS_SCANNED = ("duplicates", "regression")
_NOT_ASKED_FOR = "it is not among those asked for (--memscan-scans)"
_SUBJECT_OF_SCAN: dict[str, dict[Kind, Subject]] = {
    "carlini": {"unconditional": "images", "text-to-image": "prompts"},
    "splitting": {"unconditional": "rare", "text-to-image": "rare"},
    "side": {"unconditional": "guided", "text-to-image": "guided"},
    "extended_side": {"text-to-image": "keys"},
    "repeats": {"unconditional": "repeats"},
}
_PROMPT_SCANS = ("prompt_detectors", "carlini", "extended_side")


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is known of a run when its checks are chosen.

    Attributes:
        kind: Of the checkpoint; None when it is not known before it is fetched.
        has_base: Whether the checkpoint it was fine-tuned from is known; None likewise.
        has_train_data: Whether training images are there to compare with.
        has_train_pixels: Whether these are images, rather than descriptors in a saved index.
        scans: Those asked for by name; None for every one that applies.
        is_set: Whether it is a set of fine-tunes rather than one checkpoint.
        has_baseline: Whether there is an earlier run to compare with.
    """

    kind: Kind | None
    has_base: bool | None = False
    has_train_data: bool
    has_train_pixels: bool = True
    scans: tuple[str, ...] | None = None
    is_set: bool = False
    has_baseline: bool = False

    def settled(self, kind: Kind, *, has_base: bool) -> Situation:
        """With what is known once the checkpoint was fetched."""
        return replace(self, kind=kind, has_base=has_base)


def why_not(name: str, kind: Kind, *, situation: Situation) -> str:
    """Why a check does not apply to a checkpoint of this kind, or ""."""
    if name == "finextract":
        return _why_not_finextract(kind, situation)
    if name in _ALWAYS:
        return ""
    if name == "regression":
        return "" if situation.has_baseline else "no earlier run was given (--memscan-baseline)"
    if situation.is_set:
        return "it scans one checkpoint, and this is a set of fine-tunes"
    if name == "splitting":
        return _why_not_splitting(kind, situation)
    if name == "side":
        return _why_not_side(kind, situation)
    if name in ("prompt_detectors", "extended_side") and kind == "unconditional":
        return "it needs prompts, and the checkpoint is unconditional"
    if name == "repeats" and kind == "text-to-image":
        return "it is for unconditional checkpoints, and this one is text-to-image"
    if name == "repeats" and situation.has_train_data:
        return "there are training images, and comparing with them says more"
    if name == "duplicates" and not situation.has_train_data:
        return "no training images were given"
    if name == "carlini" and kind == "unconditional" and not situation.has_train_data:
        return "no training images were given; memscan::repeats looks for what comes up again"
    is_asked_for = name in (situation.scans or ())
    if name in _PROMPT_SCANS and situation.has_base and not is_asked_for:
        return (
            "the base is known, and memscan::finextract says more about a fine-tune; "
            f"--memscan-scans finextract,{name} runs both"
        )
    return ""


def _why_not_finextract(kind: Kind, situation: Situation) -> str:
    if kind == "unconditional":
        return "it is for text-to-image fine-tunes, and the checkpoint is unconditional"
    if situation.has_base is False:
        return "no base is known; pass the checkpoint it was fine-tuned from with --memscan-base"
    return ""


def _why_not_splitting(kind: Kind, situation: Situation) -> str:
    if kind == "text-to-image" and "splitting" not in (situation.scans or ()):
        return (
            "of a text-to-image checkpoint every prompt is a scan of its own; "
            "--memscan-scans splitting asks for it"
        )
    if not situation.has_train_data:
        return "no training images were given, and it steers towards them"
    if not situation.has_train_pixels:
        return "an index holds descriptors only, and steering needs the training images themselves"
    return ""


def _why_not_side(kind: Kind, situation: Situation) -> str:
    if "side" not in (situation.scans or ()):
        learnt = (
            "it learns from thousands of the checkpoint's own images"
            if kind == "unconditional"
            else "of a text-to-image checkpoint it trains a LoRA on thousands of its own images"
        )
        return f"{learnt}; --memscan-scans side asks for it"
    if not situation.has_train_data:
        return "no training images were given, and what it brings out is compared with them"
    return ""


def checks_of(situation: Situation) -> tuple[str, ...]:
    """The checks of a run, in order."""
    kind, scans = situation.kind, situation.scans
    kinds: tuple[Kind, ...] = ("unconditional", "text-to-image") if kind is None else (kind,)
    return tuple(
        name
        for name in CHECKS
        if name in _ALWAYS
        or (
            any(not why_not(name, each, situation=situation) for each in kinds)
            and (scans is None or name in scans or name in _WHATEVER_IS_SCANNED)
        )
    )


def not_scanned(situation: Situation) -> dict[str, str]:
    """The scans that a run does not have, each with the reason."""
    kind = situation.kind
    run = {*checks_of(situation), "regression"}  # which scans nothing
    missing = [name for name in CHECKS if name not in run]
    if kind is None:  # then only what was asked for by name is known
        return dict.fromkeys(missing, _NOT_ASKED_FOR)
    return {name: why_not(name, kind, situation=situation) or _NOT_ASKED_FOR for name in missing}


def subjects_of(situation: Situation) -> set[Subject]:
    """What the checks of a run measure."""
    checks = checks_of(situation)
    subjects: set[Subject] = {"duplicates"} if "duplicates" in checks else set()
    if "finextract" in checks:
        subjects.add("finetunes" if situation.has_train_data else "candidates")
    for name, by_kind in _SUBJECT_OF_SCAN.items():
        if name in checks:
            subjects |= {
                subject
                for each, subject in by_kind.items()
                if situation.kind is None or each == situation.kind
            }
    return subjects


def check_measured(lines: Iterable[Threshold], situation: Situation) -> None:
    """Refuse a line of the policy that nothing in this run could be held against.

    Raises:
        OptionError: Names the line, the checks of the run, and what would do.
    """
    subjects = subjects_of(situation)
    with_images = subjects_of(replace(situation, has_train_data=True, has_train_pixels=True))
    there = "the images themselves with " if situation.has_train_data else ""  # not their index
    measured = [name for subject in METRICS if subject in subjects for name in METRICS[subject]]
    for line in lines:
        if line.subject in subjects:
            continue
        remedy = f"write a limit on {' or '.join(measured)}" if measured else "ask for more scans"
        if line.subject in with_images:
            remedy = f"pass {there}--memscan-train-data, or {remedy}"
        raise OptionError(
            f'{line.source}: "{line.expression}" cannot be judged: no check of this run '
            f"({', '.join(checks_of(situation))}) measures {line.metric}; {remedy}"
        )
