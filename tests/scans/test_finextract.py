"""FineXtract on the fine-tunes that ship with memscan, whose training images are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# pytester forgets modules that a run inside this process imported; torch cannot be imported twice.
import diffusers
import peft
import pydantic
import pytest
import scipy.sparse.csgraph
import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

PRELOADED = (diffusers, peft, pydantic, scipy, torch, transformers)
PRELOADED_PARTS = (
    *(AutoencoderKL, DDIMScheduler, UNet2DConditionModel),
    *(CLIPTextModel, CLIPTokenizer),
)
# Six images for each training image, of 15 steps; w' 2 suits so small a model (docs/finextract.md).
SETTINGS = ("--memscan-budget=60img", "--memscan-steps=15", "--memscan-model-guidance=2")


def scan(pytester: pytest.Pytester, cache: Path, name: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the check of the verdict file, and the output."""
    result = pytester.runpytest_inprocess(
        "--memscan",
        f"builtin:{name}",
        "--memscan-base=builtin:clean-t2i",
        "--memscan-device=cpu",
        f"--memscan-cache-dir={cache}",
        *SETTINGS,
    )
    report = json.loads((pytester.path / ".memscan/report.json").read_text())
    (check,) = (each for each in report["checks"] if each["name"] == "finextract")
    return int(result.ret), check, result.stdout.str()


def values_of(check: dict[str, Any], name: str) -> dict[str, float]:
    """A score of each method."""
    (concept,) = check["finetunes"]["concepts"]
    return {each["method"]: each[name]["value"] for each in concept["methods"]}


@pytest.mark.parametrize(
    ("name", "kind", "parts"),
    [
        ("leaky-t2i-full", "full", ["unet"]),
        ("leaky-t2i-lora", "lora", ["text_encoder", "unet"]),
    ],
)
def test_a_fine_tune_gives_its_pictures_away(
    pytester: pytest.Pytester, tmp_path: Path, name: str, kind: str, parts: list[str]
) -> None:
    code, check, output = scan(pytester, tmp_path, name)
    assert code == pytest.ExitCode.TESTS_FAILED
    assert check["verdict"] == "fail"
    (concept,) = check["finetunes"]["concepts"]
    assert (concept["fit"]["kind"], sorted(concept["fit"]["parts"])) == (kind, parts)
    assert concept["fit"]["warning"] == ""
    similarity = values_of(check, "average_similarity")
    assert similarity["finextract"] > max(similarity["direct"], similarity["cfg"])
    strict = values_of(check, "esr_strict")
    assert strict["finextract"] >= max(strict["direct"], strict["cfg"])
    metrics = {key: each["value"] for key, each in check["finetunes"]["metrics"].items()}
    assert metrics["esr_strict"] == strict["finextract"] > 0.5
    assert metrics["copied_images"] >= metrics["extracted_images"] >= 1
    copies = [each for each in concept["extracted"] if each["is_copy"]]
    assert len({each["train_id"] for each in copies}) == metrics["extracted_images"]
    for each in copies:
        assert f"train#{each['train_id']:05d}" in output
        assert concept["cut"] < each["similarity"] <= 1
    # Altered pictures are recognised; the base, which never saw them, makes none.
    for control in concept["controls"]:
        assert control["minimum_found"] <= control["num_found"] <= control["maximum_found"]
    (of_base,) = (each for each in concept["controls"] if each["name"] == "base")
    assert (of_base["num_images"], of_base["num_found"]) == (60, 0)
    calls = {each["method"]: each["denoiser_calls"] for each in concept["methods"]}
    assert calls == {"direct": 60 * 15, "cfg": 60 * 15 * 2, "finextract": 60 * 15 * 2}
