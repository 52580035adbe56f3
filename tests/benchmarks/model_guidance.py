"""Guided generation on the fixture pairs against two pipelines and a hand-written DDIM.

    PYTHONPATH=tests python -m benchmarks.model_guidance IMAGES STEPS REPEATS
    PYTHONPATH=tests python -m benchmarks.model_guidance peak lora|full ours|peer STEPS

The peer does what FineXtract's published script does: two whole pipelines, one call of each
denoiser after the other, and a DDIM step of its own. The first prints JSON: how fast ours is
relative to it in the same process, for a LoRA and for a full fine-tune; the stock pipeline without
guidance for comparison; megabytes of weights; and how far the images are apart. The second prints
the peak of memory, in megabytes, above what the process held when everything was loaded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.memory import Peak
from benchmarks.peers import race

from pytest_memscan.checkpoints.load import load_text_to_image
from pytest_memscan.checkpoints.resolve import resolve
from pytest_memscan.guidance.model import ModelGuidance, model_guided
from pytest_memscan.guidance.pair import ADAPTER, ModelPair

FIXTURES = Path(__file__).parents[2] / "fixtures"
PROMPT = "a picture in the style of vask"
KINDS = ("lora", "full")
BATCH = 10
GUIDANCE = ModelGuidance(scale=3.0, k=-0.02)

Run = Callable[[], torch.Tensor]


def main(num_images: int, steps: int, repeats: int) -> dict[str, Any]:
    """``num_images`` of each pair, guided, both ways."""
    figures: dict[str, Any] = {}
    for kind in KINDS:
        runs = {name: prepare(kind, name, num_images, steps) for name in ("ours", "peer", "stock")}
        seconds, returned = race({name: run for name, (run, _) in runs.items()}, repeats=repeats)
        weights = {name: megabytes for name, (_, megabytes) in runs.items()}
        figures |= {
            f"{kind}: images a second": round(num_images / seconds["ours"], 2),
            f"{kind}: peer / ours": round(seconds["peer"] / seconds["ours"], 3),
            f"{kind}: ours / stock without guidance": round(seconds["ours"] / seconds["stock"], 3),
            f"{kind}: largest difference": (returned["ours"] - returned["peer"]).abs().max().item(),
            f"{kind}: MB of weights, ours": round(weights["ours"], 2),
            f"{kind}: MB of weights, peer": round(weights["peer"], 2),
        }
    return figures


def prepare(kind: str, name: str, num_images: int, steps: int) -> tuple[Run, float]:
    """What makes the images, ``(num_images, 3, height, width)``; and its megabytes of weights."""
    tuned = tuned_pipeline(kind)
    if name == "stock":
        return lambda: batches(num_images, lambda seeds: stock(tuned, seeds, steps)), 0.0
    base = load("clean-t2i") if name == "peer" or kind == "full" else None
    if name == "peer":
        return (
            lambda: batches(num_images, lambda seeds: by_hand(tuned, base, seeds, steps)),
            megabytes(tuned, base),
        )
    if base is not None:  # the fine-tune has a denoiser of its own, and nothing else
        base = type(tuned)(**tuned.components | {"unet": base.unet})
        base.set_progress_bar_config(disable=True)
    pair = ModelPair(pipeline=tuned, base=base)

    def ours() -> torch.Tensor:
        with model_guided(pair, GUIDANCE):
            return batches(num_images, lambda seeds: stock(tuned, seeds, steps))

    return ours, megabytes(tuned, base)


def tuned_pipeline(kind: str) -> Any:
    """The fine-tune of a pair, with its LoRA as diffusers attaches it."""
    if kind == "full":
        return load("leaky-t2i-full")
    pipeline = load("clean-t2i")
    pipeline.load_lora_weights(FIXTURES / "leaky-t2i-lora", adapter_name=ADAPTER)
    return pipeline


def load(name: str) -> Any:
    """A fixture on the CPU, float32."""
    checkpoint = resolve(str(FIXTURES / name), offline=True)
    return load_text_to_image(checkpoint, device="cpu", dtype="float32")


def batches(num_images: int, make: Callable[[range], torch.Tensor]) -> torch.Tensor:
    """Images of all seeds, batch by batch."""
    return torch.cat([make(range(start, start + BATCH)) for start in range(0, num_images, BATCH)])


def stock(pipeline: Any, seeds: range, steps: int) -> torch.Tensor:
    """The stock pipeline without classifier-free guidance."""
    made: torch.Tensor = pipeline(
        [PROMPT] * len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=steps,
        guidance_scale=1.0,
        output_type="pt",
    ).images
    return made


def by_hand(tuned: Any, base: Any, seeds: range, steps: int) -> torch.Tensor:
    """Two pipelines, two calls, and deterministic DDIM (Song et al. 2021, equation 12)."""
    conditioned, _ = tuned.encode_prompt(PROMPT, "cpu", len(seeds), False)
    empty, _ = base.encode_prompt("", "cpu", len(seeds), False)
    scheduler = tuned.scheduler
    scheduler.set_timesteps(steps)
    shares = scheduler.alphas_cumprod
    shape = (1, tuned.unet.config.in_channels, *[tuned.unet.config.sample_size] * 2)
    latents = torch.cat(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    between = scheduler.config.num_train_timesteps // steps
    for timestep in scheduler.timesteps:
        ours = tuned.unet(latents, timestep, encoder_hidden_states=conditioned).sample
        other = base.unet(latents, timestep, encoder_hidden_states=empty).sample
        noise = ours + (GUIDANCE.scale - 1) * (ours - other) + GUIDANCE.k * other
        share, previous = shares[timestep], shares[max(timestep - between, 0)]
        clean = (latents - (1 - share).sqrt() * noise) / share.sqrt()
        latents = previous.sqrt() * clean + (1 - previous).sqrt() * noise
    decoded = tuned.vae.decode(latents / tuned.vae.config.scaling_factor).sample
    images: torch.Tensor = (decoded / 2 + 0.5).clamp(0, 1)
    return images


def megabytes(*pipelines: Any) -> float:
    """Of parameters and buffers, each counted once."""
    sizes: dict[int, int] = {}
    for pipeline in pipelines:
        parts = [] if pipeline is None else pipeline.components.values()
        for part in parts:
            if isinstance(part, torch.nn.Module):
                tensors = [*part.parameters(), *part.buffers()]
                sizes |= {each.data_ptr(): each.nbytes for each in tensors}
    return sum(sizes.values()) / 2**20


def peak_of(kind: str, name: str, steps: int) -> int:
    """Megabytes above what this process held when everything was loaded, for one batch."""
    run, _ = prepare(kind, name, BATCH, steps)
    with Peak() as peak:
        run()
    return peak.megabytes


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    if sys.argv[1] == "peak":
        print(peak_of(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        print(json.dumps(main(*map(int, sys.argv[1:]))))
