"""A text-to-image model that knows clusters: a learned token for each, and a fresh LoRA.

It is built beside the pipeline that it comes from. Frozen weights are shared, so that it costs
little memory; modules, tokenizer and scheduler are its own, so that the first is never touched.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pytest_memscan.denoising.conditioning import not_applicable
from pytest_memscan.errors import CheckpointError

ADAPTER_NAME = "clusters"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # projections that carry the LoRA
TOKENS = "tokens"  # the learned embeddings, among the names of what is trained
_SUPPORTED = "StableDiffusionPipeline"
_INITIAL = 1  # stream of random numbers, beside those of training


@dataclass(frozen=True, kw_only=True)
class ClusterModel:
    """What is trained, and then sampled.

    Attributes:
        pipeline: Of the same class as the first, in float32, on its device.
        prompts: Of each cluster: ``<cluster-0>``, ...
        trainable: Name -> parameter; `TOKENS` is ``(num_classes, width)``, all others belong to
            the LoRA.
    """

    pipeline: Any = field(repr=False)
    prompts: tuple[str, ...]
    trainable: dict[str, torch.nn.Parameter] = field(repr=False)


class ClusterEmbedding(torch.nn.Module):
    """Token embeddings of which the last are learned, and the others shared and frozen.

    Args:
        known: Embeddings of the text encoder.
        first: Number of the first learned token; all from here on are learned.
        num_learned: How many.
        start: Number of the known token whose embedding they all start from.
    """

    def __init__(
        self, known: torch.nn.Embedding, *, first: int, num_learned: int, start: int
    ) -> None:
        super().__init__()
        self.known = known
        self.first = first
        initial = known.weight[start].detach().clone().expand(num_learned, -1)
        self.learned = torch.nn.Parameter(initial.contiguous().clone())

    @property
    def weight(self) -> torch.Tensor:
        """Of the known tokens; transformers asks for its dtype and device."""
        return self.known.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``(..., width)`` embeddings of token numbers of any shape."""
        is_learned = ids >= self.first
        known = self.known(torch.where(is_learned, 0, ids))
        places = torch.where(is_learned, ids - self.first, 0)
        learned = torch.nn.functional.embedding(places, self.learned)
        return torch.where(is_learned[..., None], learned, known)


def require_supported(pipeline: Any) -> None:
    """Refuse pipelines that clusters cannot be taught to.

    Raises:
        CheckpointError: Not Stable Diffusion 1.x or 2.x, distilled for guidance, or with an
            adapter attached: with what to do.
    """
    name = type(pipeline).__name__
    refused = "the LoRA branch of SIDE works on Stable Diffusion 1.x and 2.x"
    if name != _SUPPORTED:
        raise CheckpointError(
            f"{refused} (class {_SUPPORTED}); this checkpoint is of class {name}. Leave the LoRA "
            "branch out for it"
        )
    why = not_applicable(pipeline)
    if why:
        raise CheckpointError(
            f"{refused} trained with noise predictions; this checkpoint is {why}. Leave the LoRA "
            "branch out for it"
        )
    if any("lora_" in key for part in _networks(pipeline) for key, _ in part.named_parameters()):
        raise CheckpointError(
            f"{refused} without an adapter; this one carries a LoRA already. Merge it into the "
            "weights (fuse_lora of diffusers), and scan what you saved"
        )


def num_trainable(pipeline: Any, *, num_classes: int, rank: int) -> int:
    """Numbers that `with_clusters` would train: LoRA and tokens."""
    width = int(pipeline.text_encoder.get_input_embeddings().weight.shape[1])
    layers = _attention_of(pipeline.unet).values()
    lora = sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    return lora + num_classes * width


def with_clusters(pipeline: Any, *, num_classes: int, rank: int, seed: int) -> ClusterModel:
    """A model with one token for each cluster and a LoRA that changes nothing yet.

    How the label enters is not published; here the prompt of cluster k is the one token
    ``<cluster-k>``. All start from the end-of-text token: where it also pads, as in Stable
    Diffusion 1, the prompt then is the empty one, of which the samples were made.

    Args:
        pipeline: Supported (`require_supported`). Left as it is: frozen float32 weights are
            shared with it, others are copied in float32.
        num_classes: Clusters.
        rank: Of the LoRA; its alpha is the rank, so that its scale is 1.
        seed: Of the initial values.

    Raises:
        CheckpointError: The tokenizer has such tokens already, or reads them as something else.
    """
    taught = copy.copy(pipeline)
    taught.tokenizer = copy.deepcopy(pipeline.tokenizer)
    taught.scheduler = copy.deepcopy(pipeline.scheduler)
    for part in ("unet", "text_encoder", "vae"):
        setattr(taught, part, sharing(getattr(pipeline, part)))
    prompts = tuple(f"<cluster-{number}>" for number in range(num_classes))
    trainable = {TOKENS: _add_tokens(taught, prompts)} | _add_lora(taught.unet, rank, seed)
    return ClusterModel(pipeline=taught, prompts=prompts, trainable=trainable)


def sharing(module: torch.nn.Module) -> Any:
    """A frozen copy of a network in float32, with float32 weights shared, in eval mode."""
    memo: dict[int, Any] = {
        id(each): torch.nn.Parameter(each.detach(), requires_grad=False)
        for each in module.parameters()
        if each.is_floating_point()
    }
    return copy.deepcopy(module, memo).float().eval()


def _networks(pipeline: Any) -> tuple[torch.nn.Module, ...]:
    return pipeline.unet, pipeline.text_encoder


def _attention_of(unet: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear)
        and any(name.endswith(f".{each}") for each in ATTENTION)
    }


def _add_tokens(taught: Any, prompts: tuple[str, ...]) -> torch.nn.Parameter:
    tokenizer, encoder = taught.tokenizer, taught.text_encoder
    first = len(tokenizer)
    num_added = tokenizer.add_tokens(list(prompts))
    expected = [[first + number] for number in range(len(prompts))]
    read = tokenizer(list(prompts), add_special_tokens=False).input_ids
    if num_added != len(prompts) or read != expected:
        raise CheckpointError(
            f"the tokenizer of this checkpoint cannot take the tokens {prompts[0]} to "
            f"{prompts[-1]}: it has some of them, or reads them as other text. Leave the LoRA "
            "branch of SIDE out for it"
        )
    embedding = ClusterEmbedding(
        encoder.get_input_embeddings(),
        first=first,
        num_learned=len(prompts),
        start=tokenizer.eos_token_id,
    )
    encoder.set_input_embeddings(embedding)
    return embedding.learned


def _add_lora(unet: torch.nn.Module, rank: int, seed: int) -> dict[str, torch.nn.Parameter]:
    import peft

    config = peft.LoraConfig(
        r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=list(_attention_of(unet))
    )
    with torch.random.fork_rng(devices=[]):  # peft draws values of its own, which are not kept
        peft.inject_adapter_in_model(config, unet, ADAPTER_NAME)
    unet._hf_peft_config_loaded = True  # type: ignore[assignment] # for methods of diffusers
    unet.eval()
    trained = {name: each for name, each in unet.named_parameters() if "lora_" in name}
    rng = np.random.default_rng([seed, _INITIAL])
    with torch.no_grad():
        for name, each in sorted(trained.items()):
            if "lora_A" in name:
                drawn = rng.standard_normal(tuple(each.shape), dtype=np.float32) / rank
                each.copy_(torch.from_numpy(drawn))
            else:
                each.zero_()
            each.requires_grad_(True)
    return trained
