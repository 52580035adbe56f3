"""Baselines: reports of earlier runs that passed, read and written.

A baseline is an ordinary JSON report without its timings, so that it can be committed and a
change of it reviewed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.comparability import measured
from pytest_memscan.errors import MemscanError, OptionError, is_special, shown_path
from pytest_memscan.policy import IMAGE_RATES, METRICS
from pytest_memscan.reports.text import escape, verdict_word
from pytest_memscan.results import Verdict

if TYPE_CHECKING:
    from pytest_memscan.results import RunResult

BASELINE = "--memscan-baseline"
SAVE = "--memscan-save-baseline"
_MOST_BYTES = 256 * 2**20  # far above any report; a checkpoint passed by mistake is not read
_HOW_TO_MAKE_ONE = f"make one with {SAVE} {{name}} on a checkpoint that passes"

_OF_PROMPTS = frozenset((*METRICS["prompts"], *METRICS["keys"]))
_BY_IMAGES = frozenset((*METRICS["images"], *METRICS["rare"], *METRICS["guided"]))
_ALL = frozenset(name for names in METRICS.values() for name in names) - set(METRICS["duplicates"])
# Numbers that a budget in images decides: counts of what plain sampling brings out.
_OF_BUDGET = frozenset(
    ("extracted", "repeated_groups", *(name for name in IMAGE_RATES if name.startswith("ums_")))
)
# Settings that end up in what two runs are compared by, and the metrics that depend on them.
_SETTINGS = {
    "seed": _ALL,
    "steps": _ALL,
    "dtype": _ALL,
    "batch_size": _ALL,
    "guidance_scale": _OF_PROMPTS,
    "copy_rate": _OF_PROMPTS - frozenset(METRICS["keys"]),
    "images_per_prompt": _OF_PROMPTS - frozenset(METRICS["keys"]),
    "budget": _OF_BUDGET,
    "descriptor": _BY_IMAGES,
}


def read_baseline(path: Path) -> RunResult:
    """The earlier run that a report holds.

    Raises:
        OptionError: There is no such file, it is no report or of a newer version, or its run did
            not pass, or not all of it ran, or it measured nothing.
    """
    from pytest_memscan.reports.json import from_json

    shown = shown_path(path)
    try:
        before = from_json(_text(path))
    except MemscanError as error:
        raise OptionError(f"{BASELINE} {shown}: {error}") from None
    remedy = _HOW_TO_MAKE_ONE.format(name=path.name)
    if before.verdict is not Verdict.PASS:
        said = f" ({escape(before.sentence, limit=200)})" if before.sentence else ""
        raise OptionError(
            f"{BASELINE} {shown}: that run is no baseline, its verdict is "
            f"{verdict_word(before.verdict)}{said}; {remedy}"
        )
    if reason := _why_not(before):
        raise OptionError(f"{BASELINE} {shown}: that run is no baseline: {reason}; {remedy}")
    return before


def save_baseline(
    result: RunResult, path: Path, *, scrub: Callable[[str], str] = lambda text: text
) -> None:
    """Write a run that passed, for later ones to be compared with.

    Left out are timings, which differ from run to run, and texts of prompts, which nothing is
    compared by and which somebody may not want committed.

    Args:
        result: What was measured.
        path: The file; a folder is made where there is none.
        scrub: Takes what is private out of the text.

    Raises:
        MemscanError: The run did not pass or not all of it ran, or the file cannot be written.
            What was there before is kept.
    """
    from pytest_memscan.reports.json import to_json, write_text_atomically

    shown = shown_path(path)
    reason = _why_not(result)
    if result.verdict is not Verdict.PASS:
        reason = f"the verdict is {verdict_word(result.verdict)}, and only a run that passes is one"
    if reason:
        kept = "; the older one was kept" if path.exists() else ""
        raise MemscanError(f"no baseline was saved to {shown}: {reason}{kept}")
    text = to_json(replace(result, timings={}, prompt_texts={}))
    write_text_atomically(path, scrub(text), option=f"{SAVE} FILE")


def check_baseline_options(
    baseline: Path | None, save: Path | None, reports: Sequence[tuple[str, Path]] = ()
) -> None:
    """Refuse files that would be in each other's way, before anything is written.

    Args:
        baseline: Report of an earlier run to compare with.
        save: Where this one is to be saved.
        reports: Format and path of those that this run writes.

    Raises:
        OptionError: Names both, and what to do.
    """
    if baseline is not None and save is not None and _is_same(baseline, save):
        raise OptionError(
            f"{BASELINE} and {SAVE} name the same file, {shown_path(save)}: each release would be "
            "compared with the last one only, and a leak that grows a little every time would "
            f"never be noticed. Keep the baseline; to replace it on purpose, run with {SAVE} alone"
        )
    if save is not None and save.is_dir():
        raise OptionError(
            f"{SAVE}: {shown_path(save)} is a folder; name a file in it, as in "
            f"{save.name}/baseline.json"
        )
    if save is not None and is_special(save):  # it would be replaced by a file, for everybody
        raise OptionError(
            f"{SAVE}: {shown_path(save)} is a device or a pipe, and a baseline is a file; name one"
        )
    for kind, path in reports:
        if baseline is not None and _is_same(baseline, path):
            raise OptionError(
                f"{BASELINE}: this run writes its {kind} report to {shown_path(path)}, and would "
                "replace the baseline before comparing with it; copy the baseline to another "
                f"file, or write the report elsewhere (--memscan-report {kind}:PATH)"
            )
        if save is not None and _is_same(save, path):
            raise OptionError(
                f"{SAVE}: {shown_path(path)} is the {kind} report of this run, which every run "
                "replaces whatever its verdict; save the baseline to another file"
            )


def check_comparable_settings(before: RunResult, policy: Mapping[str, tuple[str, str]]) -> None:
    """Refuse settings with which this run cannot be compared, before hours are spent on it.

    Only what is certain: both values are literal, and a metric that depends on them was measured
    then and is limited now. Everything else is compared once it was measured.

    Args:
        before: The earlier run.
        policy: Settings of this one, as its report will hold them.

    Raises:
        OptionError: Names the setting and both values.
    """
    limited = set(re.findall(r"(\w+) <", policy.get("fail", ("", ""))[0]))
    shared = limited & {metric for check in before.checks for metric in measured(check)}
    has_finetunes = any(check.finetunes is not None for check in before.checks)
    for name, metrics in _SETTINGS.items():
        if not shared & metrics or name not in policy or name not in before.policy:
            continue
        then, now = _literal(name, before.policy[name][0]), _literal(name, policy[name][0])
        if then is None or now is None or then == now:
            continue
        # Of other descriptors two names may mean the same one, and a fine-tune has a default.
        if name == "descriptor" and (has_finetunes or "pixels" not in (then, now)):
            continue
        option = f"--memscan-{name.replace('_', '-')}"
        raise OptionError(
            f"{BASELINE}: this run cannot be compared with that of {escape(before.checkpoint)}: "
            f"{option} is {escape(policy[name][0])} (from {escape(policy[name][1])}) and was "
            f"{escape(before.policy[name][0])} then. Scan with the same, or save a new baseline "
            f"(without {BASELINE}, with {SAVE})"
        )


def _literal(name: str, text: str) -> str | None:
    """A value that is what the run will use; None where something else decides."""
    if name == "budget":
        return text if re.fullmatch(r"\d+img", text) else None
    if name in ("dtype", "descriptor"):
        return text if text not in ("auto", "") else None
    if name == "guidance_scale" and text == "the pipeline's own":
        return text
    try:
        return f"{float(text):.12g}"
    except ValueError:
        return None


def _why_not(result: RunResult) -> str:
    """Why a run that passed is not all that a baseline has to be; empty if it is."""
    for check in result.checks:
        if check.verdict not in (Verdict.PASS, Verdict.NOT_APPLICABLE):
            said = f" ({escape(check.sentence, limit=200)})" if check.sentence else ""
            return f"memscan::{escape(check.name)} is {verdict_word(check.verdict)}{said}"
    if not any(measured(check) for check in result.checks):
        return "it measured nothing that a later run could be compared with"
    return ""


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise MemscanError("that is a folder; name the report in it")
        if is_special(path):  # it may have no end, and is read twice
            raise MemscanError("that is a device or a pipe; write the report to a file first")
        if path.stat().st_size > _MOST_BYTES:
            raise MemscanError("that file is far too large for a report")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MemscanError(
            f"there is no such file; {_HOW_TO_MAKE_ONE.format(name=path.name)}"
        ) from None
    except UnicodeDecodeError:
        raise MemscanError("that is not a memscan report: it is not text") from None
    except OSError as error:
        raise MemscanError(
            f"it cannot be read ({error.strerror or type(error).__name__})"
        ) from None


def _is_same(one: Path, other: Path) -> bool:
    try:
        if one.exists() and other.exists():
            return one.samefile(other)
    except OSError:
        pass
    return os.path.normcase(one.resolve()) == os.path.normcase(other.resolve())
