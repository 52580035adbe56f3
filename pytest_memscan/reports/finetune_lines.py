"""What the terminal shows of fine-tunes and what was extracted from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pytest_memscan.reports.columns import aligned
from pytest_memscan.reports.estimates import bounds_heading, bounds_text
from pytest_memscan.reports.finetune_text import (
    NO_TRAINING_IMAGES,
    NOT_PROVEN,
    average_text,
    candidate_text,
    candidates,
    captions_text,
    concept_text,
    copied_text,
    count_of,
    differs_text,
    groups_text,
    match_text,
    method_labels,
    num_elsewhere,
    num_train_images,
    pair_text,
    planned_text,
    scores_text,
    shown_position,
    shown_text,
    similarity_bounds,
    similarity_text,
)
from pytest_memscan.reports.prompt_text import prompts_text
from pytest_memscan.reports.text import (
    controls_text,
    coverage_text,
    escape,
    percent,
    score,
    train_name,
    wrap,
)
from pytest_memscan.results import ConceptScan, Estimate, FinetuneScan, MethodScores, RunResult

NUM_CONCEPTS = 12  # named without -v
NUM_COPIES = 5  # training images named without -v
MAX_LISTED = 60  # rows of one list with -v
NUM_CANDIDATES = 5  # listed without -v, where there is nothing to compare with


def finetune_lines(result: RunResult, *, verbosity: int, width: int) -> list[str]:
    """Every scan of fine-tunes; no lines where there is none.

    Args:
        result: What was measured.
        verbosity: pytest's; above 0 every image and every rule is shown.
        width: Columns that sentences are wrapped to.
    """
    lines: list[str] = []
    for check in result.checks:
        if check.finetunes is not None:
            lines += _scan_lines(check.finetunes, everything=verbosity > 0, width=width)
    return lines


def other_estimates(scan: FinetuneScan) -> dict[str, Estimate]:
    """The metrics that stand in no table of methods, by name."""
    methods = scan.average or (scan.concepts[0].methods if scan.concepts else ())
    tabled = [estimate for each in methods for estimate in (*_extracted(each), *_best(each))]
    return {name: each for name, each in scan.metrics.items() if each not in tabled}


def _scan_lines(scan: FinetuneScan, *, everything: bool, width: int) -> list[str]:
    concepts, lines = scan.concepts, []
    if len(concepts) == 1:
        lines += _concept_lines(scan, concepts[0], everything=everything, width=width)
    else:
        what = "average over concepts: " if scan.average else "concepts: "
        lines += wrap(what, average_text(scan), width)
        lines += _table(scan, scan.average, num_train_images(scan), everything=everything)
        lines += _each(scan, everything=everything, width=width)
    for note in scan.notes:
        lines += wrap("note: ", note, width)
    return [*lines, f"denoiser calls: {scan.denoiser_calls:,}"]


def _each(scan: FinetuneScan, *, everything: bool, width: int) -> list[str]:
    """The concepts of a set: in a line or two, or with all that was found."""
    lines: list[str] = []
    if everything:
        for concept in scan.concepts:
            first, *others = _concept_lines(scan, concept, everything=True, width=width - 2)
            lines += [first, *(f"  {line}" for line in others)]
        return lines
    for concept in scan.concepts[:NUM_CONCEPTS]:
        lines += wrap("", concept_text(concept), width, indent="  ")
        lines += _doubts(concept, width, indent="    ")
    if len(scan.concepts) > NUM_CONCEPTS:
        lines.append(f"  and {len(scan.concepts) - NUM_CONCEPTS:,} more")
    return [*lines, "-v shows what was found in each of them"]


def _concept_lines(
    scan: FinetuneScan, concept: ConceptScan, *, everything: bool, width: int
) -> list[str]:
    lines = wrap("fine-tune: ", pair_text(concept), width)
    lines += wrap("differs: ", differs_text(concept.fit), width) if everything else []
    lines += _doubts(concept, width)
    lines += wrap("captions: ", captions_text(concept), width)
    lines += _table(scan, concept.methods, concept.num_train, everything=everything)
    lines += _method_lines(concept, width) if everything else []
    lines += _found_lines(concept, everything=everything, width=width)
    lines += wrap("well-supported groups: ", groups_text(concept.clustering), width)
    images = f"{planned_text(concept)}; {coverage_text(concept.images)}"
    lines += wrap("images: ", images, width)
    if concept.prompts is not None:
        lines += wrap("list of captions: ", prompts_text(concept.prompts), width)
    if concept.controls:
        lines += wrap("controls: ", controls_text(concept.controls), width)
    lines += wrap("power: ", shown_text(concept), width)
    if not concept.methods:
        lines += wrap("", NO_TRAINING_IMAGES, width)
    if everything:
        lines += wrap("rule: ", concept.clustering.sentence, width)
        lines += wrap("copies: ", concept.cut_sentence, width) if concept.cut_sentence else []
    return lines


def _doubts(concept: ConceptScan, width: int, *, indent: str = "") -> list[str]:
    """What a reader must not miss, however short the summary is."""
    lines: list[str] = []
    if concept.fit.warning:
        lines += wrap("WARNING: ", concept.fit.warning, width, indent=indent)
    if concept.stopped:
        lines += wrap("stopped early: ", concept.stopped, width, indent=indent)
    if not concept.clustering.is_proven:
        lines += wrap("not proven: ", NOT_PROVEN, width, indent=indent)
    missed = [each for each in concept.controls if not each.passed]
    if indent and missed:
        lines += wrap("controls: ", controls_text(missed), width, indent=indent)
    return lines


def _table(
    scan: FinetuneScan,
    methods: Sequence[MethodScores],
    num_train: int | None,
    *,
    everything: bool,
) -> list[str]:
    """Methods by their extracted sets; for the best setting, or for each, what all images reach."""
    if not methods:
        return []
    rows = []
    for position, (label, each) in enumerate(zip(method_labels(methods), methods, strict=True)):
        rows.append((label, *_extracted(each), each.num_copied_extracted))
        if everything or position == shown_position(methods):
            best = f"best of {each.num_images:,}"
            rows.append((f"  {best}" if everything else best, *_best(each), each.num_copied))
    names, similarities, strict, loose, copied = zip(*rows, strict=True)
    heading = bounds_heading([*similarities, *strict, *loose])
    columns = [
        ("method", *names),
        ("AS", *_measured(similarities, similarity_text, similarity_bounds)),
        ("A-ESR 0.7", *_measured(strict, _share, bounds_text)),
        ("A-ESR 0.6", *_measured(loose, _share, bounds_text)),
        ("copied", *(count_of(each, num_train) for each in copied)),
    ]
    caption = f"extracted sets by {escape(scan.measure.name)}, with {heading}:"
    return [caption, *(f"  {line}" for line in aligned(list(zip(*columns, strict=True))))]


def _extracted(scores: MethodScores) -> tuple[Estimate, Estimate, Estimate]:
    return scores.average_similarity, scores.esr_strict, scores.esr_loose


def _best(scores: MethodScores) -> tuple[Estimate, Estimate, Estimate]:
    return scores.best_similarity, scores.best_esr_strict, scores.best_esr_loose


def _share(estimate: Estimate) -> str:
    return percent(estimate.value)


def _measured(
    estimates: Sequence[Estimate],
    value: Callable[[Estimate], str],
    bounds: Callable[[Estimate], str],
) -> list[str]:
    """Values that end below each other, then their bounds."""
    width = max(len(value(each)) for each in estimates)
    return [f"{value(each).rjust(width)} {bounds(each)}" for each in estimates]


def _method_lines(concept: ConceptScan, width: int) -> list[str]:
    lines: list[str] = []
    for label, each in zip(method_labels(concept.methods), concept.methods, strict=True):
        lines += wrap(f"{label}: ", scores_text(each), width, indent="  ")
    return lines


def _found_lines(concept: ConceptScan, *, everything: bool, width: int) -> list[str]:
    if not concept.methods:
        return _candidate_lines(concept, everything=everything, width=width)
    # The cut says what "copied" means; its reason is for those who ask for more.
    cut = "" if concept.cut is None else f" (similarity above {score(concept.cut)})"
    closest = sorted(concept.matches, key=lambda each: -each.best_similarity)
    copies = [train_name(each.train_id) for each in closest if each.is_copied]
    names = "" if everything or not copies else f": {', '.join(copies[:NUM_COPIES])}"
    names += ", ..." if names and len(copies) > NUM_COPIES else ""
    elsewhere = num_elsewhere(concept)
    others = f"; {elsewhere:,} by other methods only" if elsewhere else ""
    lines = wrap("copied: ", copied_text(concept) + cut + names + others, width)
    if everything:
        lines += _listed([candidate_text(each) for each in candidates(concept)], width)
        lines += _listed([match_text(each) for each in concept.matches], width)
    return lines


def _candidate_lines(concept: ConceptScan, *, everything: bool, width: int) -> list[str]:
    """What was extracted where there is nothing to compare with."""
    found = candidates(concept)
    lines = wrap("extracted: ", copied_text(concept), width)
    if everything:
        return lines + _listed([candidate_text(each) for each in found], width)
    evident = [each for each in found if each.extracted and each.extracted.is_candidate]
    shown = [candidate_text(each) for each in evident[:NUM_CANDIDATES]]
    num_more = len(evident) - len(shown)
    lines += _listed(shown, width)
    return [*lines, f"  and {num_more:,} more"] if shown and num_more > 0 else lines


def _listed(texts: Sequence[str], width: int) -> list[str]:
    lines = [line for each in texts[:MAX_LISTED] for line in wrap("", each, width, indent="  ")]
    num_more = len(texts) - MAX_LISTED
    return [*lines, f"  and {num_more:,} more"] if num_more > 0 else lines
