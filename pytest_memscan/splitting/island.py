"""One population of steered trajectories, from noise to images, and its weights.

Memory: the latents of the population, and ``population * aims`` distances. The noise that was used
and the clean predictions go to disk step by step, so that steering can be learnt from them and a
final image be made again alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.splitting.chain import Chain, Made, Step, clean_latents
from pytest_memscan.splitting.kept import Arrays, KeptIsland
from pytest_memscan.splitting.population import effective_share, select
from pytest_memscan.splitting.steering import Aims, Steering, limited, tilted


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """Where the trajectories of an island ended.

    Attributes:
        images: ``(num, channels, height, width)`` float32 in [0, 1].
        latents: ``(num, ...)`` float32, see `chain.Made`.
        finite: ``(num,)`` whether every prediction and every pixel was finite.
        log_weights: ``(num,)`` float64; the mean of ``exp(log_weights) * f(image)`` estimates the
            mean of ``f`` over ordinary images without bias.
        lineage: ``(num, 1 + num_steps)`` int64 place in the population where it began, then the
            one whose noise each step used.
        least_effective: Smallest effective share of the weights, after any selection.
    """

    images: torch.Tensor
    latents: torch.Tensor
    finite: NDArray[np.bool_]
    log_weights: NDArray[np.float64]
    lineage: NDArray[np.int64]
    least_effective: float

    @property
    def num_ancestors(self) -> int:
        """Starting points that the final images go back to."""
        return len(np.unique(self.lineage[:, 0]))


@dataclass(kw_only=True)
class Island:
    """Steers one population.

    Attributes:
        chain: The stochastic reverse process.
        seeds: One for each place of the population, below 2**32.
        aims: What it is steered to.
        steering: How.
        draws: Seed of the draws of survivors.
        kept: Where it goes on from after an interruption; None to keep nothing.
    """

    chain: Chain
    seeds: Sequence[int]
    aims: Aims
    steering: Steering
    draws: int
    kept: KeptIsland | None = None
    _log_weights: torch.Tensor = field(init=False)
    _lineage: NDArray[np.int64] = field(init=False)
    _parts: torch.Tensor | None = field(init=False, default=None)
    _least: float = field(init=False, default=1.0)
    _state: Arrays | None = field(init=False, default=None)
    _finite: torch.Tensor = field(init=False)

    def run(self) -> Arrived:
        """Run all trajectories to the end."""
        num = len(self.seeds)
        self._log_weights = torch.zeros(num, dtype=torch.float64)
        self._lineage = np.arange(num)[:, None]
        self._finite = torch.ones(num, dtype=torch.bool)
        self._state = None if self.kept is None else self.kept.state()
        skip = 0 if self._state is None else int(self._state["number"])
        output = self.chain.run(self.seeds, self._listen, skip=skip)
        images = output.images.float().cpu()
        finite = self._finite & images.isfinite().flatten(1).all(dim=1)
        return Arrived(
            images=images,
            latents=output.latents.float().cpu(),
            finite=finite.numpy(),
            log_weights=self._log_weights.numpy(),
            lineage=self._lineage,
            least_effective=self._least,
        )

    def _listen(self, step: Step) -> None:
        slope = float(self.steering.slopes[step.number])
        if self._state is not None:
            self._restore(step, self._state)
            self._state = None
        else:
            places = np.arange(len(self.seeds))
            self._lineage = np.concatenate([self._lineage, places[:, None]], axis=1)
            # Of the prediction: clean latents may have been clipped.
            self._finite &= step.prediction.flatten(1).isfinite().all(dim=1).cpu()
            self._parts = self._select(step, slope) if slope else None
        tilt = float(self.steering.tilts[step.number])
        if self._parts is not None and tilt and step.bridge:
            way = (self.aims.mean(self._parts) - step.clean).nan_to_num(0.0, 0.0, 0.0)
            direction = limited(step.bridge * way, tilt)
            step.noise, log_ratio = tilted(step.noise, direction, tilt)
            self._log_weights = self._log_weights + log_ratio.cpu()
        if self.kept is not None:
            noise, clean = step.noise.float().cpu().numpy(), step.clean.float().cpu().numpy()
            self.kept.keep_step(step.number, noise, clean)

    def _select(self, step: Step, slope: float) -> torch.Tensor:
        """Let promising trajectories go on more than once; returns the parts of the aims."""
        weights = self._log_weights.to(step.clean.device)
        promise, parts = self.aims.promise(step.clean, weights, slope)
        drawn = select(
            self._log_weights.numpy(),
            promise.cpu().numpy(),
            uniform=float(np.random.default_rng([self.draws, step.number]).random()),
        )
        if drawn is None:
            return parts
        survivors = torch.from_numpy(drawn.survivors)
        self._log_weights = torch.from_numpy(drawn.log_weights)
        # The noise of this step is that of the new place.
        self._lineage = np.concatenate(
            [self._lineage[drawn.survivors, :-1], self._lineage[:, -1:]], axis=1
        )
        self._finite = self._finite[survivors]
        chosen = survivors.to(step.clean.device)
        step.latents, step.prediction = step.latents[chosen], step.prediction[chosen]
        step.clean, parts = step.clean[chosen], parts[chosen]
        scores = drawn.log_weights + promise.cpu().numpy()[drawn.survivors]
        self._least = min(self._least, effective_share(scores))
        if self.kept is not None:
            self.kept.save_state(
                number=step.number,
                latents=step.latents.float().cpu().numpy(),
                prediction=step.prediction.float().cpu().numpy(),
                parts=parts.cpu().numpy(),
                log_weights=self._log_weights.numpy(),
                lineage=self._lineage,
                finite=self._finite.numpy(),
                least=np.float64(self._least),
            )
        return parts

    def _restore(self, step: Step, state: Arrays) -> None:
        """Go on from the last selection that was kept."""
        step.latents = torch.from_numpy(state["latents"]).to(step.latents)
        step.prediction = torch.from_numpy(state["prediction"]).to(step.prediction)
        scheduler = self.chain.pipeline.scheduler
        step.clean = clean_latents(scheduler, step.latents, step.prediction, step.timestep)
        self._parts = torch.from_numpy(state["parts"]).to(step.clean.device)
        self._log_weights = torch.from_numpy(state["log_weights"])
        self._lineage, self._finite = state["lineage"], torch.from_numpy(state["finite"])
        self._least = float(state["least"])


def again(chain: Chain, *, seeds: Sequence[int], noise: NDArray[np.float32]) -> Made:
    """The images that ordinary sampling makes of these starts and this noise.

    Args:
        chain: Of any batch size.
        seeds: Of the places where the trajectories began.
        noise: ``(num_steps, num, ...)``, as from `kept.KeptIsland.steps_of`.
    """

    def put_in(step: Step) -> None:
        step.noise = torch.from_numpy(noise[step.number]).to(step.latents)

    return chain.run(seeds, put_in)
