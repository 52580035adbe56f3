"""The ways in which images are made of a fine-tune and its base."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from pytest_memscan.caption_inputs import Captions, captions_of
from pytest_memscan.checkpoints.finetunes import Finetune
from pytest_memscan.denoising.conditioning import not_applicable
from pytest_memscan.denoising.sampling import with_ddim
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.errors import OptionError
from pytest_memscan.generating import Variant
from pytest_memscan.generation import Pipeline, call_settings
from pytest_memscan.guidance.adapters import adapted_layers, switched_off
from pytest_memscan.guidance.model import CALLS_PER_STEP, ModelGuidance, model_guided
from pytest_memscan.guidance.pair import ModelPair
from pytest_memscan.inputs import Inputs

WITH_CAPTION = "w'"  # as the paper names the scale
CFG_SCALE = 3.0  # of the baseline, as the authors'
AUTHORS_LORA = (5.0, 0.0)  # w' and k
AUTHORS_FULL = (3.0, -0.02)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of generating, before it has a store."""

    name: str
    settings: str
    guidance_scale: float | None  # of classifier-free guidance
    calls_per_step: int
    variant: Variant
    scale: float | None = None  # of model guidance


@dataclass(frozen=True, kw_only=True)
class FinetuneMethods:
    """Both models of one fine-tune, and every way of asking them.

    Attributes:
        inputs: Checkpoint, base and settings.
    """

    inputs: Inputs = field(repr=False)

    @cached_property
    def finetune(self) -> Finetune:
        """Both models, each sampled as in the paper."""
        loaded = self.inputs.finetune(self.inputs.config.dtype)
        base = None if loaded.base is None else with_ddim(loaded.base)
        return replace(loaded, pipeline=with_ddim(loaded.pipeline), base=base)

    @cached_property
    def captions(self) -> Captions:
        """What images are asked for with."""
        return captions_of(self.inputs)

    @cached_property
    def _ways(self) -> tuple[Way, ...]:
        """Every way of generating, the base alone last."""
        distilled = bool(not_applicable(self.finetune.pipeline))
        plain = None if distilled else 1.0  # without guidance
        own = Variant(
            record={"method": "direct", **self._sampling}, load=lambda _: self.finetune.pipeline
        )
        ways = [_way("direct", "no guidance", plain, 1, own)]
        if not distilled and not self.captions.is_none:
            # Which scale is in the recipe already.
            ways.append(_way("cfg", f"guidance scale {CFG_SCALE:g}", CFG_SCALE, 2, own))
        for guidance in self._guidances:
            shown = f"{'w' if self.captions.is_none else WITH_CAPTION} {guidance.scale:g}"
            shown += f", k {guidance.k:g}" if guidance.k else ""
            way = _way("finextract", shown, plain, CALLS_PER_STEP, self._guided(guidance))
            ways.append(replace(way, scale=guidance.scale))
        return (*ways, _way("base", "the base alone", plain, 1, self._base_alone()))

    def _guided(self, guidance: ModelGuidance) -> Variant:
        def attached(pipeline: Pipeline) -> AbstractContextManager[None]:
            pair = ModelPair(pipeline=pipeline, base=self.finetune.base)
            return model_guided(pair, guidance, settings=call_settings(pipeline))

        return Variant(
            record={
                "method": "model guidance",
                "scale": guidance.scale,
                "k": guidance.k,
                **self._sampling,
            },
            load=lambda _: self.finetune.pipeline,
            attached=attached,
        )

    def _base_alone(self) -> Variant:
        record = {"method": "base", **self._sampling}
        if self.finetune.base is None:
            return Variant(
                record=record, load=lambda _: self.finetune.pipeline, attached=without_adapters
            )

        def load(_: str) -> Pipeline:
            base: Any = self.finetune.base
            return base  # type: ignore[no-any-return]

        return Variant(record=record, load=load)

    @property
    def _sampling(self) -> Mapping[str, object]:
        scheduler: Any = self.finetune.pipeline.scheduler
        told = {
            name: value
            for name in ("clip_sample", "timestep_spacing")
            if (value := scheduler.config.get(name)) is not None
        }
        return {"scheduler": type(scheduler).__name__, **told}

    @property
    def _guidances(self) -> tuple[ModelGuidance, ...]:
        given = self.inputs.config.model_guidance
        if not given:
            is_lora = self.finetune.fit.kind == "lora"
            scale, k = AUTHORS_LORA if is_lora else AUTHORS_FULL
            given = ((scale, 0.0 if self._is_flow or self.captions.is_none else k),)
        elif self._is_flow and any(k for _, k in given):
            raise OptionError(
                "--memscan-model-guidance: k changes the predicted noise, which is not defined at "
                "the first step of a flow-matching model; leave it out"
            )
        return tuple(ModelGuidance(scale=scale, k=k) for scale, k in given)

    @property
    def _is_flow(self) -> bool:
        return read_parametrisation(self.finetune.pipeline.scheduler).kind == "flow"


def _way(
    name: str, settings: str, guidance_scale: float | None, calls: int, variant: Variant
) -> Way:
    return Way(
        name=name,
        settings=settings,
        guidance_scale=guidance_scale,
        calls_per_step=calls,
        variant=variant,
    )


def without_adapters(pipeline: Any) -> AbstractContextManager[None]:
    """A context in which a pipeline with a LoRA is its base, text encoders too."""
    modules = [each for each in pipeline.components.values() if isinstance(each, torch.nn.Module)]
    return switched_off([layer for module in modules for layer in adapted_layers(module)])
