"""The snippet for a model card is read by the Hub's own library, and never flatters a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from unit.reports import finetune_samples, kinds, prompt_samples, samples, side_scans

from pytest_memscan.reports.model_card import to_model_card
from pytest_memscan.results import RunResult, Verdict

CARD = "---\nlicense: mit\n{snippet}---\n# A model\n\nWords.\n"


def read(text: str) -> tuple[str, list[EvalResult]]:
    """What huggingface_hub finds in a card into which the snippet was copied."""
    card = ModelCard(CARD.format(snippet=text))
    assert card.data.model_name is not None
    assert card.data.eval_results is not None
    return card.data.model_name, card.data.eval_results


def is_only_comments(text: str) -> bool:
    return all(line.startswith("# ") for line in text.splitlines())


def test_every_measured_line_of_the_policy_comes_back_with_its_bounds() -> None:
    name, (extracted, rate) = read(to_model_card(kinds.whole()))
    assert name == "builtin:leaky"
    assert extracted.task_type == "unconditional-image-generation"
    assert extracted.dataset_type == "training images"
    assert extracted.dataset_name == f"training images {kinds.FINGERPRINT}"
    assert extracted.metric_type == "extracted"
    assert extracted.metric_value == 132
    assert isinstance(extracted.metric_value, int)
    assert extracted.metric_args == {
        "check": "carlini",
        "lower": 132,
        "upper": 132,
        "limit": "extracted <= 0",
        "verdict": "fail",
        "num_waived": 1,
        "verdict_of_run": "fail",
        "checkpoint": "builtin:leaky",
        "pytest_memscan": "0.1.0",
    }
    assert rate.metric_type == "leak_rate"
    assert rate.metric_value == 0.8
    assert (rate.metric_args or {})["lower"] == 0.76
    assert (rate.metric_args or {})["confidence"] == 0.95


def test_the_name_that_the_hub_shows_says_how_it_ended() -> None:
    for result, word in ((samples.failed(), "FAIL"), (samples.passed(), "PASS")):
        _, found = read(to_model_card(result))
        assert [each.metric_name for each in found] == [
            f"extracted <= 0 required: {word} (pytest-memscan)",
            f"leak_rate <= 0.01 required: {word} (pytest-memscan)",
        ]


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.ERROR, Verdict.NOT_RUN])
@pytest.mark.parametrize("kind", kinds.each_kind())
def test_a_run_without_a_decision_gives_nothing_to_copy(kind: str, verdict: Verdict) -> None:
    text = to_model_card(kinds.ended(kinds.each_kind()[kind], verdict))
    assert is_only_comments(text)
    assert yaml.safe_load(text) is None
    assert "neither a pass nor a fail" in text
    assert text.startswith(f"# pytest-memscan: {verdict.value.upper().replace('_', ' ')} ")


def test_a_pass_that_measured_nothing_gives_nothing_to_copy() -> None:
    text = to_model_card(prompt_samples.screened())
    assert is_only_comments(text)
    assert "No line of the policy was measured" in text


@pytest.mark.parametrize(
    ("result", "task", "kind"),
    [
        (samples.passed(), "unconditional-image-generation", "training images"),
        (side_scans.clean(), "unconditional-image-generation", "training images"),
        (finetune_samples.clean(), "text-to-image", "training images"),
        (prompt_samples.leaky(), "text-to-image", "prompt list"),
    ],
    ids=["carlini", "side", "finetune", "prompts"],
)
def test_the_task_is_the_hubs(result: RunResult, task: str, kind: str) -> None:
    _, found = read(to_model_card(result))
    assert {(each.task_type, each.dataset_type) for each in found} == {(task, kind)}


def test_the_model_is_named_without_its_commit() -> None:
    result = replace(samples.passed(), checkpoint="acme/sd@3f9c2a1")
    name, (first, _) = read(to_model_card(result))
    assert name == "acme/sd"
    assert (first.metric_args or {})["checkpoint"] == "acme/sd@3f9c2a1"


def test_a_waiver_is_not_hidden() -> None:
    assert "# Some findings were waived" in to_model_card(kinds.whole())
    assert "extracted <= 0 required: FAIL, 1 waived (pytest-memscan)" in to_model_card(
        kinds.whole()
    )
    assert "waived" not in to_model_card(samples.failed())


@pytest.mark.parametrize(
    "result", kinds.every_sample(), ids=lambda r: f"{r.verdict}-{r.checkpoint}"
)
def test_hostile_names_stay_strings(result: RunResult) -> None:
    text = "!!python/object:os.system {a: b} \n---\nlicense: other\n# \u2028'\" \U0001f600 \ud800"
    hostile = kinds.poisoned(result, text)
    written = to_model_card(hostile)
    comments = [line for line in written.splitlines() if line.startswith("#")]
    assert len(comments) < 20
    loaded: dict[str, Any] | None = yaml.safe_load(written)
    assert loaded is None or set(loaded) == {"model-index"}
    if loaded is not None:
        model_index_to_eval_results(loaded["model-index"])


def test_equal_runs_give_equal_bytes_whatever_time_they_took() -> None:
    slow = replace(samples.failed(), timings={"generate": 9999.0})
    assert to_model_card(slow) == to_model_card(samples.failed())


def test_it_can_be_added_to_a_card_and_saved(tmp_path: Path) -> None:
    card = ModelCard(CARD.format(snippet=to_model_card(kinds.whole())))
    card.save(tmp_path / "README.md")
    again = ModelCard.load(tmp_path / "README.md")
    assert again.data.eval_results == card.data.eval_results
    assert again.data.license == "mit"
