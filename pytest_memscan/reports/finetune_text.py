"""The words that reports share about a fine-tune, its base, and what was extracted from it.

A caption is as private as the image it describes: reports say what kind of captions there were
and where they came from, never what they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_memscan.reports.estimates import is_exact
from pytest_memscan.reports.text import (
    escape,
    generated_name,
    percent,
    score,
    train_name,
)
from pytest_memscan.results import (
    Clustering,
    ConceptScan,
    Estimate,
    ExtractedImage,
    FinetuneScan,
    Fit,
    MethodScores,
    TrainMatch,
)

NO_TRAINING_IMAGES = (
    "There were no training images to compare with, so no share of them is known. A candidate is "
    "what the fine-tune makes again and again; whether it is a training image can be seen by "
    "those who know these (--memscan-train-data)."
)
NOT_PROVEN = (
    "a search for the largest group ended at its limit of steps, so there may be larger groups "
    "than those found"
)
_METHODS = {"direct": "direct", "cfg": "CFG", "finextract": "FineXtract"}
_KINDS = {"full": "full fine-tune", "lora": "LoRA", "single file": "full fine-tune in one file"}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A generated image to look at: an extracted one, or a copy that clustering passed over."""

    sample_id: int
    train_id: int | None  # nearest training image
    similarity: float | None  # of the two
    is_copy: bool
    extracted: ExtractedImage | None  # None where clustering passed it over


def candidates(concept: ConceptScan) -> tuple[Candidate, ...]:
    """The extracted images, copies first, then copies of further training images."""
    extracted = [
        Candidate(
            sample_id=each.sample_id,
            train_id=each.train_id,
            similarity=each.similarity,
            is_copy=each.is_copy,
            extracted=each,
        )
        for each in sorted(concept.extracted, key=lambda each: not each.is_copy)
    ]
    passed_over = [
        Candidate(
            sample_id=each.best_sample_id,
            train_id=each.train_id,
            similarity=each.best_similarity,
            is_copy=True,
            extracted=None,
        )
        for each in sorted(concept.matches, key=lambda each: -each.best_similarity)
        if each.is_copied and not _is_extracted(each, concept)
    ]
    num_copies = sum(each.is_copy for each in extracted)
    return (*extracted[:num_copies], *passed_over, *extracted[num_copies:])


def _is_extracted(match: TrainMatch, concept: ConceptScan) -> bool:
    """Whether an extracted image copies this training image too."""
    similarity = match.extracted_similarity
    return similarity is not None and concept.cut is not None and similarity > concept.cut


def method_labels(methods: Sequence[MethodScores]) -> list[str]:
    """``["direct", "CFG", "FineXtract"]``, with settings where one method has several."""
    names = [_METHODS.get(each.method, escape(each.method)) for each in methods]
    count = Counter(names)
    return [
        f"{name} ({escape(each.settings)})" if count[name] > 1 else name
        for name, each in zip(names, methods, strict=True)
    ]


def shown_position(methods: Sequence[MethodScores]) -> int:
    """Of the settings of model guidance, which come last, the one that extracts most.

    It is the one whose extracted images and groups a result has.
    """
    attack = [index for index, each in enumerate(methods) if each.method == methods[-1].method]
    return max(attack, key=lambda index: methods[index].rank)


def shown_label(concept: ConceptScan) -> str:
    """``"FineXtract"``; with its settings where there were several."""
    if not concept.methods:
        return _METHODS["finextract"]
    return method_labels(concept.methods)[shown_position(concept.methods)]


def kind_text(fit: Fit) -> str:
    """``"LoRA (diffusers layout, rank 8)"``."""
    kind = _KINDS.get(fit.kind, escape(fit.kind))
    return f"{kind} ({escape(fit.adapter)})" if fit.adapter else kind


def differs_text(fit: Fit) -> str:
    """Which parts differ from the base, and how far the denoisers are apart."""
    parts = ", ".join(map(escape, fit.parts)) or "none"
    return f"{parts}; the denoiser by {percent(fit.distance)} of the norm of its weights"


def pair_text(concept: ConceptScan) -> str:
    """``"acme/vask, LoRA (diffusers layout, rank 8) of acme/base (known from --memscan-base)"``."""
    fit = concept.fit
    return (
        f"{escape(concept.name)}, {kind_text(fit)} of {escape(fit.base)} "
        f"(known from {escape(fit.base_origin)})"
    )


def captions_text(concept: ConceptScan) -> str:
    """``"instance prompt (guessed from README.md), this may not be ..."``."""
    origin = f" ({escape(concept.captions_origin)})" if concept.captions_origin else ""
    note = f", {escape(concept.captions_note)}" if concept.captions_note else ""
    return escape(concept.captions) + origin + note


def similarity_text(estimate: Estimate) -> str:
    """AS: a mean of similarities, which is no share of anything.

    Example:
        >>> similarity_text(Estimate(value=0.4491, lower=0.41, upper=0.49))
        '0.449'
    """
    return f"{estimate.value:.3f}"


def similarity_bounds(estimate: Estimate) -> str:
    """``"[0.412, 0.486]"``, or ``"exact"``."""
    return "exact" if is_exact(estimate) else f"[{estimate.lower:.3f}, {estimate.upper:.3f}]"


