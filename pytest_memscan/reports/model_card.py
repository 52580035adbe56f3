"""What the model card of a checkpoint may say of a scan: a ``model-index`` for the Hub.

Only a run that came to a decision has numbers to publish. Of any other run the file holds nothing
but comments, so that nobody can paste half a scan into a card and have it look like a clean one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_memscan.reports.estimates import is_exact, waived_text
from pytest_memscan.reports.text import check_name, escape, sentence_lines, verdict_word
from pytest_memscan.results import CheckOutcome, Estimate, RunResult, ThresholdOutcome, Verdict

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

DECIDED = (Verdict.PASS, Verdict.FAIL)
TRAINING_IMAGES = "training images"  # keys of provenance, and types of what was compared with
PROMPT_LIST = "prompt list"
NONE = "none"
MAX_ENTRIES = 200
HOW_TO_USE = (
    "Copy what follows into the block between the two --- lines at the top of README.md of the "
    "model, beside what is there already; huggingface_hub's ModelCard reads and writes it.",
    "args of every metric hold its bounds, the limit and the verdict: do not publish one without "
    "the others.",
)
NOTHING_TO_PUBLISH = (
    "This run says nothing about the checkpoint that a model card could state: it is neither a "
    "pass nor a fail. Nothing here belongs into a model card; scan again first."
)
NOT_MEASURED = "No line of the policy was measured in this run, so there is no number to publish."


def to_model_card(result: RunResult) -> str:
    """YAML for the top of a model card: one ``EvalResult`` for each measured line of the policy.

    Comments say what it is and how the run ended. For a run that is neither ``pass`` nor ``fail``
    there are only comments. Times are left out: equal runs give equal bytes.
    """
    head = f"pytest-memscan: {verdict_word(result.verdict)} {escape(result.checkpoint)}"
    comments = [head, *list(sentence_lines(result.sentence))[:6]]
    if result.verdict not in DECIDED:
        return _commented([*comments, NOTHING_TO_PUBLISH])
    entries = list(_entries(result))
    if not entries:
        return _commented([*comments, NOT_MEASURED])
    if any(waiver.state == "used" for waiver in result.waivers):
        comments.append("Some findings were waived: num_waived says how many, metric by metric.")
    return _commented([*comments, *HOW_TO_USE]) + _yaml(result, entries)


def _commented(lines: list[str]) -> str:
    return "".join(f"# {line}\n" for line in lines)


def _yaml(result: RunResult, entries: list[EvalResult]) -> str:
    from huggingface_hub import CardData
    from huggingface_hub.repocard_data import eval_results_to_model_index

    # ModelCardData would do, too, and add the default of every other field it knows.
    card = CardData()
    card["model-index"] = eval_results_to_model_index(_model_name(result), entries)
    return card.to_yaml(line_break="\n") + "\n"


def _model_name(result: RunResult) -> str:
    """Without the commit, which the card is part of itself."""
    return escape(result.checkpoint.rpartition("@")[0] or result.checkpoint)


def _entries(result: RunResult) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    task = _task(result)
    seen: set[ThresholdOutcome] = set()
    for check in result.checks:
        for outcome in check.thresholds:
            # `status` may repeat what another check measured.
            if outcome.estimate is None or outcome in seen or len(seen) == MAX_ENTRIES:
                continue
            seen.add(outcome)
            kind, fingerprint = _compared_with(check)
            yield EvalResult(
                task_type=task,
                dataset_type=kind,
                dataset_name=f"{kind} {fingerprint}",
                dataset_revision=fingerprint,
                metric_type=escape(outcome.expression.split(maxsplit=1)[0]),
                metric_name=_metric_name(outcome),
                metric_value=_number(outcome.estimate, outcome.estimate.value),
                metric_args=_args(result, check, outcome, outcome.estimate),
            )


def _metric_name(outcome: ThresholdOutcome) -> str:
    """The Hub shows a name and a value and nothing else, so the name says what was required."""
    ended = ", ".join(filter(None, (verdict_word(outcome.verdict), waived_text(outcome))))
    return f"{escape(outcome.expression)} required: {ended} (pytest-memscan)"


def _args(
    result: RunResult, check: CheckOutcome, outcome: ThresholdOutcome, estimate: Estimate
) -> dict[str, Any]:
    waived = {"num_waived": len(outcome.waived)} if outcome.waived else {}
    return {
        "check": escape(check_name(check.name)),
        "lower": _number(estimate, estimate.lower),
        "upper": _number(estimate, estimate.upper),
        **({} if estimate.lower == estimate.upper else {"confidence": estimate.confidence}),
        "limit": escape(outcome.expression),
        "verdict": outcome.verdict.value,
        **waived,
        "verdict_of_run": result.verdict.value,
        "checkpoint": escape(result.checkpoint),
        "pytest_memscan": escape(result.versions.get("pytest-memscan", "unknown")),
    }


def _number(estimate: Estimate, value: float) -> float | int:
    whole = is_exact(estimate) and float(value).is_integer()
    return int(value) if whole else float(value)


def _compared_with(check: CheckOutcome) -> tuple[str, str]:
    """What the metric is about: the kind of list, and its fingerprint, never where it lies."""
    is_about_prompts = check.prompt_scan is not None or check.keys is not None
    key = PROMPT_LIST if is_about_prompts else TRAINING_IMAGES
    return key, escape(check.provenance.get(key, NONE))


def _task(result: RunResult) -> str:
    """As the Hub calls it."""
    return (
        "text-to-image"
        if any(map(_has_prompts, result.checks))
        else "unconditional-image-generation"
    )


def _has_prompts(check: CheckOutcome) -> bool:
    steered = check.splitting is not None and bool(check.splitting.prompts)
    tuned = check.finetunes is not None and any(
        concept.captions != NONE for concept in check.finetunes.concepts
    )
    asked = (check.screening, check.prompt_scan, check.keys)
    return steered or tuned or any(each is not None for each in asked)
