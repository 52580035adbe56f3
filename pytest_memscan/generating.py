"""What generation depends on, and the store that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.errors import OptionError
from pytest_memscan.inputs import Inputs
from pytest_memscan.settings import Budget

if TYPE_CHECKING:
    from pytest_memscan.generation import ProgressCallback, Prompting
    from pytest_memscan.sampler import Sampler
    from pytest_memscan.store import ImageStore


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How images are generated in this run; another recipe, another folder.

    Attributes:
        inputs: Checkpoint and settings.
        cache_dir: Where generated images are kept.
        prompting: Of a text-to-image checkpoint.
    """

    inputs: Inputs = field(repr=False)
    cache_dir: Path = field(repr=False)
    prompting: Prompting | None = None

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
        pipeline = self.inputs.pipeline(config.dtype)
        num_timesteps = pipeline.scheduler.config.num_train_timesteps
        if config.steps > num_timesteps:
            raise OptionError(
                f"--memscan-steps {config.steps}: the checkpoint was trained with "
                f"{num_timesteps} timesteps; ask for at most that many"
            )
        device = self.inputs.device
        return {
            "files": verify(self.inputs.checkpoint.folder).files,
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
        }

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
            "pytest-memscan": version("pytest-memscan"),
        }

    def sampler(self, store: ImageStore, *, num_images: int, report: ProgressCallback) -> Sampler:
        """Draws ``num_images`` rows from the checkpoint."""
        from pytest_memscan.sampler import Sampler

        config = self.inputs.config
        return Sampler(
            load_pipeline=self.inputs.pipeline,
            store=store,
            num_images=num_images,
            seed=config.seed,
            batch_size=self.batch_size,
            steps=config.steps,
            dtype=config.dtype,
            prompting=self.prompting,
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
            rate = images_per_second(
                self.inputs.pipeline(config.dtype),
                batch_size=self.batch_size,
                steps=config.steps,
                plan_seed=config.seed,
                prompting=self.prompting,
            )
            kept = str(min(2**32, max(1, int(rate * seconds))))
            store.set_note(note, kept)
        return int(kept)