def average_text(scan: FinetuneScan) -> str:
    """``"3 fine-tunes, 25 training images"``."""
    num_train = num_train_images(scan)
    images = "" if num_train is None else f", {num_train:,} training images"
    return f"{len(scan.concepts):,} fine-tunes{images}"


def num_train_images(scan: FinetuneScan) -> int | None:
    """Of all fine-tunes; None where those of one are unknown."""
    known = [each.num_train for each in scan.concepts if each.num_train is not None]
    return sum(known) if len(known) == len(scan.concepts) else None


def count_of(count: int, total: int | None) -> str:
    """``"4 of 10"``, or ``"4"`` where the whole is not known."""
    return f"{count:,}" if total is None else f"{count:,} of {total:,}"


def copied_text(concept: ConceptScan) -> str:
    """Training images that were copied; without any to compare with, the candidates."""
    if concept.num_copied is None:
        number = concept.num_candidates or 0
        what = "candidate" if number == 1 else "candidates"
        return f"{number:,} well-supported {what} (similarity within above {score(concept.cut)})"
    if not concept.num_copied:
        return f"{count_of(0, concept.num_train)} training images"
    extracted = concept.methods[shown_position(concept.methods)].num_copied_extracted
    return (
        f"{count_of(concept.num_copied, concept.num_train)} training images, {extracted:,} of "
        f"them in the extracted set of {shown_label(concept)}"
    )


def num_elsewhere(concept: ConceptScan) -> int:
    """Training images that were copied, but by none of the images that the result lists."""
    return max(0, (concept.num_copied or 0) - sum(each.is_copied for each in concept.matches))


def concept_text(concept: ConceptScan) -> str:
    """``"acme/vask, LoRA: copied 4 of 10 training images, 3 of them extracted, AS 0.449"``."""
    head = f"{escape(concept.name)}, {_KINDS.get(concept.fit.kind, escape(concept.fit.kind))}: "
    if not concept.methods:
        return head + copied_text(concept)
    scores = concept.methods[shown_position(concept.methods)]
    extracted = f", {scores.num_copied_extracted:,} of them extracted" if scores.num_copied else ""
    return (
        f"{head}copied {count_of(concept.num_copied or 0, concept.num_train)} training images"
        f"{extracted}, AS {similarity_text(scores.average_similarity)}"
    )


def groups_text(clustering: Clustering) -> str:
    """``"6 of 5 or more images for 10 training images, largest 41, joined from similarity 0.62"``.

    Only such groups are evidence.
    """
    wanted = clustering.num_wanted
    return (
        f"{clustering.num_supported:,} of {clustering.minimum_support:,} or more images"
        + (f" for {wanted:,} training images" if wanted is not None else "")
        + f", largest {clustering.largest:,}, joined from similarity {score(clustering.threshold)}"
    )


def support_text(image: ExtractedImage) -> str:
    """``"41 images, mean similarity 0.93"``: the clique behind an extracted image."""
    if image.mean_similarity is None:
        return "a single image"
    few = "" if image.is_supported else ", too few to be evidence"
    return f"{image.support:,} images, mean similarity {image.mean_similarity:.2f}{few}"


def evidence_text(image: ExtractedImage) -> str:
    """What an image is without training images to compare it with."""
    if image.is_candidate:
        return "candidate"
    return "not alike enough" if image.is_supported else "too few images"


def candidate_text(candidate: Candidate) -> str:
    """``"train#00003 <- generated#00017  similarity 0.87 (copy), 41 images, ..."``."""
    name = generated_name(candidate.sample_id)
    support = "not extracted"
    if candidate.extracted is not None:
        support = support_text(candidate.extracted)
    if candidate.train_id is None or candidate.similarity is None:
        return f"{name}  {support}"
    copy = "copy" if candidate.is_copy else "no copy"
    return (
        f"{train_name(candidate.train_id)} <- {name}  similarity {candidate.similarity:.2f} "
        f"({copy}), {support}"
    )


def match_text(match: TrainMatch) -> str:
    """``"train#00003  best 0.87 (generated#00017), extracted 0.85, copied"``."""
    extracted = match.extracted_similarity
    return (
        f"{train_name(match.train_id)}  best {match.best_similarity:.2f} "
        f"({generated_name(match.best_sample_id)}), extracted "
        f"{'none' if extracted is None else f'{extracted:.2f}'}, "
        f"{'copied' if match.is_copied else 'not copied'}"
    )


def planned_text(concept: ConceptScan) -> str:
    """``"300 of 500 planned for each method"``."""
    return f"{concept.num_images:,} of {concept.num_planned:,} planned for each method"


def shown_text(concept: ConceptScan) -> str:
    """What the scan would have found."""
    return (
        f"an image that is at least {percent(concept.shown_rate)} of what is made would have come "
        "up (95 % confidence)"
    )


def scores_text(scores: MethodScores) -> str:
    """``"w' 3, k -0.02; 500 images, 10 extracted; 50,000 denoiser calls"``."""
    settings = f"{escape(scores.settings)}; " if scores.settings else ""
    return (
        f"{settings}{scores.num_images:,} images, {scores.num_extracted:,} extracted; "
        f"{scores.denoiser_calls:,} denoiser calls"
    )


def whole(words: str) -> str:
    """A clause as a sentence of its own.

    Example:
        >>> whole("none is copied")
        'None is copied.'
    """
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")
