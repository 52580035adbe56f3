"""What the templates may call, and what becomes of every string that they print."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from markupsafe import Markup
from markupsafe import escape as escape_html

from pytest_memscan.reports import (
    estimates,
    finetune_text,
    key_text,
    overview,
    prompt_text,
    side_label_text,
    side_text,
    splitting_text,
    text,
)
from pytest_memscan.reports.plain_words import plain_words

MAX_TEXT = 4000  # characters of any one string
CONSTANTS = {
    "CONFIRMED": splitting_text.CONFIRMED,
    "IN_REACH": splitting_text.IN_REACH,
    "HOW_TO_WAIVE": overview.HOW_TO_WAIVE,
    "NOTHING_TO_COMPARE": key_text.NOTHING_TO_COMPARE,
    "NOT_PROVEN": finetune_text.NOT_PROVEN,
    "NO_TRAINING_IMAGES": finetune_text.NO_TRAINING_IMAGES,
    "HOW_TO_READ": side_text.HOW_TO_READ,
    "PLAIN_SAMPLING": side_text.PLAIN_SAMPLING,
    "PROBE": prompt_text.PROBE,
    "UNDONE": splitting_text.UNDONE,
}


def all_filters() -> dict[str, Callable[..., Any]]:
    """By the names that the templates use."""
    return (
        _filters()
        | _prompt_filters()
        | _finetune_filters()
        | _splitting_filters()
        | _side_filters()
    )


def harmless(value: object) -> object:
    """What the template prints; markup was made by this package and is left alone."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return text.escape(str(value), limit=MAX_TEXT)
    return value


def _filters() -> dict[str, Callable[..., Any]]:
    return {
        "bounds": lambda estimate: _keep_together(estimates.bounds_text(estimate)),
        "check_name": text.check_name,
        "confirmed_text": estimates.confirmed_text,
        "control_range": text.control_range,
        "duplicates_text": text.duplicates_text,
        "duration": lambda seconds: _keep_together(text.duration(seconds)),
        "generated_name": text.generated_name,
        "number": lambda number: f"{number:,}",
        "plain_words": plain_words,
        "percent": lambda share: _keep_together(text.percent(share)),
        "quantity": text.quantity,
        "score": text.score,
        "sentence": _sentence,
        "shared_bounds": lambda measured: _keep_together(estimates.bounds_heading(measured)),
        "train_name": text.train_name,
        "value": lambda estimate: _keep_together(estimates.value_text(estimate)),
        "verdict_word": text.verdict_word,
    }


def _prompt_filters() -> dict[str, Callable[..., Any]]:
    return {
        "decision": prompt_text.decision_text,
        "direction": prompt_text.direction,
        "fixed": lambda finding: _keep_together(prompt_text.fixed_text(finding)),
        "flagged_text": key_text.flagged_text,
        "memorised_text": prompt_text.memorised_text,
        "near": prompt_text.near_text,
        "opening": lambda words: words[:1].upper() + words[1:],
        "place": prompt_text.place_text,
        "planned_text": prompt_text.planned_text,
        "power_text": lambda rule: _keep_together(prompt_text.power_text(rule)),
        "prompt_name": prompt_text.prompt_name,
        "repeats_text": lambda repeats: _keep_together(key_text.repeats_text(repeats)),
        "shown_text": lambda repeats: _keep_together(key_text.shown_text(repeats)),
        "times": prompt_text.times_text,
        "unsettled_text": prompt_text.unsettled_text,
        "unusable_places": prompt_text.unusable_places,
        "variance": prompt_text.variance,
    }


def _finetune_filters() -> dict[str, Callable[..., Any]]:
    return {
        "average_text": finetune_text.average_text,
        "captions_text": finetune_text.captions_text,
        "concept_text": finetune_text.concept_text,
        "copied_text": finetune_text.copied_text,
        "count_of": finetune_text.count_of,
        "differs_text": lambda fit: _keep_together(finetune_text.differs_text(fit)),
        "kind_text": finetune_text.kind_text,
        "method_labels": finetune_text.method_labels,
        "num_elsewhere": finetune_text.num_elsewhere,
        "num_train_images": finetune_text.num_train_images,
        "finetune_shown_text": lambda each: _keep_together(finetune_text.shown_text(each)),
        "shown_label": finetune_text.shown_label,
        "shown_position": finetune_text.shown_position,
        "evidence_text": finetune_text.evidence_text,
        "similarity": finetune_text.similarity_text,
        "similarity_bounds": finetune_text.similarity_bounds,
        "whole": finetune_text.whole,
    }


def _splitting_filters() -> dict[str, Callable[..., Any]]:
    return {
        "degenerate_text": lambda scan: _keep_together(splitting_text.degenerate_text(scan)),
        "effort_text": splitting_text.effort_text,
        "expected_text": splitting_text.expected_text,
        "found_label": splitting_text.found_label,
        "image_name": splitting_text.image_name,
        "is_steered": splitting_text.is_steered,
        "nothing_text": lambda scan: _keep_together(splitting_text.nothing_text(scan)),
        "odds": lambda share: _keep_together(estimates.odds_text(share)),
        "odds_bounds": lambda rate: _keep_together(estimates.odds_bounds(rate)),
        "one_in": lambda rate: _keep_together(estimates.one_in(rate)),
        "origin_text": splitting_text.origin_text,
        "share": lambda share: _keep_together(estimates.share_text(share)),
        "share_bounds": lambda rate: _keep_together(estimates.share_bounds(rate)),
        "steered_copied_text": splitting_text.copied_text,
        "standing_text": splitting_text.standing_text,
        "tried_text": splitting_text.tried_text,
    }


def _side_filters() -> dict[str, Callable[..., Any]]:
    return {
        "at_level": side_text.level_of,
        "best_images": side_text.best_images,
        "classes_text": side_label_text.classes_text,
        "cohesion_text": side_label_text.cohesion_text,
        "gain_text": side_text.gain_text,
        "guidance_text": side_text.guidance_text,
        "guided_name": side_text.image_name,
        "is_plain": side_text.is_plain,
        "side_details": side_text.details,
        "side_headline": side_text.headline,
        "ratio_bounds": side_text.ratio_bounds,
        "ratio_value": side_text.ratio_value,
        "short_title": side_text.short_title,
        "side_confirmed_text": side_text.confirmed_text,
        "side_origin_text": side_text.origin_text,
        "sizes_text": side_label_text.sizes_text,
        "top_label": lambda share: _keep_together(side_text.top_label(share)),
        "top_shares": side_text.top_shares,
        "variant_label": side_text.variant_label,
    }


def _keep_together(words: str) -> str:
    return words.replace(" %", "\u00a0%")


def _sentence(sentence: str) -> Markup:
    """A message with its line breaks, which the style sheet keeps."""
    lines = text.sentence_lines(sentence, limit=MAX_TEXT)
    return Markup("\n").join(escape_html(line) for line in lines)
