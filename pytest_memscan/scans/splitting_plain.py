"""Images of a splitting scan that are never steered: its plain sample, and what it learns from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from pytest_memscan.errors import TrainDataError
from pytest_memscan.scans.splitting_source import LATENT_BYTES, POPULATION, Source, Targets
from pytest_memscan.splitting.chain import Listener, Step
from pytest_memscan.splitting.learning import MAX_TRACED, MIN_TRACED, Arrivals, Traces
from pytest_memscan.splitting.rounds import Outcome
from pytest_memscan.store import StoredImage


@dataclass(kw_only=True)
class PlainImages:
    """The unsteered images of a scan.

    Attributes:
        source: Makes and keeps them.
        targets: What they are compared with.
        number: Of images.
    """

    source: Source
    targets: Targets
    number: int
    _traces: Traces | None = field(init=False, default=None)
    _ends: Outcome | None = field(init=False, default=None)

    def ends(self) -> Outcome:
        """All of them, as an island of its own where every trajectory has weight 1.

        Raises:
            TrainDataError: None of them is valid.
            StoreError: They do not stay where they are kept.
        """
        if self._ends is None:
            self._ends = self._compared(self._images())
        return self._ends

    def learnt_from(self) -> tuple[Traces, Arrivals | None]:
        """What the first of them went through.

        Remembered where they were made in this run, and else made again.
        """
        if self._traces is None:
            self._make_first()
        traces = self._traces or Traces()
        ends, count = self.ends(), len(self._first)
        arrived = traces.arrivals(
            ends.dissimilarities[:count], ends.nearest[:count], self.targets.clean
        )
        return traces, arrived

    def forget(self) -> None:
        """Free the memory of what they went through; it is made again should it be needed."""
        self._traces = None

    def _images(self) -> list[StoredImage]:
        for _ in range(2):  # again, should some turn out to be lost or changed on disk
            self._make_missing()
            images = list(self.source.store.read(self.source.plain_kind, range(self.number)))
            if len(images) == self.number:
                return images
        raise self.source.lost()

    def _compared(self, images: list[StoredImage]) -> Outcome:
        nearest, dissimilarities = self.targets.match(images)
        if not np.isfinite(dissimilarities).any():
            raise TrainDataError(
                f"none of the {self.number} generated images is valid "
                f"({', '.join(sorted({image.invalid for image in images}))}); the checkpoint makes "
                "no pictures with this sampler, so there is nothing to judge"
            )
        return Outcome(
            number=-1,
            nearest=nearest,
            dissimilarities=dissimilarities,
            log_weights=np.zeros(self.number),
            num_ancestors=self.number,
            least_effective=1.0,
            aims=np.empty(0, dtype=np.int64),
            is_steered=False,
            arrivals=None,
        )

    def _make_missing(self) -> None:
        stored = self.source.store.ids(self.source.plain_kind)
        resumed = sum(len(block) for block in self._blocks() if set(block) <= stored)
        done = resumed
        self.source.report(done, self.number, resumed=resumed)
        for block in self._blocks():
            if set(block) <= stored:
                continue
            if block == self._first:
                self._make_first()
            else:
                self._make(block, lambda _: None)
            done += len(block)
            self.source.report(done, self.number, resumed=resumed)

    @property
    def _first(self) -> range:
        """Those whose way is remembered, as many as there is memory for."""
        affordable = LATENT_BYTES // (4 * self.targets.values * self.source.steps)
        return range(min(self.number, max(MIN_TRACED, min(MAX_TRACED, affordable))))

    def _blocks(self) -> Iterator[range]:
        yield self._first
        at_once = max(MIN_TRACED, min(POPULATION, LATENT_BYTES // (4 * self.targets.num_pixels)))
        for start in range(self._first.stop, self.number, at_once):
            yield range(start, min(start + at_once, self.number))

    def _make_first(self) -> None:
        traces = Traces()
        self._make(self._first, traces.listen)
        self._traces = traces

    def _make(self, ids: range, listen: Listener) -> None:
        finite = torch.ones(len(ids), dtype=torch.bool)

        def watch(step: Step) -> None:
            finite.logical_and_(step.prediction.flatten(1).isfinite().all(dim=1).cpu())
            listen(step)

        output = self.source.chain.run(self.source.seeds(ids), watch)
        if not set(ids) <= self.source.store.ids(self.source.plain_kind):
            self.source.keep(self.source.plain_kind, ids, output.images, finite.numpy())
