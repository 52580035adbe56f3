"""What model_index.json of a text-to-image checkpoint may name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_factory import save_tiny_checkpoint
from pipeline_factory import save_tiny
from vetting import INDEX, edit, refusal

from pytest_memscan.checkpoints.components import kind_of
from pytest_memscan.checkpoints.resolve import known_kind
from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.errors import CheckpointError

_SAFETY = ["stable_diffusion", "StableDiffusionSafetyChecker"]


@pytest.fixture
def sd1(tmp_path: Path) -> Path:
    return save_tiny("sd1", tmp_path / "sd1")


def _drop(folder: Path, key: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    del index[key]
    (folder / INDEX).write_text(json.dumps(index))


def test_the_kind_is_known_from_model_index_alone(tmp_path: Path, sd1: Path) -> None:
    for file in [path for path in sd1.rglob("*") if path.is_file() and path.name != INDEX]:
        file.unlink()
    assert kind_of(sd1) == known_kind(str(sd1)) == "text-to-image"
    assert known_kind(str(save_tiny_checkpoint(tmp_path / "ddpm"))) == "unconditional"


@pytest.mark.parametrize("spec", ["org/name", "./nowhere", "builtin:nothing", ""])
def test_the_kind_of_what_is_not_here_is_unknown(spec: str) -> None:
    assert known_kind(spec) is None


def test_the_kind_of_an_unsupported_checkpoint_is_an_error(sd1: Path) -> None:
    edit(sd1, INDEX, _class_name="StableDiffusionImg2ImgPipeline")
    with pytest.raises(CheckpointError, match="needs an input image"):
        kind_of(sd1)


def test_telling_the_kind_imports_nothing_heavy(sd1: Path) -> None:
    code = (
        "import sys\n"
        "from pytest_memscan.checkpoints.resolve import known_kind\n"
        "assert known_kind(sys.argv[1]) == 'text-to-image'\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'huggingface_hub', 'numpy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(sd1)], check=True)


@pytest.mark.parametrize("key", ["vae", "text_encoder", "tokenizer", "unet", "scheduler"])
def test_a_missing_component_is_named(sd1: Path, key: str) -> None:
    _drop(sd1, key)
    message = refusal(sd1)
    assert f"names no {key}" in message
    assert "vae/, text_encoder/, tokenizer/, unet/ and scheduler/" in message


def test_a_component_that_is_null_is_refused(sd1: Path) -> None:
    edit(sd1, INDEX, text_encoder=[None, None])
    assert "text_encoder is" in refusal(sd1)


@pytest.mark.parametrize(
    ("key", "origin"),
    [
        ("unet", ["my_unet", "UNet2DConditionModel"]),
        ("text_encoder", ["diffusers", "CLIPTextModel"]),
        ("text_encoder", ["os", "system"]),
        ("tokenizer", "CLIPTokenizer"),
        ("vae", ["transformers", "AutoencoderKL"]),
    ],
)
def test_a_component_of_another_library_is_refused(sd1: Path, key: str, origin: object) -> None:
    edit(sd1, INDEX, **{key: origin})
    message = refusal(sd1)
    assert f"{key} is" in message
    assert "own code is refused" in message


def test_an_extra_component_is_refused(sd1: Path) -> None:
    edit(sd1, INDEX, extra=["some_module", "X"])
    assert "component 'extra' does not belong to a text-to-image pipeline" in refusal(sd1)


def test_another_class_is_refused_with_those_supported(sd1: Path) -> None:
    edit(sd1, INDEX, text_encoder=["transformers", "T5EncoderModel"])
    message = refusal(sd1)
    assert "text_encoder class 'T5EncoderModel' is not supported" in message
    assert "supported: CLIPTextModel" in message


@pytest.mark.parametrize("name", ["DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"])
def test_a_scheduler_that_ignores_generators_is_refused(sd1: Path, name: str) -> None:
    edit(sd1, INDEX, scheduler=["diffusers", name])
    message = refusal(sd1)
    assert f"{name} ignores the random generators" in message
    assert "save the checkpoint with DDIMScheduler or" in message


def test_a_safety_checker_is_neither_looked_at_nor_hashed(sd1: Path) -> None:
    before = verify(sd1)
    edit(
        sd1,
        INDEX,
        safety_checker=_SAFETY,
        feature_extractor=["transformers", "CLIPImageProcessor"],
        requires_safety_checker=True,
    )
    (sd1 / "safety_checker").mkdir()
    (sd1 / "safety_checker" / "model.safetensors").write_bytes(b"nothing of ours")
    (sd1 / "safety_checker" / "pytorch_model.bin").write_bytes(b"a pickle")
    after = verify(sd1)
    assert {**after.files, INDEX: ""} == {**before.files, INDEX: ""}
    assert after.num_parameters == before.num_parameters


def test_a_safety_checker_that_is_no_class_is_refused(sd1: Path) -> None:
    edit(sd1, INDEX, safety_checker={"a": 1})
    assert "safety_checker is" in refusal(sd1)


def test_a_setting_that_is_no_yes_or_no_is_refused(sd1: Path) -> None:
    edit(sd1, INDEX, requires_safety_checker="rm -rf")
    assert "expected true, false or null" in refusal(sd1)


def test_the_third_encoder_of_sd3_may_be_absent_but_not_half(tmp_path: Path) -> None:
    folder = save_tiny("sd3", tmp_path / "sd3")
    edit(folder, INDEX, text_encoder_3=[None, None])
    assert "names tokenizer_3 but no text_encoder_3" in refusal(folder)
    edit(folder, INDEX, tokenizer_3=[None, None])
    assert not [name for name in verify(folder).files if "_3" in name]
