"""A fine-tune and a base that do not go together: one clear line, red, and never a pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

# pytester forgets modules that a run inside this process imported; torch cannot be imported twice.
import peft
import pytest
import torch
from pipeline_factory import save_tiny
from safetensors.torch import load_file, save_file

from .conftest import PRELOADED as PRELOADED_BY_ALL
from .conftest import read_report
from .finetunes import FULL, LORA, QUICK, WEIGHTS, WITH_BASE, lora_with, stranger, write_images
from .t2i import FIXTURES
from .test_bad_input import check, edit_json

PRELOADED = (*PRELOADED_BY_ALL, peft)
FAILED = pytest.ExitCode.TESTS_FAILED
MODEL = "builtin:leaky-t2i-full"
UNET = "unet/diffusion_pytorch_model.safetensors"

Scan = Callable[..., pytest.RunResult]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finetune-options-cache")


@pytest.fixture
def scan(pytester: pytest.Pytester, cache: Path) -> Scan:
    """A run that finds something wrong."""

    def run(model: str | Path, *arguments: str) -> pytest.RunResult:
        command = ("--memscan", str(model), f"--memscan-cache-dir={cache}", *QUICK, *arguments)
        return pytester.runpytest_inprocess(*command)

    return run


@pytest.mark.parametrize(
    ("model", "arguments", "words"),
    [
        (MODEL, ["--memscan-base=./none"], ("--memscan-base './none'", "no such folder or file")),
        (MODEL, ["--memscan-base="], ("--memscan-base: expected a checkpoint",)),
        (MODEL, ["--memscan-base=builtin:leaky-t2i-lora"], ("this is a LoRA", "whole diffusers")),
        (MODEL, ["--memscan-base=builtin:clean"], ("builtin:clean is unconditional",)),
        ("builtin:leaky", [WITH_BASE], ("--memscan: builtin:leaky is unconditional",)),
        (MODEL, ["--memscan-scans=finextract"], ("no base is known", "--memscan-base")),
        (MODEL, [WITH_BASE, "--memscan-model-guidance=0.5"], ("'0.5'", "as in 1.5,3:-0.02")),
        (MODEL, [WITH_BASE, "--memscan-model-guidance=3:k"], ("'3:k'", "k between -1 and 1")),
        (MODEL, [WITH_BASE, "--memscan-model-guidance=2,2"], ("the same setting is there twice",)),
        (MODEL, [WITH_BASE, "--memscan-clustering=kmeans"], ("'kmeans' is not one of plateau",)),
        (MODEL, ["--memscan-model-guidance=2"], ("has no effect", "needs --memscan-base")),
        (MODEL, [WITH_BASE, "--memscan-scans=carlini"], ("--memscan-base has no effect",)),
        (MODEL, [WITH_BASE, "--memscan-canaries=builtin:probe"], ("-canaries has no effect",)),
        (MODEL, [WITH_BASE, "--memscan-guidance-scale=7"], ("-guidance-scale has no effect",)),
        (MODEL, [WITH_BASE, "--memscan-descriptor=pixels"], ("compares descriptors",)),
        (
            MODEL,
            [WITH_BASE, "--memscan-fail=memorised_prompts <= 0"],
            ('"memorised_prompts <= 0" cannot be judged', "write a limit on", "copied_images"),
        ),
        (
            MODEL,
            [WITH_BASE, "--memscan-fail=extraction_candidates <= 0"],
            ('"extraction_candidates <= 0" cannot be judged', "write a limit on"),
        ),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(
    scan: Scan,
    pytester: pytest.Pytester,
    model: str,
    arguments: list[str],
    words: tuple[str, ...],
) -> None:
    check(scan(model, *arguments), pytester.path, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memscan-clustering=finextract_compat"], ("number of training images", "plateau")),
        (["--memscan-fail=copied_images <= 0"], ("cannot be judged", "pass --memscan-train-data")),
    ],
)
def test_what_needs_training_images_says_so(
    scan: Scan,
    pytester: pytest.Pytester,
    tmp_path: Path,
    arguments: list[str],
    words: tuple[str, ...],
) -> None:
    model = stranger(FULL, tmp_path / "model")
    check(scan(model, WITH_BASE, *arguments), pytester.path, *words)


def _truncated(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\x80\x04" + b"x" * 99)


def _nameless(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncated, ("is truncated", "fetch it again")),
        (_pickled, ("is a pickle with another name", "convert it")),
        (_nameless, ("is a LoRA", "which checkpoint it belongs to", "--memscan-base MODEL")),
    ],
)
@pytest.mark.parametrize("is_file", [False, True], ids=["folder", "file"])
def test_a_lora_that_cannot_be_used_is_a_usage_error(
    scan: Scan,
    pytester: pytest.Pytester,
    tmp_path: Path,
    damage: Callable[[Path], None],
    words: tuple[str, ...],
    is_file: bool,
) -> None:
    folder = stranger(LORA, tmp_path / "client" / "lora")
    damage(folder)
    result = scan(folder / WEIGHTS if is_file else folder)
    check(result, pytester.path, "--memscan ", *words)
    assert "client" not in result.stderr.str()


def _renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key.replace("blocks", "stages"): value for key, value in tensors.items()}


def _untrained(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: torch.zeros_like(value) for key, value in tensors.items()}


def _diverged(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: torch.full_like(value, torch.nan) for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_renamed, ("does not fit the StableDiffusionPipeline", "match no layer")),
        (_untrained, ("changes nothing", "save the adapter after training")),
        (_diverged, ("non-finite", "its training diverged")),
    ],
)
def test_a_lora_that_does_nothing_to_its_base_is_an_error(
    scan: Scan,
    pytester: pytest.Pytester,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    words: tuple[str, ...],
) -> None:
    result = scan(lora_with(tmp_path / "lora", change))
    check(result, pytester.path, *words, code=FAILED)


@pytest.mark.parametrize("model", [MODEL, "builtin:leaky-t2i-lora"])
def test_a_base_of_another_architecture_is_an_error(
    scan: Scan, pytester: pytest.Pytester, tmp_path: Path, model: str
) -> None:
    save_tiny("sdxl", tmp_path / "sdxl")
    result = scan(model, f"--memscan-base={tmp_path / 'sdxl'}")
    check(result, pytester.path, "does not fit", "--memscan-base", code=FAILED)


def test_a_base_that_predicts_something_else_is_an_error(
    scan: Scan, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    base = stranger(FIXTURES / "clean-t2i", tmp_path / "base")
    edit_json(base / "scheduler/scheduler_config.json", prediction_type="v_prediction")
    result = scan(MODEL, f"--memscan-base={base}")
    words = ("prediction_type is 'epsilon' in the fine-tune and 'v_prediction' in the base",)
    check(result, pytester.path, *words, code=FAILED)


def test_a_base_that_is_the_fine_tune_itself_is_an_error(
    scan: Scan, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(FIXTURES / "clean-t2i", tmp_path / "model"))
    result = scan(model, WITH_BASE)
    words = ("the fine-tune equals its base", "nothing to extract", "--memscan-base")
    check(result, pytester.path, *words, code=FAILED)


def test_a_base_with_unrelated_weights_is_a_loud_warning_and_no_pass(
    scan: Scan, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    base = stranger(FIXTURES / "clean-t2i", tmp_path / "base")
    weights = load_file(base / UNET)
    noise = torch.Generator().manual_seed(0)
    for key, value in weights.items():
        if value.dim() > 1:
            like = torch.randn(value.shape, generator=noise) * value.float().std()
            weights[key] = like.to(value.dtype)
    save_file(weights, base / UNET, metadata={"format": "pt"})
    result = scan(MODEL, f"--memscan-base={base}")
    words = ("memscan: INCONCLUSIVE",)
    check(result, pytester.path, *words, code=FAILED, verdict="inconclusive")
    text = " ".join(result.stdout.str().split())
    assert "WARNING: the weights of unet/ are unrelated to the base's" in text
    html = (pytester.path / ".memscan/report.html").read_text()
    assert "are unrelated to the base" in html
    report = read_report(pytester.path)
    (checked,) = (each for each in report["checks"] if each["name"] == "finextract")
    assert "fine-tuned from with --memscan-base" in checked["sentence"]


def test_one_training_image_or_none_is_an_error(
    scan: Scan, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    none = write_images(tmp_path / "none", [])
    result = scan(MODEL, WITH_BASE, f"--memscan-train-data={none}")
    check(result, pytester.path, "--memscan-train-data", "holds no images")
    one = write_images(tmp_path / "one", [0])
    result = scan(MODEL, WITH_BASE, f"--memscan-train-data={one}")
    check(result, pytester.path, "there is one training image", "pass more", code=FAILED)


@pytest.mark.parametrize("batch", ["1", "10"])
def test_a_budget_below_the_number_of_training_images_is_an_error(
    scan: Scan, pytester: pytest.Pytester, batch: str
) -> None:
    result = scan(MODEL, WITH_BASE, "--memscan-budget=9img", f"--memscan-batch-size={batch}")
    words = ("--memscan-budget: 9 images of each method are too few", "at least 10 are needed")
    check(result, pytester.path, *words, code=FAILED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[concept]\n", ("cannot be read as a set of fine-tunes",)),
        ("", ("has no [[concept]]",)),
        ("steps = 4\n", ("unknown key 'steps'", "base and concept")),
        ("[[concept]]\nmodle = 'x'\n", ("concept 1", "unknown key 'modle'")),
        ("[[concept]]\nmodel = 'none'\n", ("'./none'", "no such folder or file")),
        (
            "[[concept]]\nmodel = 'builtin:leaky-t2i-full'\nprompt = 'a'\nprompts = 'b'\n",
            ("concept 1", "both prompt and prompts"),
        ),
    ],
)
def test_a_mistake_in_a_set_of_fine_tunes_is_named(
    scan: Scan, pytester: pytest.Pytester, text: str, words: tuple[str, ...]
) -> None:
    (pytester.path / "set.toml").write_text(text)
    check(scan("set.toml"), pytester.path, *words)
