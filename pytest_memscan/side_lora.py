"""SIDE for text-to-image checkpoints: a token learned for each cluster of their own images.

Source: the LoRA branch of arXiv:2410.02467 v7 (`surrogates.lora` says what is ours). SIDE is about
what comes out of a checkpoint whose prompts nobody knows: plain sampling and samples are those of
the empty prompt, unless prompts were given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import MemscanError
from pytest_memscan.generating import Recipe, Variant
from pytest_memscan.generation import PlanRow, Progress, ProgressCallback, Prompting
from pytest_memscan.inputs import Inputs
from pytest_memscan.policy import DEFAULT
from pytest_memscan.prompt_inputs import PromptInputs
from pytest_memscan.results import SurrogateLabels, SurrogateTraining
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.side import PLAIN, Prepared
from pytest_memscan.side_settings import PROMPT_SCALES, PROMPT_VARIANTS, SideSettings
from pytest_memscan.store import canonical_hash
from pytest_memscan.surrogates.clusters import cluster_labels
from pytest_memscan.surrogates.labels import Labels
from pytest_memscan.surrogates.lora import ClusterLora, lora_cost, train_lora
from pytest_memscan.surrogates.lora_model import require_supported
from pytest_memscan.surrogates.lora_records import LoraCost, LoraRecord, LoraSettings
from pytest_memscan.surrogates.lora_training import OnStep, parametrisation_of

NAME = "side_lora"
TITLE = PROMPT_VARIANTS[NAME]


@dataclass(frozen=True, kw_only=True)
class InTurn(Prompting):
    """All prompts, one batch of each, again and again: as many rows as one likes.

    ``rows_per_prompt`` is the batch size.
    """

    def settings(self, rows: Sequence[PlanRow]) -> dict[str, Any]:
        """What a text-to-image pipeline is called with for these rows."""
        turn = {row.sample_id // self.rows_per_prompt for row in rows}
        if len(turn) != 1:
            raise ValueError("rows of a batch belong to different turns")
        prompt = self.prompts[turn.pop() % len(self.prompts)]
        scale = self.guidance_scale
        called: dict[str, Any] = {"prompt": [prompt] * len(rows)}
        return called | ({} if scale is None else {"guidance_scale": scale})

    @property
    def forwards(self) -> int:
        """Of the denoiser, for one image in one step: a second one for guidance."""
        return 1 if self.guidance_scale is not None and self.guidance_scale <= 1 else 2


@dataclass(frozen=True, kw_only=True)
class LoraBranch:
    """The one variant that a text-to-image checkpoint has.

    Attributes:
        inputs: Checkpoint, training images and settings.
        cache_dir: Where images and the LoRA are kept.
        how: The LoRA is trained; rank, steps and seed are those of the settings.
    """

    inputs: Inputs = field(repr=False)
    cache_dir: Path = field(repr=False)
    how: LoraSettings = field(default_factory=LoraSettings)

    @cached_property
    def plain(self) -> InTurn:
        """Of plain sampling and samples: the prompts that were given, or the empty one.

        Raises:
            PromptError: The prompts cannot be read.
        """
        if self.inputs.config.prompt_source is None:
            # Guidance would steer from the empty prompt to itself, at twice the cost.
            return InTurn(prompts=("",), rows_per_prompt=self._batch_size, guidance_scale=1.0)
        return InTurn(
            prompts=PromptInputs(inputs=self.inputs).prompts.prompts,
            rows_per_prompt=self._batch_size,
            guidance_scale=self.inputs.config.guidance_scale,
        )

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """Of classifier-free guidance towards the tokens: lambdas are for gradients."""
        config = self.inputs.config
        is_default = config.sources["side_scales"][1] == DEFAULT
        return PROMPT_SCALES if is_default else config.side.scales

    @property
    def forwards(self) -> dict[tuple[str, float], int]:
        """Of the denoiser for one image in one step, by variant and scale."""
        guided = {(NAME, scale): self._asking((), scale).forwards for scale in self.scales}
        return {(PLAIN, 0.0): self.plain.forwards} | guided

    @property
    def relative_cost(self) -> float:
        """Of one image of every setting, in images of plain sampling."""
        return sum(self.forwards.values()) / self.plain.forwards

    def announce(self, num_images: int, report: ProgressCallback) -> None:
        """Say what it will cost, before anything is made.

        Raises:
            CheckpointError: No LoRA can be trained for the checkpoint.
        """
        pipeline: Any = self._pipeline
        require_supported(pipeline)
        parametrisation_of(pipeline)
        settings = self._settings
        cost = lora_cost(
            pipeline,
            num_samples=settings.num_samples,
            num_classes=settings.clusters_of(NAME),
            settings=self._training,
        )
        total = num_images * (1 + len(self.scales)) + settings.num_samples
        unit = (
            f"images, and {cost.num_steps:,} steps of training a LoRA of rank {settings.rank} "
            f"(at most {_cost_text(cost)}); what is kept from before is not made again"
        )
        report(Progress(done=0, total=total, resumed=0, unit=unit))

    def prepared(
        self,
        samples: NDArray[np.uint8],
        num_images: int,
        *,
        sampler_of: Callable[[Recipe], Sampler],
        report: ProgressCallback,
    ) -> Prepared:
        """Train, unless that was done before, and be ready to generate.

        Args:
            samples: ``(num_samples, height, width, channels)``, the checkpoint's own images.
            num_images: Of every guidance scale.
            sampler_of: Recipe -> its sampler of so many images.
            report: Told how training goes on.

        Raises:
            MemscanError: The samples have no clusters, or the LoRA learnt nothing.
        """
        labels = self._labels(samples)
        lora = self._trained(samples, labels, report)
        if not lora.record.learnt_something:
            raise MemscanError(_learnt_nothing(lora.record))
        is_of_cluster = labels.classes < labels.num_classes
        largest = max(labels.record.sizes) / int(is_of_cluster.sum())
        return Prepared(
            name=NAME,
            title=TITLE,
            labels=self._described(labels, num_images),
            training=_described_training(lora.record, chance=largest),
            samplers=tuple((scale, sampler_of(self._recipe(lora, scale))) for scale in self.scales),
            has_classifier=False,
        )

    def provenance(self) -> dict[str, str]:
        """What a result depends on besides the recipe of plain sampling."""
        settings, training = self._settings, self._training
        return {
            "samples": str(settings.num_samples),
            "clusters": str(settings.clusters_of(NAME)),
            "cohesion": f"{settings.cohesion_of(NAME):g}",
            "LoRA rank": str(training.rank),
            "LoRA steps": str(training.num_steps),
            "LoRA batch size": str(training.batch_size),
            "LoRA learning rates": f"{training.learning_rate:g}, tokens "
            f"{training.token_learning_rate:g}",
            "guidance scales of tokens": ", ".join(f"{scale:g}" for scale in self.scales),
        }

    @property
    def _settings(self) -> SideSettings:
        return self.inputs.config.side

    @property
    def _batch_size(self) -> int:
        return self.inputs.config.batch_size("text-to-image")

    @property
    def _pipeline(self) -> Any:
        return self.inputs.pipeline(self.inputs.config.dtype)

    @property
    def _training(self) -> LoraSettings:
        return replace(
            self.how,
            rank=self._settings.rank,
            num_steps=self._settings.training,
            seed=self.inputs.config.seed,
        )

    def _labels(self, samples: NDArray[np.uint8]) -> Labels:
        return cluster_labels(
            self.inputs.descriptor.describe(samples),
            num_clusters=self._settings.clusters_of(NAME),
            least_cohesion=self._settings.cohesion_of(NAME),
            assignment="rest",
            seed=self.inputs.config.seed,
        )

    def _trained(
        self, samples: NDArray[np.uint8], labels: Labels, report: ProgressCallback
    ) -> ClusterLora:
        """Of the samples of a cluster: what belongs to none has no token."""
        has_token = labels.classes < labels.num_classes
        shown, classes = samples[has_token], labels.classes[has_token]
        cost = lora_cost(
            self._pipeline,
            num_samples=len(shown),
            num_classes=labels.num_classes,
            settings=self._training,
        )
        return train_lora(
            self._pipeline,
            shown,
            classes,
            num_classes=labels.num_classes,
            settings=self._training,
            folder=self._folder(samples, labels),
            progress=_told(report, f"steps of training {NAME}: {_cost_text(cost)}"),
        )

    def _folder(self, samples: NDArray[np.uint8], labels: Labels) -> Path:
        known = {
            "samples": hashlib.sha256(np.ascontiguousarray(samples).data).hexdigest(),
            "labels": labels.fingerprint,
            "files": self.inputs.integrity.files,
            "dtype": self.inputs.config.dtype,
            "training": repr(self._training),
        }
        return self.cache_dir / "loras" / canonical_hash(known)

    def _asking(self, prompts: tuple[str, ...], scale: float) -> InTurn:
        return InTurn(prompts=prompts, rows_per_prompt=self._batch_size, guidance_scale=scale)

    def _recipe(self, lora: ClusterLora, scale: float) -> Recipe:
        record: Mapping[str, object] = {
            "lora": fingerprint_of(lora),
            "dtype": "float32",  # whatever the checkpoint is loaded in
        }
        return Recipe(
            inputs=self.inputs,
            cache_dir=self.cache_dir,
            prompting=self._asking(lora.prompts, scale),
            variant=Variant(record=record, load=lambda _: lora.pipeline),
        )

    def _described(self, labels: Labels, num_images: int) -> SurrogateLabels:
        record, num_turns = labels.record, -(-num_images // self._batch_size)
        asked = "the token of each in turn"
        if num_turns < labels.num_classes:
            asked = f"the tokens of the {num_turns} most cohesive in turn"
        return replace(
            record,
            sentence=f"{record.sentence}; images are asked for by {asked}, {self._batch_size} at a "
            "time, with classifier-free guidance, whose scale is given as lambda",
        )


def fingerprint_of(lora: ClusterLora) -> str:
    """SHA-256 of what was trained."""
    digest = hashlib.sha256(lora.record.rank.to_bytes(4, "little"))
    values = {n: each for n, each in lora.pipeline.unet.named_parameters() if "lora_" in n}
    values["tokens"] = lora.pipeline.text_encoder.get_input_embeddings().learned
    for name, tensor in sorted(values.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _told(report: ProgressCallback, unit: str) -> OnStep:
    """What was done when it is first told was done before."""
    resumed: int | None = None

    def tell(done: int, total: int) -> None:
        nonlocal resumed
        resumed = done if resumed is None else resumed
        report(Progress(done=done, total=total, resumed=resumed, unit=unit))

    return tell


def _cost_text(cost: LoraCost) -> str:
    return (
        f"{cost.trained_forwards:,} denoiser forwards with their gradient and "
        f"{cost.plain_forwards:,} without, {cost.num_parameters:,} parameters, "
        f"{cost.latent_bytes / 2**20:.1f} MiB of latents"
    )


def _described_training(record: LoraRecord, *, chance: float) -> SurrogateTraining:
    """There is no classifier, and so no accuracy: what is known is how much a token helps."""
    return SurrogateTraining(
        network=(
            f"LoRA of rank {record.rank} on the denoiser, and one token for each of "
            f"{record.num_classes} clusters (loss of held-out samples {record.loss_right:.4f} with "
            f"the token of their cluster, {record.loss_wrong:.4f} with another)"
        ),
        is_timed=True,
        num_parameters=record.num_parameters,
        num_samples=record.num_samples,
        num_held_out=record.num_held_out,
        num_steps=record.num_steps,
        batch_size=record.batch_size,
        learning_rate=max(record.learning_rate, record.token_learning_rate),
        seed=record.seed,
        chance=chance,
        accuracies=(),
    )


def _learnt_nothing(record: LoraRecord) -> str:
    advantage = record.advantage
    return (
        f"the LoRA of {NAME} learnt nothing: the loss of {record.num_held_out} held-out samples is "
        f"{record.loss_right:.4f} with the token of their cluster and {record.loss_wrong:.4f} with "
        f"another, and the difference, {advantage.value:.2g} or {advantage.lower:.2g} at the least "
        f"with {100 * advantage.confidence:.0f} % confidence, may be none; raise "
        "--memscan-side-training or --memscan-side-samples"
    )
