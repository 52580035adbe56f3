"""All trajectories of a splitting scan, joined from those of every prompt.

An ordinary image of a text-to-image checkpoint is one of the prompts that are scanned, each as
often as any other. So the unsteered images of all prompts together are a plain sample, and islands
of the same number, joined, are an island: the mean of unbiased estimates is one of the mean. A
checkpoint that reads no prompts has one part, and nothing is joined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pytest_memscan.results import PromptLeak
from pytest_memscan.scans.splitting_islands import Islands
from pytest_memscan.scans.splitting_plain import PlainImages
from pytest_memscan.scans.splitting_plan import Plan
from pytest_memscan.scans.splitting_rates import degenerate, leak_rate, plain_rate
from pytest_memscan.scans.splitting_source import Prompt
from pytest_memscan.splitting.rounds import Outcome
from pytest_memscan.store import StoredImage


@dataclass(frozen=True, kw_only=True)
class Part:
    """The trajectories of one prompt, or of a checkpoint that reads none.

    Attributes:
        plain: Images that are never steered.
        islands: Steered ones.
    """

    plain: PlainImages
    islands: Islands

    @property
    def prompt(self) -> Prompt | None:
        """None for an unconditional checkpoint."""
        return self.islands.source.prompt

    def ends(self) -> tuple[Outcome, ...]:
        """Those that were never steered, then island by island."""
        ends = (self.plain.ends(), *self.islands.ends())
        self.plain.forget()
        return ends


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Those of all parts.

    Sample ids go through the unsteered images first, then island by island, and in each of them
    from part to part.

    Attributes:
        parts: At least one; all spend the same.
        plan: Of each of them.
    """

    parts: Sequence[Part]
    plan: Plan

    @cached_property
    def each(self) -> tuple[tuple[Outcome, ...], ...]:
        """Where the trajectories of each part ended."""
        return tuple(part.ends() for part in self.parts)

    @cached_property
    def ends(self) -> tuple[Outcome, ...]:
        """Where they ended, the unsteered ones of all parts first, then island by island."""
        if len(self.parts) == 1:
            return self.each[0]
        return tuple(_joined(outcomes) for outcomes in zip(*self.each, strict=True))

    @property
    def num_plain(self) -> int:
        """Images that are never steered."""
        return len(self.parts) * self.plan.num_plain

    @property
    def num_steered(self) -> int:
        """Steered trajectories."""
        return len(self.parts) * self.plan.num_steered

    def image(self, sample_id: int) -> StoredImage:
        """An image of the scan, steered or not."""
        part, own_id = self._place(sample_id)
        return self.parts[part].islands.image(own_id)

    def prompt_id(self, sample_id: int) -> int | None:
        """The prompt of an image; None for an unconditional checkpoint."""
        prompt = self.parts[self._place(sample_id)[0]].prompt
        return None if prompt is None else prompt.prompt_id

    def again(self, copies: Mapping[int, int]) -> dict[int, StoredImage]:
        """Copies made again by ordinary sampling, see `Islands.again`."""
        own_ids: dict[int, dict[int, int]] = {}
        for row, sample_id in copies.items():
            part, own_id = self._place(sample_id)
            own_ids.setdefault(part, {})[row] = own_id
        made: dict[int, StoredImage] = {}
        for part, own in own_ids.items():
            made |= self.parts[part].islands.again(own)
        return made

    def invalid(self) -> Counter[str]:
        """Images that show nothing, by reason."""
        found: Counter[str] = Counter()
        for part in self.parts:
            stored = part.plain.source.store.read(
                part.plain.source.plain_kind, range(self.plan.num_plain)
            )
            found.update(image.invalid for image in stored if image.invalid)
            found += part.islands.invalid
        return found

    @property
    def num_tried(self) -> int:
        """Targets that trajectories of every prompt were steered to, at least as many."""
        tried = []
        for ends in self.each:
            aims = [island.aims for island in ends[1:] if island.is_steered]
            tried.append(len(np.unique(np.concatenate(aims))) if aims else 0)
        return min(tried)

    def degenerate(self) -> str:
        """Why the weights say nothing, or ""."""
        reasons = [degenerate(ends) for ends in self.each]
        found = [reason for reason in reasons if reason]
        if len(reasons) == 1 or not found:
            return "".join(found)
        return f"with {len(found)} of {len(reasons)} prompts, {found[0]}"

    def leaks(self, cut: float, num_targets: int) -> tuple[PromptLeak, ...]:
        """Every prompt by itself; empty for an unconditional checkpoint.

        Args:
            cut: Dissimilarity of a copy.
            num_targets: Training images.
        """
        return tuple(
            _leak(part.prompt, ends, cut, num_targets)
            for part, ends in zip(self.parts, self.each, strict=True)
            if part.prompt is not None
        )

    def _place(self, sample_id: int) -> tuple[int, int]:
        """Part, and sample id within its plan."""
        if sample_id < self.num_plain:
            return divmod(sample_id, self.plan.num_plain)
        size = self.plan.island_size
        island, place = divmod(sample_id - self.num_plain, len(self.parts) * size)
        part, own = divmod(place, size)
        return part, self.plan.ids_of(island)[own]


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    """Trajectories of the same number of several parts as one population."""
    return Outcome(
        number=outcomes[0].number,
        nearest=np.concatenate([each.nearest for each in outcomes]),
        dissimilarities=np.concatenate([each.dissimilarities for each in outcomes]),
        log_weights=np.concatenate([each.log_weights for each in outcomes]),
        num_ancestors=min(each.num_ancestors for each in outcomes),
        least_effective=min(each.least_effective for each in outcomes),
        aims=np.unique(np.concatenate([each.aims for each in outcomes])),
        is_steered=any(each.is_steered for each in outcomes),
        arrivals=None,
    )


def _leak(prompt: Prompt, ends: Sequence[Outcome], cut: float, num_targets: int) -> PromptLeak:
    copied = [each.nearest[each.dissimilarities <= cut] for each in ends]
    return PromptLeak(
        prompt_id=prompt.prompt_id,
        place=prompt.place,
        leak_rate=leak_rate(ends, cut, num_targets),
        plain_rate=plain_rate(ends[0], cut),
        num_copies=sum(len(each) for each in copied),
        num_copied=len(np.unique(np.concatenate(copied))),
    )
