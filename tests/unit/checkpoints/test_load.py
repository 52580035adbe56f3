"""A vetted checkpoint becomes a stock DDIM pipeline, or a sentence that says what does not fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoint_factory import WEIGHTS, save_tiny_checkpoint
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from pytest_memscan.checkpoints.load import load_unconditional
from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint
from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.errors import CheckpointError, OptionError

UNET = "unet/config.json"
SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_tiny_checkpoint(tmp_path / "ckpt")


def _load(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> DDIMPipeline:
    verify(folder)
    found = ResolvedCheckpoint(spec=str(folder), label="./ckpt", folder=folder)
    return load_unconditional(found, device=device, dtype=dtype)


def _refusal(folder: Path, **options: str) -> str:
    with pytest.raises(CheckpointError) as raised:
        _load(folder, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert str(folder) not in message
    return message


def _edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _generate(pipeline: DDIMPipeline) -> torch.Tensor:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in (1, 2)]
    images = pipeline(
        batch_size=2, generator=generators, num_inference_steps=2, output_type="np"
    ).images
    return torch.from_numpy(images)


def test_the_pipeline_is_ready_to_generate_and_holds_the_saved_weights(checkpoint: Path) -> None:
    pipeline = _load(checkpoint)
    assert type(pipeline) is DDIMPipeline
    assert not pipeline.unet.training
    assert not any(p.requires_grad for p in pipeline.unet.parameters())
    for key, tensor in load_file(checkpoint / WEIGHTS).items():
        assert torch.equal(pipeline.unet.state_dict()[key], tensor)
    images = _generate(pipeline)
    assert images.shape == (2, 8, 8, 3)
    assert torch.isfinite(images).all()


def test_loading_and_generating_print_nothing(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _generate(_load(checkpoint))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_weights_have_the_dtype_that_was_asked_for(checkpoint: Path, dtype: str) -> None:
    assert _load(checkpoint, dtype=dtype).unet.dtype == getattr(torch, dtype)


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"},
        {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.01},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"prediction_type": "sample", "clip_sample": False, "timestep_spacing": "linspace"},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5},
        {"clip_sample_range": 2.0, "steps_offset": 1, "num_train_timesteps": 500},
        {"trained_betas": [0.01] * 50, "num_train_timesteps": 50, "beta_schedule": "sigmoid"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_ddim_keeps_the_noise_schedule_of_the_checkpoint(
    checkpoint: Path, settings: dict[str, object]
) -> None:
    original = DDPMScheduler(**settings)
    original.save_pretrained(checkpoint / "scheduler")
    scheduler = _load(checkpoint).scheduler
    assert type(scheduler) is DDIMScheduler
    assert torch.equal(scheduler.alphas_cumprod, original.alphas_cumprod)
    for key, value in settings.items():
        assert scheduler.config[key] == value
    original.set_timesteps(10)
    scheduler.set_timesteps(10)
    assert torch.equal(scheduler.timesteps, original.timesteps)


def test_a_ddim_pipeline_keeps_its_own_scheduler_settings(checkpoint: Path) -> None:
    unet = UNet2DModel.from_pretrained(checkpoint, subfolder="unet")
    saved = DDIMPipeline(unet=unet, scheduler=DDIMScheduler(set_alpha_to_one=False))
    saved.save_pretrained(checkpoint)
    assert _load(checkpoint).scheduler.config.set_alpha_to_one is False


def test_sharded_weights_are_loaded(checkpoint: Path) -> None:
    whole = _generate(_load(checkpoint))
    unet = UNet2DModel.from_pretrained(checkpoint, subfolder="unet")
    (checkpoint / WEIGHTS).unlink()
    unet.save_pretrained(checkpoint / "unet", max_shard_size="10KB")
    assert (checkpoint / f"{WEIGHTS}.index.json").exists()
    assert torch.equal(_generate(_load(checkpoint)), whole)


def test_the_flat_layout_with_old_attention_names_is_loaded(tmp_path: Path) -> None:
    """As in google/ddpm-cifar10-32, which was saved by diffusers 0.0.4."""
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=None,
    )  # fmt: skip
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler()).save_pretrained(tmp_path)
    new = _generate(_load(tmp_path))
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def use_old_names(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            for current, old in old_names.items():
                if f".{current}." in key:
                    tensors[key.replace(f".{current}.", f".{old}.")] = tensors.pop(key)

    _change_weights(tmp_path, use_old_names)
    for name in (WEIGHTS, UNET, SCHEDULER):
        (tmp_path / name).rename(tmp_path / Path(name).name)
    (tmp_path / "unet").rmdir()
    (tmp_path / "scheduler").rmdir()
    assert torch.equal(_generate(_load(tmp_path)), new)


# --- files that do not fit together -------------------------------------------------------------


def test_missing_tensors_are_counted_and_the_first_is_named(checkpoint: Path) -> None:
    _change_weights(checkpoint, lambda tensors: tensors.pop("conv_in.weight"))
    message = _refusal(checkpoint)
    assert "1 missing (first: conv_in.weight)" in message
    assert "does not fit unet/config.json" in message


def test_unexpected_tensors_are_counted_and_the_first_is_named(checkpoint: Path) -> None:
    _change_weights(checkpoint, lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert "1 unexpected (first: 'extra')" in _refusal(checkpoint)


def test_a_renamed_tensor_is_both_missing_and_unexpected(checkpoint: Path) -> None:
    _change_weights(checkpoint, lambda t: t.update({"conv_in.w": t.pop("conv_in.weight")}))
    message = _refusal(checkpoint)
    assert "1 missing" in message
    assert "1 unexpected" in message


def test_mis_shaped_tensors_are_shown_with_both_shapes(checkpoint: Path) -> None:
    _change_weights(checkpoint, lambda t: t.update({"conv_in.bias": torch.zeros(9)}))
    assert "1 mis-shaped (first: conv_in.bias is [9], expected [8])" in _refusal(checkpoint)


def test_a_config_that_asks_for_far_more_than_the_files_hold_costs_no_memory(
    checkpoint: Path,
) -> None:
    _edit(checkpoint, UNET, block_out_channels=[16384, 16384], norm_num_groups=32)
    assert "mis-shaped" in _refusal(checkpoint)  # 60 GiB if it were allocated


def test_a_config_that_describes_no_denoiser_is_refused(checkpoint: Path) -> None:
    _edit(checkpoint, UNET, down_block_types=["NoBlock", "NoBlock"])
    message = _refusal(checkpoint)
    assert message.startswith("unet/config.json describes no UNet2DModel: ValueError")
    assert "NoBlock" in message


@pytest.mark.parametrize(("value", "share"), [(torch.nan, "100%"), (torch.inf, "12.5%")])
def test_weights_that_are_not_finite_are_refused_with_their_share(
    checkpoint: Path, value: float, share: str
) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        count = 8 if share == "100%" else 1
        tensors["conv_in.bias"][:count] = value

    _change_weights(checkpoint, spoil)
    message = _refusal(checkpoint)
    assert f"'conv_in.bias' is {share} non-finite" in message
    assert "damaged or its training diverged" in message


def test_weights_too_large_for_float16_are_refused_with_the_remedy(checkpoint: Path) -> None:
    _change_weights(checkpoint, lambda tensors: tensors["conv_in.bias"].fill_(1e6))
    _load(checkpoint)
    message = _refusal(checkpoint, dtype="float16")
    assert "non-finite (NaN or infinite) in float16" in message
    assert "--memscan-dtype float32" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_class_embeds": 10}, "needs a class label"),
        ({"class_embed_type": "timestep"}, "needs a class label"),
        ({"out_channels": 6}, "predicts its variance"),
    ],
)
def test_checkpoints_that_the_scan_cannot_use_are_refused_without_verify_too(
    checkpoint: Path, changes: dict[str, object], words: str
) -> None:
    _edit(checkpoint, UNET, **changes)
    found = ResolvedCheckpoint(spec="x", label="x", folder=checkpoint)
    with pytest.raises(CheckpointError, match=words):
        load_unconditional(found, device="cpu", dtype="float32")


def test_a_gpu_that_is_not_there_is_never_replaced_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match="use --memscan-device cpu if that is on purpose"):
        _load(checkpoint, device="cuda")


def test_an_unknown_dtype_is_refused_with_those_known(checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="use float32, float16, bfloat16"):
        _load(checkpoint, dtype="fp16")


# --- the user's environment ---------------------------------------------------------------------


def test_loading_forbids_remote_code(
    checkpoint: Path,
) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pytest_memscan.checkpoints.load import load_unconditional\n"
        "from pytest_memscan.checkpoints.resolve import resolve\n"
        "checkpoint = resolve(sys.argv[1], offline=True)\n"
        "load_unconditional(checkpoint, device='cpu', dtype='float32')\n"
        "from diffusers.utils.constants import DIFFUSERS_DISABLE_REMOTE_CODE\n"
        "assert DIFFUSERS_DISABLE_REMOTE_CODE\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env.pop("DIFFUSERS_DISABLE_REMOTE_CODE", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(checkpoint)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
