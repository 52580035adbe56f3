"""The words that reports share about prompts and how they were screened and sampled.

A prompt, and all the more a canary, is somebody's secret: it is named by its number and by the
line it stands on, and its text is in no result. Names of files are not shown either, since
captions are often files named after the image beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_memscan.reports.estimates import value_text
from pytest_memscan.reports.text import (
    escape,
    percent,
    quantity,
    reason_counts,
    train_name,
)
from pytest_memscan.results import (
    CallCount,
    DetectorResult,
    Estimate,
    KeyFinding,
    PromptCoverage,
    PromptFinding,
    PromptRule,
    PromptScan,
    RunResult,
    Screening,
)

NUM_PLACES = 5  # named for each reason
PROBE = (
    "No prompts were given, so a built-in list of probes was scanned. A probe that is memorised "
    "shows a leak; finding none does not show that there is none, because most training images "
    "are described by no probe. Give the captions of the training images (--memscan-prompts) to "
    "learn about those."
)
_PLACE = re.compile(r"(?:\b(line|row)\s*|:)(\d+)$")


def prompt_name(finding: PromptFinding | KeyFinding) -> str:
    """``"prompt#00017"``, or ``"canary#00003"``, which are numbered on their own."""
    kind = "canary" if is_canary(finding) else "prompt"
    return f"{kind}#{finding.prompt_id:05d}"


def is_canary(finding: PromptFinding | KeyFinding) -> bool:
    """Whether its text was planted before fine-tuning."""
    return finding.is_canary if isinstance(finding, KeyFinding) else finding.route == "canary"


def place_text(place: str) -> str:
    """Where a prompt stands in its list, without the file, whose name may say too much.

    Example:
        >>> [place_text(each) for each in ("line 18", "a.csv row 4", "a.txt:7", "alice.txt")]
        ['line 18', 'row 4', 'line 7', '']
    """
    match = _PLACE.search(place)
    return f"{match[1] or 'line'} {match[2]}" if match else ""


def placed_name(finding: PromptFinding | KeyFinding) -> str:
    """``"prompt#00017 (line 18)"``."""
    place = place_text(finding.place)
    return prompt_name(finding) + (f" ({place})" if place else "")


def counted(estimate: Estimate | None, count: int, *, is_cut: bool) -> str:
    """The count that was measured; without one, what the list of findings holds.

    Args:
        estimate: From the metrics of the scan.
        count: In the list.
        is_cut: Whether the list was cut within them.
    """
    if estimate is not None:
        return value_text(estimate)
    return f"at least {count:,}" if is_cut else f"{count:,}"


def is_memorised(finding: PromptFinding) -> bool:
    """Whether the prompt gave a training image, or a part of one, away."""
    return bool(finding.kind)


def num_memorised(scan: PromptScan, kind: str = "") -> str:
    """Memorised prompts, of one kind or of all."""
    listed = [each for each in scan.findings if is_memorised(each)]
    return counted(
        scan.metrics.get(f"{kind or 'memorised'}_prompts"),
        sum(kind in ("", each.kind) for each in listed),
        # Memorised ones come first: a list that ends with another one has them all.
        is_cut=len(listed) == len(scan.findings) < scan.num_findings_total,
    )


def memorised_text(scan: PromptScan) -> str:
    """``"3 of 140 sampled (2 verbatim, 1 template); 2 confirmed by a training image"``."""
    number = num_memorised(scan)
    if number == "0":
        return f"none of {scan.num_findings_total:,} sampled"
    kinds = ", ".join(f"{num_memorised(scan, kind)} {kind}" for kind in ("verbatim", "template"))
    text = f"{number} of {scan.num_findings_total:,} sampled ({kinds})"
    if scan.num_confirmed is not None:
        text += f"; {scan.num_confirmed:,} confirmed by a training image"
    return text


def unsettled_text(scan: PromptScan) -> str:
    """How many sampled prompts the sequential rule left open; empty where none."""
    if not scan.num_unsettled:
        return ""
    prompts = "prompt" if scan.num_unsettled == 1 else "prompts"
    return f"{scan.num_unsettled:,} {prompts} when sampling stopped"


def finding_text(finding: PromptFinding) -> str:
    """``"verbatim, clique 10 of 10 images, tiled L2 0.041, train#00003 at 0.05"``."""
    parts = [escape(finding.kind) or "not memorised"]
    if finding.kind == "template":
        parts.append(f"stillest quarter varies {fixed_text(finding)} as much")
        parts.append(f"{finding.num_images} images")
    else:
        parts.append(f"clique {finding.clique_size} of {finding.num_images} images")
    if finding.clique_distance is not None and finding.kind != "template":
        parts.append(f"tiled L2 {finding.clique_distance:.3f}")
    parts += [near_text(finding)] if finding.train_id is not None else []
    if finding.route not in ("escalated", "canary"):
        parts.append("from the audit" if finding.route == "audit" else escape(finding.route))
    if not finding.settled:
        parts.append("undecided")
    return ", ".join(parts)


def fixed_text(finding: PromptFinding) -> str:
    """Variance over seeds of the quarter that varies least, as a share of the whole image's."""
    share = finding.fixed_share
    return "not measured" if share is None else percent(share)


