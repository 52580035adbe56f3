"""A LoRA of each family and tool does what it did where it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from adapter_factory import Layers, write_kohya
from attaching import TOLERANCE, attach, random_values, refused
from peft.utils import get_peft_model_state_dict
from pipeline_factory import call_settings, tiny_pipeline
from safetensors.numpy import save_file

_DENOISER_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_out"]
_TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"]


def _train(part: Any, layers: list[str], seed: int) -> None:
    """Random weights in the place of trained ones; alpha is not the rank."""
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=layers, rank_pattern={layers[1]: 2}, use_rslora=seed == 1
    )
    part.add_adapter(config)
    generator = torch.Generator().manual_seed(seed)
    for name, each in part.named_parameters():
        if "lora_" in name:
            each.data = 0.3 * torch.randn(each.shape, generator=generator)


def _prediction(pipeline: Any, family: str) -> torch.Tensor:
    """What the denoiser says first about a prompt, text encoders included."""
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    made: list[torch.Tensor] = []
    hook = denoiser.register_forward_hook(lambda *call: made.append(call[-1][0]))
    pipeline(
        "a red circle", **call_settings(family), num_inference_steps=1, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    hook.remove()
    return made[0]


@pytest.mark.parametrize(
    ("family", "denoiser", "encoders"),
    [
        ("sdxl", "unet", ("text_encoder", "text_encoder_2")),
        ("sd3", "transformer", ("text_encoder", "text_encoder_2")),
        ("flux-dev", "transformer", ("text_encoder",)),
    ],
)
def test_what_diffusers_saves_is_attached_as_it_was_trained(
    tmp_path: Path, family: str, denoiser: str, encoders: tuple[str, ...]
) -> None:
    from diffusers.training_utils import _collate_lora_metadata

    trained, fresh = tiny_pipeline(family), tiny_pipeline(family)
    parts = (denoiser, *encoders)
    before = _prediction(fresh, family)
    for seed, part in enumerate(parts):
        layers = _TEXT_LAYERS if part in encoders else _DENOISER_LAYERS
        _train(getattr(trained, part), layers, seed)
    trained_parts = [(part, getattr(trained, part)) for part in parts]
    type(trained).save_lora_weights(
        tmp_path / "lora",
        **{
            f"{part}_lora_layers": get_peft_model_state_dict(getattr(trained, part))
            for part in parts
        },
        **_collate_lora_metadata(dict(trained_parts)),
    )
    assert attach(fresh, tmp_path / "lora") == parts
    wanted = _prediction(trained, family)
    assert float((wanted - before).abs().max()) > 1e-3
    assert float((_prediction(fresh, family) - wanted).abs().max()) < TOLERANCE


def test_what_peft_saves_is_attached_even_where_diffusers_knows_no_lora(tmp_path: Path) -> None:
    trained, fresh = tiny_pipeline("pixart-sigma"), tiny_pipeline("pixart-sigma")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["to_q", "to_out.0", "linear_1"])
    model = peft.get_peft_model(trained.transformer, config)
    for name, each in model.named_parameters():
        if "lora_B" in name:
            each.data.fill_(0.1)
    model.save_pretrained(tmp_path)
    model.eval()
    assert attach(fresh, tmp_path) == ("transformer",)
    difference = _prediction(fresh, "pixart-sigma") - _prediction(trained, "pixart-sigma")
    assert float(difference.abs().max()) < TOLERANCE


def test_every_linear_and_convolution_can_carry_a_layer_of_kohya(tmp_path: Path) -> None:
    pipeline, by_hand = tiny_pipeline("sd1"), tiny_pipeline("sd1")
    layers: Layers = {}
    for name, module in by_hand.unet.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            outer, inner, *kernel = module.weight.shape
            down = random_values((2, inner, *kernel), len(layers)) / 4
            up = random_values((outer, 2, *(1 for _ in kernel)), -len(layers) % 1000)
            layers["unet", name] = (down, up)
            product = torch.from_numpy(up.reshape(outer, 2) @ down.reshape(2, -1))
            module.weight.data += 1.5 * product.reshape(module.weight.shape)
    path = write_kohya(tmp_path / "x.safetensors", layers, {name: 3 for _, name in layers})
    assert attach(pipeline, path) == ("unet",)
    wanted = _prediction(by_hand, "sd1")
    assert float((_prediction(tiny_pipeline("sd1"), "sd1") - wanted).abs().max()) > 1e-2
    assert float((_prediction(pipeline, "sd1") - wanted).abs().max()) < TOLERANCE


def test_kohya_names_of_sdxl_blocks_are_those_of_the_original_code(tmp_path: Path) -> None:
    pipeline, by_hand = tiny_pipeline("sdxl"), tiny_pipeline("sdxl")
    # Two layers per block and level: a level of one residual layer and its downsampler.
    renamed = {
        "input_blocks_3_1": "down_blocks.1.attentions.0",
        "middle_block_1": "mid_block.attentions.0",
        "output_blocks_1_1": "up_blocks.0.attentions.1",
    }
    tensors, rank = {}, 4
    for seed, (kohya, diffusers) in enumerate(renamed.items()):
        module = f"{diffusers}.transformer_blocks.0.attn1.to_q"
        weight = by_hand.unet.get_submodule(module).weight
        down, up = (
            random_values((rank, weight.shape[1]), seed),
            random_values((weight.shape[0], rank), seed),
        )
        name = f"lora_unet_{kohya}_transformer_blocks_0_attn1_to_q"
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
        tensors[f"{name}.alpha"] = np.array(2 + seed)  # an integer, as diffusers writes it
        weight.data += (2 + seed) / rank * torch.from_numpy(up @ down)
    for kohya, part in (("lora_te1", "text_encoder"), ("lora_te2", "text_encoder_2")):
        weights = dict(getattr(by_hand, part).named_parameters())
        weight = next(weights[key] for key in weights if key.endswith("layers.0.mlp.fc1.weight"))
        down, up = (
            random_values((rank, weight.shape[1]), 7),
            random_values((weight.shape[0], rank), 8),
        )
        name = f"{kohya}_text_model_encoder_layers_0_mlp_fc1"
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
        weight.data += torch.from_numpy(up @ down)
    save_file(tensors, tmp_path / "x.safetensors")
    parts = attach(pipeline, tmp_path / "x.safetensors")
    assert parts == ("unet", "text_encoder", "text_encoder_2")
    difference = _prediction(pipeline, "sdxl") - _prediction(by_hand, "sdxl")
    assert float(difference.abs().max()) < TOLERANCE


def test_kohya_layers_of_flux_are_split_into_those_of_diffusers(tmp_path: Path) -> None:
    pipeline, by_hand = tiny_pipeline("flux-dev"), tiny_pipeline("flux-dev")
    attention = by_hand.transformer.transformer_blocks[0].attn
    width, rank, alpha = attention.to_q.in_features, 4, 6
    down, up = random_values((rank, width), 0), random_values((3 * width, rank), 1)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_up.weight": up,
        f"{name}.alpha": np.array(alpha, np.float32),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    update = torch.from_numpy(alpha / rank * up @ down)
    for layer, each in zip("qkv", update.chunk(3), strict=True):
        getattr(attention, f"to_{layer}").weight.data += each
    assert attach(pipeline, tmp_path / "x.safetensors") == ("transformer",)
    difference = _prediction(pipeline, "flux-dev") - _prediction(by_hand, "flux-dev")
    assert float(difference.abs().max()) < TOLERANCE
    # diffusers drops layers of the second text encoder, with a note in the log.
    t5 = "lora_te2_encoder_block_0_layer_0_SelfAttention_q"
    tensors |= {f"{t5}.lora_down.weight": down, f"{t5}.lora_up.weight": up}
    save_file(tensors, tmp_path / "x.safetensors")
    message = refused(tiny_pipeline("flux-dev"), tmp_path / "x.safetensors")
    assert "diffusers reads only a part of this adapter for FluxPipeline" in message
