"""Pipelines written as a single file in the original layout: what diffusers converts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
_UNET = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}


def write_original(path: Path, *parts: Tensors) -> Path:
    """One file of all tensors."""
    tensors = {key: value.contiguous() for part in parts for key, value in part.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def original_unet(unet: Any) -> Tensors:
    """Of Stable Diffusion 1, 2 and XL."""
    prefixes = dict(_UNET)
    index = 0
    for number, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            index += 1
            prefixes[f"down_blocks.{number}.resnets.{layer}."] = f"input_blocks.{index}.0."
            prefixes[f"down_blocks.{number}.attentions.{layer}."] = f"input_blocks.{index}.1."
        if block.downsamplers:
            index += 1
            prefixes[f"down_blocks.{number}.downsamplers.0.conv."] = f"input_blocks.{index}.0.op."
    index = 0
    for number, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            prefixes[f"up_blocks.{number}.resnets.{layer}."] = f"output_blocks.{index}.0."
            prefixes[f"up_blocks.{number}.attentions.{layer}."] = f"output_blocks.{index}.1."
            index += 1
        after = 2 if hasattr(block, "attentions") else 1
        up = f"output_blocks.{index - 1}.{after}.conv."
        prefixes[f"up_blocks.{number}.upsamplers.0.conv."] = up
    return {
        "model.diffusion_model." + _renamed(key, prefixes, _RESNET): value
        for key, value in unet.state_dict().items()
    }


def _renamed(key: str, prefixes: dict[str, str], inside: dict[str, str]) -> str:
    for new, old in prefixes.items():
        if key.startswith(new):
            rest = key.removeprefix(new)
            if ".resnets." in new:
                for name, original in inside.items():
                    if rest.startswith(name):
                        rest = original + rest.removeprefix(name)
                        break
            return old + rest
    raise KeyError(key)


def original_vae(vae: Any, prefix: str = "first_stage_model.") -> Tensors:
    """Autoencoder."""
    last = len(vae.decoder.up_blocks) - 1
    names = {
        "mid_block.resnets.0": "mid.block_1",
        "mid_block.resnets.1": "mid.block_2",
        "mid_block.attentions.0": "mid.attn_1",
        "conv_norm_out": "norm_out",
        "conv_shortcut": "nin_shortcut",
        "group_norm": "norm",
        "to_q.": "q.",
        "to_k.": "k.",
        "to_v.": "v.",
        "to_out.0": "proj_out",
        "downsamplers.0": "downsample",
        "upsamplers.0": "upsample",
        **{f"up_blocks.{n}.": f"up.{last - n}." for n in range(last + 1)},
        "down_blocks.": "down.",
        ".resnets.": ".block.",
    }
    tensors = {}
    for key, value in vae.state_dict().items():
        is_matrix = "attentions" in key and value.dim() == 2
        for new, old in names.items():
            key = key.replace(new, old)
        tensors[prefix + key] = value[:, :, None, None] if is_matrix else value
    return tensors


def original_clip(encoder: Any, prefix: str = "cond_stage_model.transformer.") -> Tensors:
    """CLIP as OpenAI's: the names of transformers."""
    tensors = encoder.state_dict()
    return {
        prefix + (key if key.startswith("text_") else f"text_model.{key}"): value
        for key, value in tensors.items()
    }


def original_open_clip(encoder: Any, prefix: str = "conditioner.embedders.1.model.") -> Tensors:
    """CLIP as OpenCLIP's: one matrix for query, key and value."""
    names = {
        "text_model.": "",
        "encoder.layers.": "transformer.resblocks.",
        "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.token_embedding": "token_embedding",
        "final_layer_norm": "ln_final",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        ".fc1": ".c_fc",
        ".fc2": ".c_proj",
        "self_attn": "attn",
        "text_projection.weight": "text_projection",
    }
    tensors: Tensors = {}
    state = encoder.state_dict()
    for key, value in state.items():
        name = key
        for new, old in names.items():
            name = name.replace(new, old)
        if "q_proj" in key:
            parts = [state[key.replace("q_proj", each)] for each in ("q_proj", "k_proj", "v_proj")]
            name = name.replace("q_proj.", "in_proj_")
            tensors[prefix + name] = torch.cat(parts)
        elif "k_proj" not in key and "v_proj" not in key:
            tensors[prefix + name] = value.T if name == "text_projection" else value
    return tensors


def original_sd3(transformer: Any, prefix: str = "model.diffusion_model.") -> Tensors:
    """Transformer of Stable Diffusion 3 without a second attention or norms of queries."""
    state = transformer.state_dict()
    last = len(transformer.transformer_blocks) - 1
    tensors = {"pos_embed": state["pos_embed.pos_embed"]}
    plain = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "context_embedder": "context_embedder",
        "final_layer.linear": "proj_out",
    }
    swapped = {"final_layer.adaLN_modulation.1": "norm_out.linear"}
    joined = {}
    for number in range(last + 1):
        new, old = f"transformer_blocks.{number}.", f"joint_blocks.{number}."
        for block, attention in (("x_block", "to_{}"), ("context_block", "add_{}_proj")):
            names = [f"{new}attn.{attention.format(each)}" for each in "qkv"]
            joined[f"{old}{block}.attn.qkv"] = names
        plain[f"{old}x_block.attn.proj"] = f"{new}attn.to_out.0"
        plain[f"{old}x_block.adaLN_modulation.1"] = f"{new}norm1.linear"
        for layer, name in (("fc1", "net.0.proj"), ("fc2", "net.2")):
            plain[f"{old}x_block.mlp.{layer}"] = f"{new}ff.{name}"
            if number < last:
                plain[f"{old}context_block.mlp.{layer}"] = f"{new}ff_context.{name}"
        context = f"{old}context_block.adaLN_modulation.1"
        (plain if number < last else swapped)[context] = f"{new}norm1_context.linear"
        if number < last:
            plain[f"{old}context_block.attn.proj"] = f"{new}attn.to_add_out"
    for kind in ("weight", "bias"):
        tensors |= {f"{o}.{kind}": state[f"{n}.{kind}"] for o, n in plain.items()}
        for name, source in swapped.items():
            scale, shift = state[f"{source}.{kind}"].chunk(2)
            tensors[f"{name}.{kind}"] = torch.cat([shift, scale])
        for name, sources in joined.items():
            tensors[f"{name}.{kind}"] = torch.cat([state[f"{each}.{kind}"] for each in sources])
    return {prefix + key: value for key, value in tensors.items()}
