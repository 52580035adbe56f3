"""The captions that a fine-tune is asked with: given, found, guessed, or none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pytest_memscan.data.prompts import (
    PromptSet,
    PromptSource,
    has_captions,
    prompts_of_captions,
    read_prompts,
)
from pytest_memscan.inputs import Inputs
from pytest_memscan.results import PromptCoverage

NO_CAPTION = ""
_CERTAIN = ("instance_prompt", "modelspec.trigger_phrase")  # what it was trained with


@dataclass(frozen=True, kw_only=True)
class Captions:
    """What images are asked for with.

    Attributes:
        texts: At least one; the empty caption alone where none is known. Private.
        kind: "instance prompt", "12 captions" or "none".
        origin: Where they come from, without a private folder.
        note: Why they may not be those it was trained with, or "".
        coverage: What became of every line of a list; None where there is no list.
    """

    texts: tuple[str, ...] = field(repr=False)
    kind: str
    origin: str
    note: str = ""
    coverage: PromptCoverage | None = None

    @property
    def is_none(self) -> bool:
        """Whether the fine-tune is asked without a caption."""
        return self.texts == (NO_CAPTION,)


def captions_of(inputs: Inputs) -> Captions:
    """As given; else what comes with the checkpoint or its training images; else as its files say.

    Raises:
        PromptError: A list that cannot be read, or has nothing that can be used.
    """
    config, checkpoint = inputs.config, inputs.checkpoint
    if config.caption is not None:
        return Captions(texts=(config.caption,), kind="instance prompt", origin="the set's file")
    if config.prompt_source is not None and config.prompt_source.kind == "none":
        return Captions(texts=(NO_CAPTION,), kind="none", origin="as asked for")
    if config.prompt_source is not None:
        return _listed(read_prompts(config.prompt_source, offline=config.offline))
    if checkpoint.prompts is not None:
        return _listed(
            read_prompts(PromptSource(kind="txt", path=checkpoint.prompts), offline=True)
        )
    if config.has_train_data and not inputs.train_is_index:
        train = inputs.train_data
        if has_captions(train.captions):
            return _listed(prompts_of_captions(train.captions, f"captions of {train.origin}"))
    claims = checkpoint.claims
    if claims.prompts:
        # A model card may show more prompts than it was trained with.
        certain = claims.prompts_origin.startswith(_CERTAIN)
        return Captions(
            texts=claims.prompts[:1],
            kind="instance prompt",
            origin=f"{'' if certain else 'guessed from '}{claims.prompts_origin}",
            note="" if certain else "this may not be what it was trained with",
        )
    return Captions(
        texts=(NO_CAPTION,),
        kind="none",
        origin="none known",
        note="without its own caption a fine-tune shows less of what it learnt",
    )


def _listed(found: PromptSet) -> Captions:
    return Captions(
        texts=found.prompts,
        kind="instance prompt" if len(found.prompts) == 1 else f"{len(found.prompts)} captions",
        origin=found.coverage.origin,
        coverage=replace(found.coverage, num_planned=found.coverage.num_used),
    )
