"""What generation depends on, and the store that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.errors import OptionError
from pytest_memscan.inputs import Inputs
from pytest_memscan.results import MEASUREMENT_VERSION
from pytest_memscan.settings import Budget

if TYPE_CHECKING:
    from pytest_memscan.generation import Guided, Pipeline, ProgressCallback, Prompting
    from pytest_memscan.sampler import Sampler
    from pytest_memscan.store import ImageStore


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another way of generating from the checkpoint than its own pipeline as it is.

    Attributes:
        record: What an image depends on besides; part of the recipe.
        load: dtype -> pipeline on its device.
        attached: Given the pipeline, a context in which its denoiser answers as it should.
        guided: Given the pipeline and the rows of a batch, a context in which its denoiser
            answers as it should for these rows; None where the rows make no difference.
    """

    record: Mapping[str, object]
    load: Callable[[str], Pipeline] = field(repr=False)
    attached: Callable[[Pipeline], AbstractContextManager[None]] = field(
        default=lambda _: nullcontext(), repr=False
    )
    guided: Guided | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How images are generated in this run; another recipe, another folder.

    Attributes:
        inputs: Checkpoint and settings.
        cache_dir: Where generated images are kept.
        prompting: Of a text-to-image checkpoint.
        variant: None for the checkpoint's own pipeline as it is.
    """

    inputs: Inputs = field(repr=False)
    cache_dir: Path = field(repr=False)
    prompting: Prompting | None = None
    variant: Variant | None = None

    @property
    def batch_size(self) -> int:
        """Images in every denoiser call."""
        return self.inputs.config.batch_size(self.inputs.kind)

    @cached_property
    def store_dir(self) -> Path:
        """Where its images are kept."""
        from pytest_memscan.store import canonical_hash

        return self.cache_dir / "generated" / canonical_hash(self.spec)

    @cached_property
    def spec(self) -> dict[str, object]:
        """All that an image depends on besides its plan row.

        Raises:
            OptionError: More steps than the checkpoint was trained with timesteps.
        """
        import torch

        config = self.inputs.config
        pipeline = self._load(config.dtype)
        num_timesteps = pipeline.scheduler.config.num_train_timesteps
        if config.steps > num_timesteps:
            raise OptionError(
                f"--memscan-steps {config.steps}: the checkpoint was trained with "
                f"{num_timesteps} timesteps; ask for at most that many"
            )
        device = self.inputs.device
        return {
            "files": self.inputs.integrity.files,
            "pipeline": type(pipeline).__name__,
            "scheduler": type(pipeline.scheduler).__name__,
            "steps": config.steps,
            "eta": 0.0,
            "seed": config.seed,
            "batch size": self.batch_size,
            "dtype": config.dtype,
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
            "torch": version("torch"),
            "diffusers": version("diffusers"),
            **({} if self.prompting is None else self._of_prompts(self.prompting)),
            **({} if self.variant is None else self.variant.record),
        }

    @property
    def _load(self) -> Callable[[str], Pipeline]:
        return self.inputs.pipeline if self.variant is None else self.variant.load

    @property
    def _guided(self) -> Guided:
        from pytest_memscan.generation import unguided

        guided = None if self.variant is None else self.variant.guided
        return unguided if guided is None else guided

    def _of_prompts(self, prompting: Prompting) -> dict[str, object]:
        from pytest_memscan.store import canonical_hash

        scale = prompting.guidance_scale
        return {
            "prompts": canonical_hash({"texts": prompting.prompts}),
            "rows per prompt": prompting.rows_per_prompt,
            "guidance scale": "the pipeline's own" if scale is None else scale,
            "transformers": version("transformers"),
        }

    def provenance(self) -> dict[str, str]:
        """What must match before two results may be compared."""
        inputs = self.inputs
        spec = {name: str(value) for name, value in self.spec.items() if name != "files"}
        return {
            "checkpoint": inputs.checkpoint.label,
            "checkpoint commit": inputs.checkpoint.commit or "local files",
            **inputs.fingerprints,
            "image size": str(inputs.shape),
            **spec,
            "measurement": str(MEASUREMENT_VERSION),
            "pytest-memscan": version("pytest-memscan"),
        }

    def sampler(self, store: ImageStore, *, num_images: int, report: ProgressCallback) -> Sampler:
        """Draws ``num_images`` rows from the checkpoint."""
        from pytest_memscan.sampler import Sampler

        config = self.inputs.config
        return Sampler(
            load_pipeline=self._load,
            store=store,
            num_images=num_images,
            seed=config.seed,
            batch_size=self.batch_size,
            steps=config.steps,
            dtype=config.dtype,
            prompting=self.prompting,
            attached=(lambda _: nullcontext()) if self.variant is None else self.variant.attached,
            guided=self._guided,
            progress=report,
        )

    def images_of(self, budget: Budget, store: ImageStore) -> int:
        """Images that a budget allows; time is turned into a number once and remembered."""
        if budget.num_images is not None:
            return budget.num_images
        seconds = budget.seconds or 0.0
        note = f"images in {seconds:g} s"
        kept = store.note(note)
        if kept is None:
            from pytest_memscan.generation import images_per_second

            config = self.inputs.config
            pipeline = self._load(config.dtype)
            attached = nullcontext() if self.variant is None else self.variant.attached(pipeline)
            with attached:
                rate = images_per_second(
                    pipeline,
                    batch_size=self.batch_size,
                    steps=config.steps,
                    plan_seed=config.seed,
                    prompting=self.prompting,
                    guided=self._guided,
                )
            kept = str(min(2**32, max(1, int(rate * seconds))))
            store.set_note(note, kept)
        return int(kept)
