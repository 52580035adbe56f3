"""An island goes on where it stood, and each of its images can be made again alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.splitting.models import SHAPE, exactly, pictures, pipeline, watched

from pytest_memscan.denoising.attach import replaced
from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.island import Arrived, Island, again
from pytest_memscan.splitting.kept import KeptIsland
from pytest_memscan.splitting.steering import Aims, Steering

STEPS = 6
NUM = 24
CLEAN = pictures(4)
STRONG = Steering(
    tilts=np.array([0.5, 0.5, 0.3, 0.1, 0, 0]), slopes=np.array([300.0, 0, 30, 0, 10, 0])
)
NONE = Steering(tilts=np.zeros(STEPS), slopes=np.zeros(STEPS))


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    """Makes four images, the first of them rarely."""
    made = pipeline()
    with exactly(made, CLEAN, torch.tensor([0.02, 0.3, 0.3, 0.38])):
        yield made


def island(pipe: Any, how: Steering = STRONG, kept: KeptIsland | None = None) -> Island:
    aims = Aims(clean=CLEAN[:2], log_shares=torch.tensor([0.8, 0.2]).double().log())
    chain = Chain(pipeline=pipe, num_steps=STEPS, batch_size=8)
    seeds = range(100, 100 + NUM)
    return Island(chain=chain, seeds=seeds, aims=aims, steering=how, draws=7, kept=kept)


def assert_same(found: Arrived, expected: Arrived) -> None:
    assert torch.equal(found.images, expected.images)
    for name in ("finite", "log_weights", "lineage"):
        assert np.array_equal(getattr(found, name), getattr(expected, name))
    assert found.least_effective == expected.least_effective


def test_without_steering_it_is_the_chain(pipe: Any) -> None:
    plain = island(pipe, NONE)
    arrived = plain.run()
    images = plain.chain.run(plain.seeds, lambda _: None).images
    assert torch.equal(arrived.images, images)
    assert not arrived.log_weights.any()
    assert arrived.finite.all()
    assert np.array_equal(arrived.lineage, np.tile(np.arange(NUM)[:, None], (1, STEPS + 1)))
    assert (arrived.num_ancestors, arrived.least_effective) == (NUM, 1.0)


@pytest.mark.parametrize("call", range(0, 18, 2))
def test_an_interrupted_island_ends_as_if_it_had_not_been(
    pipe: Any, tmp_path: Path, call: int
) -> None:
    """Three calls of the denoiser at each step; survivors are drawn at steps 0, 2 and 4."""
    expected = island(pipe).run()
    kept = KeptIsland(folder=tmp_path, name="island")
    with (
        watched(pipe, fail_at=call),
        pytest.raises(RuntimeError, match="the power went out"),
    ):
        island(pipe, kept=kept).run()
    with watched(pipe) as seen:
        found = island(pipe, kept=kept).run()
    assert_same(found, expected)
    # What came before the last selection is not asked for again.
    step = call // 3
    assert len(seen.shapes) == 3 * (STEPS - (0 if step < 3 else 2 if step < 5 else 4))
    assert_same(island(pipe, kept=kept).run(), expected)


def test_a_damaged_state_is_begun_again(pipe: Any, tmp_path: Path) -> None:
    expected = island(pipe).run()
    kept = KeptIsland(folder=tmp_path, name="island")
    with watched(pipe, fail_at=16), pytest.raises(RuntimeError):
        island(pipe, kept=kept).run()
    state = tmp_path / "island.state.npz"
    state.write_bytes(state.read_bytes()[:-40])
    with watched(pipe) as seen:
        assert_same(island(pipe, kept=kept).run(), expected)
    assert len(seen.shapes) == 3 * STEPS


@pytest.mark.parametrize("first_slope", [0.0, 300.0])
def test_every_image_is_made_again_alone_from_its_lineage(
    pipe: Any, tmp_path: Path, first_slope: float
) -> None:
    """Also where survivors were drawn before the first noise."""
    kept = KeptIsland(folder=tmp_path, name="island")
    slopes = np.array([first_slope, 0, 30, 0, 10, 0])
    steered = island(pipe, Steering(tilts=STRONG.tilts, slopes=slopes), kept)
    arrived = steered.run()
    assert arrived.num_ancestors < NUM
    assert arrived.num_ancestors == len(set(arrived.lineage[:, 0].tolist()))
    began, first_noise = arrived.lineage[:, 0], arrived.lineage[:, 1]
    assert np.array_equal(began, first_noise) == (not first_slope)
    alone = Chain(pipeline=pipe, num_steps=STEPS, batch_size=1)
    for row in range(0, NUM, 5):
        noise, predicted = kept.steps_of(arrived.lineage[row : row + 1, 1:], (NUM, *SHAPE))
        seed = steered.seeds[int(arrived.lineage[row, 0])]
        image = again(alone, seeds=[seed], noise=noise).images[0]
        torch.testing.assert_close(image, arrived.images[row], rtol=1e-4, atol=1e-4)
        last = torch.from_numpy(predicted[-1, 0]) / 2 + 0.5
        torch.testing.assert_close(last.clamp(0, 1), arrived.images[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_said_and_harms_no_other(pipe: Any, broken: float) -> None:
    """An infinite prediction counts too, though the scheduler clips what follows from it."""
    original, calls = pipe.unet.forward, 0

    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        output = original(sample, *args, **kwargs)
        if calls == 3 * STEPS - 2:  # the first batch of the last step
            output.sample[1] = broken
        return output

    with replaced(pipe.unet, "forward", forward):
        found = island(pipe, NONE).run()
    expected = island(pipe, NONE).run()
    others = np.arange(NUM) != 1
    assert np.array_equal(found.finite, others)
    assert torch.equal(found.images[others], expected.images[others])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_broke_early_is_known_by_its_lineage_and_the_others_go_on(
    pipe: Any, broken: float
) -> None:
    original, calls = pipe.unet.forward, 0

    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        output = original(sample, *args, **kwargs)
        if calls == 1:
            output.sample[:2] = broken
        return output

    with replaced(pipe.unet, "forward", forward):
        arrived = island(pipe).run()
    assert np.isfinite(arrived.log_weights).all()
    assert np.array_equal(arrived.finite, ~np.isin(arrived.lineage[:, 0], [0, 1]))
    assert arrived.finite.sum() > NUM / 2
    assert arrived.images[torch.from_numpy(arrived.finite)].isfinite().all()
