"""What a run scans: the checkpoint, the base where there is one, and both as pipelines.

Everything is made when first asked for, and once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_memscan.checkpoints.integrity import verify_checkpoint
from pytest_memscan.checkpoints.resolve import BASE, FORM_TEXTS, ResolvedCheckpoint, resolve
from pytest_memscan.checks import Situation
from pytest_memscan.config import Config
from pytest_memscan.errors import CheckpointError
from pytest_memscan.results import Integrity

if TYPE_CHECKING:
    from pytest_memscan.checkpoints.families import Kind
    from pytest_memscan.checkpoints.finetunes import Finetune
    from pytest_memscan.generation import Pipeline


@dataclass(frozen=True, kw_only=True)
class Models:
    """Made from the settings of a run.

    Attributes:
        config: What the user asked for.
    """

    config: Config
    _pipelines: dict[str, Pipeline] = field(default_factory=dict, repr=False)
    _finetunes: dict[str, Finetune] = field(default_factory=dict, repr=False)

    @cached_property
    def checkpoint(self) -> ResolvedCheckpoint:
        """The checkpoint on disk, vetted.

        Raises:
            CheckpointError: It cannot be found, or must not be loaded.
        """
        checkpoint = resolve(self.config.model, offline=self.config.offline)
        verify_checkpoint(checkpoint)
        return checkpoint

    @cached_property
    def base(self) -> ResolvedCheckpoint | None:
        """What it was fine-tuned from, vetted, where that is known.

        Raises:
            CheckpointError: It cannot be found, must not be loaded, or nothing says what it is
                although the checkpoint cannot be loaded without it.
        """
        spec = self._base_spec
        if spec is None:
            if self.checkpoint.form == "pipeline":
                return None
            raise CheckpointError(
                f"{self.checkpoint.label} is a {FORM_TEXTS[self.checkpoint.form]}, and its files "
                "do not say which checkpoint it belongs to; pass the one it was trained from with "
                "--memscan-base MODEL"
            )
        base = resolve(spec, offline=self.config.offline, option=BASE)
        verify_checkpoint(base)
        return base

    @property
    def base_origin(self) -> str:
        """Where the base was learnt: an option, or a file of the checkpoint."""
        return self.config.base_origin or self.checkpoint.claims.base_origin

    @property
    def _base_spec(self) -> str | None:
        config = self.config
        if config.base is not None:
            return config.base
        asked = self.checkpoint.form != "pipeline" or "finextract" in (config.scans or ())
        return self.checkpoint.claims.base if asked else None

    @cached_property
    def integrity(self) -> Integrity:
        """What was found in the files that are loaded, with those of a base."""
        base = self.base if self.situation.has_base else None
        return verify_checkpoint(self.checkpoint, base)

    @cached_property
    def situation(self) -> Situation:
        """What decides which checks apply, now that the checkpoint is here."""
        if self.config.concepts:
            return self.config.situation
        return self.config.situation.settled(self.kind, has_base=self._base_spec is not None)

    @cached_property
    def device(self) -> str:
        """cpu, cuda or cuda:N."""
        from pytest_memscan.checkpoints.load import resolve_device

        return resolve_device(self.config.device)

    @cached_property
    def kind(self) -> Kind:
        """Whether the checkpoint needs prompts."""
        return self.config.kind or self.checkpoint.kind

    def pipeline(self, dtype: str) -> Pipeline:
        """The checkpoint's pipeline on its device."""
        from pytest_memscan.checkpoints.load import load_text_to_image, load_unconditional

        if self.checkpoint.form != "pipeline":
            pipeline: Pipeline = self.finetune(dtype).pipeline
            return pipeline
        if dtype not in self._pipelines:
            load = load_text_to_image if self.kind == "text-to-image" else load_unconditional
            self._pipelines[dtype] = load(self.checkpoint, device=self.device, dtype=dtype)
        return self._pipelines[dtype]

    def finetune(self, dtype: str) -> Finetune:
        """The checkpoint with its base, both on their device.

        Raises:
            CheckpointError: They do not belong together, or no base is known.
        """
        from pytest_memscan.checkpoints.finetunes import load_finetune

        if dtype not in self._finetunes:
            base = self.base
            if base is None:
                raise CheckpointError(
                    "no base is known; pass the checkpoint it was fine-tuned from with "
                    "--memscan-base MODEL"
                )
            self._finetunes[dtype] = load_finetune(
                self.checkpoint,
                base,
                base_origin=self.base_origin,
                device=self.device,
                dtype=dtype,
            )
        return self._finetunes[dtype]

    def forget_models(self) -> None:
        """Free the memory of loaded models; they are loaded again when asked for."""
        self._pipelines.clear()
        self._finetunes.clear()
