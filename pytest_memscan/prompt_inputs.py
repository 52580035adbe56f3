"""What a text-to-image scan is given besides images: prompts, planted strings, negatives."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_memscan.data.negatives import random_strings, recombined
from pytest_memscan.data.prompts import (
    PROBE,
    PromptSet,
    PromptSource,
    count_truncated,
    has_captions,
    prompts_of_captions,
    read_prompts,
)
from pytest_memscan.errors import PromptError
from pytest_memscan.inputs import Inputs

if TYPE_CHECKING:
    from pytest_memscan.scans.prompt_images import Texts

NUM_NEGATIVES = 24  # of each form
MIN_RECOMBINED = 16  # where the prompts give fewer, those of the probe list help out


@dataclass(frozen=True, kw_only=True)
class PromptInputs:
    """Made from the settings of a run, when first asked for and once."""

    inputs: Inputs = field(repr=False)

    @cached_property
    def prompts(self) -> PromptSet:
        """As given; else what comes with the checkpoint or its training images; else the probe.

        Raises:
            PromptError: They cannot be read, or none can be used.
        """
        config = self.inputs.config
        builtin = self.inputs.checkpoint.prompts
        if config.prompt_source is not None:
            found = read_prompts(config.prompt_source, offline=config.offline)
        elif builtin is not None:
            found = read_prompts(PromptSource(kind="txt", path=builtin), offline=True)
        elif self._has_captions:
            train = self.inputs.train_data
            found = prompts_of_captions(train.captions, f"captions of {train.origin}")
        else:
            found = read_prompts(PROBE, offline=True)
            found = replace(found, coverage=replace(found.coverage, is_default=True))
        return self._counted(found)

    @cached_property
    def canaries(self) -> PromptSet | None:
        """Strings planted before fine-tuning, when given."""
        config = self.inputs.config
        if config.canary_source is None:
            return None
        return self._counted(read_prompts(config.canary_source, offline=config.offline))

    @cached_property
    def texts(self) -> Texts:
        """Everything that images may be made of, with negatives of the same forms.

        Raises:
            PromptError: Nothing but planted strings.
        """
        from pytest_memscan.scans.prompt_images import Texts

        seed = self.inputs.config.seed
        canaries = () if self.canaries is None else self.canaries.prompts
        planted = set(canaries)
        prompts = tuple(each for each in self.prompts.prompts if each not in planted)
        if not prompts:
            raise PromptError(
                f"every prompt of {self.prompts.coverage.origin} is a planted string of "
                f"--memscan-canaries too; give --memscan-prompts others"
            )
        negatives = recombined(prompts, NUM_NEGATIVES, seed=seed)
        if len(negatives) < MIN_RECOMBINED:
            probe = read_prompts(PROBE, offline=True).prompts
            negatives += recombined(probe, NUM_NEGATIVES - len(negatives), seed=seed)
        strings = [*canaries, *(each for each in prompts if " " not in each)]
        return Texts(
            prompts=prompts,
            canaries=canaries,
            recombined=negatives,
            strings=random_strings(NUM_NEGATIVES, seed=seed, like=strings),
        )

    @property
    def fingerprint(self) -> str:
        """sha256 of what prompts and planted strings are numbered in."""
        from pytest_memscan.store import canonical_hash

        return canonical_hash({"prompts": self.texts.prompts, "canaries": self.texts.canaries})

    @property
    def places(self) -> list[str]:
        """Where each prompt and then each planted string was found, without names of files."""
        place_of = dict(zip(self.prompts.prompts, self.prompts.places, strict=True))
        if self.canaries is not None:
            place_of |= dict(zip(self.canaries.prompts, self.canaries.places, strict=True))
        given = (*self.texts.prompts, *self.texts.canaries)
        return [_public(place_of[text]) for text in given]

    @property
    def _has_captions(self) -> bool:
        config = self.inputs.config
        if not config.has_train_data or self.inputs.train_is_index:
            return False
        return has_captions(self.inputs.train_data.captions)

    def _counted(self, found: PromptSet) -> PromptSet:
        pipeline = self.inputs.pipeline(self.inputs.config.dtype)
        names = ("tokenizer", "tokenizer_2", "tokenizer_3")
        tokenizers = [each for name in names if (each := getattr(pipeline, name, None)) is not None]
        truncated = count_truncated(found.prompts, tokenizers)
        return replace(found, coverage=replace(found.coverage, num_truncated=truncated))


def _public(place: str) -> str:
    """A place may name somebody's file; what follows the name is enough to find it."""
    found = re.search(r"(line|row) \d+$|train#\d+$", place)
    return found[0] if found else ""