def near_text(finding: PromptFinding | KeyFinding) -> str:
    """``"train#00003 at 0.05"``; empty where no training image is known."""
    if finding.train_id is None:
        return ""
    distance = finding.train_distance
    return train_name(finding.train_id) + ("" if distance is None else f" at {distance:.2f}")


def variance(value: float) -> str:
    """Three significant digits, however small.

    Example:
        >>> [variance(value) for value in (0.0, 0.01234, 0.000012345, 1.5)]
        ['0', '0.0123', '1.23e-05', '1.5']
    """
    return f"{value:.3g}"


def direction(detector: DetectorResult) -> str:
    """Which scores are those of memorised prompts."""
    return "higher is memorised" if detector.higher_is_memorised else "lower is memorised"


def decision_text(detector: DetectorResult) -> str:
    """``"37 above 1.24"``: prompts on the memorised side of the threshold."""
    if detector.not_applicable:
        return f"not applicable: {escape(detector.not_applicable, limit=400)}"
    if detector.threshold is None:
        return "no threshold"
    side = "above" if detector.higher_is_memorised else "below"
    return f"{detector.num_above:,} {side} {variance(detector.threshold)}"


def detector_text(detector: DetectorResult) -> str:
    """One line: calls, direction, and how many prompts are suspicious; or why there is none."""
    decision = decision_text(detector)
    if detector.not_applicable:
        return f"{escape(detector.name)}: {decision}"
    notes = [] if detector.threshold is None else [f"{detector.num_negatives:,} negatives"]
    notes += [] if detector.decides else ["for information"]
    calls = f"{detector.calls_per_prompt:,} calls a prompt, {direction(detector)}"
    return f"{escape(detector.name)}: {calls}, {decision}" + (
        f" ({', '.join(notes)})" if notes else ""
    )


def lone_screenings(result: RunResult) -> list[Screening]:
    """Those whose detectors no scan of prompts has: its own screening counts the audit too."""
    scans = [check.prompt_scan for check in result.checks if check.prompt_scan is not None]
    shown = [scan.screening.detectors for scan in scans]
    screenings = [check.screening for check in result.checks if check.screening is not None]
    return [each for each in screenings if each.detectors not in shown]


def screening_text(screening: Screening) -> str:
    """Prompts screened, escalated, audited and missed; the bounds are of the miss rate."""
    text = (
        f"{screening.num_screened:,} prompts screened, {screening.num_suspicious:,} suspicious, "
        f"{screening.num_escalated:,} escalated"
    )
    if not screening.num_audited:
        return f"{text}, none of the others audited: how many were missed is not known"
    missed = screening.miss_rate
    return (
        f"{text}, {screening.num_audited:,} of the others audited, {screening.num_missed:,} of "
        f"these memorised: miss rate {percent(missed.value)} "
        f"[{percent(missed.lower)}, {percent(missed.upper)}]"
    )


def calls_text(calls: CallCount) -> str:
    """Denoiser calls spent, on what, and what the fixed protocol would have spent."""
    text = (
        f"{calls.spent:,} spent (negatives {calls.negatives:,}, screening {calls.screening:,}, "
        f"sampling {calls.sampling:,}); the fixed protocol would have spent "
        f"{calls.fixed_protocol:,}"
    )
    return text + (f" ({times_text(calls)})" if calls.spent else "")


def times_text(calls: CallCount) -> str:
    """``"121 times as many"``."""
    return f"{quantity(calls.fixed_protocol / calls.spent)} times as many" if calls.spent else ""


def prompts_text(prompts: PromptCoverage) -> str:
    """Prompts found, used and lost, and the share of them that the budget reaches."""
    text = f"{prompts.num_found:,} found in {escape(prompts.origin)}, {prompts.num_used:,} used"
    if prompts.dropped:
        text += f"; dropped {reason_counts(prompts.dropped.items())}"
    if prompts.unusable:
        reasons = "; ".join(unusable_text(*each) for each in sorted(prompts.unusable.items()))
        text += f"; unusable {sum(map(len, prompts.unusable.values()))} ({reasons})"
    if prompts.num_truncated:
        text += f"; {prompts.num_truncated:,} cut to what the tokenizer reads"
    return f"{text}; {planned_text(prompts)}"


def unusable_text(why: str, places: Sequence[str]) -> str:
    """``"wrong encoding 2: line 17, line 40"``."""
    listed = unusable_places(places)
    return f"{escape(why)} {len(places)}" + (f": {listed}" if listed else "")


def unusable_places(places: Sequence[str]) -> str:
    """``"line 17, line 40, ..."``: the first few; empty where only files could be named."""
    shown = [place for place in map(place_text, places) if place][:NUM_PLACES]
    return ", ".join(shown) + (", ..." if shown and len(places) > len(shown) else "")


def planned_text(prompts: PromptCoverage) -> str:
    """Which of the usable prompts were scanned."""
    if prompts.num_planned >= prompts.num_used:
        return "all of them scanned"
    share = percent(prompts.num_planned / prompts.num_used)
    return f"{prompts.num_planned:,} of them scanned ({share}), the budget reaches no further"


def power_text(rule: PromptRule) -> str:
    """What the sequential rule promises."""
    return (
        f"a prompt that gives one image in at least {100 * rule.copy_rate:g} % of its generations "
        f"is called clean with a probability of at most {100 * rule.miss_probability:g} %"
    )
