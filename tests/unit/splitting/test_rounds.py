"""Islands one after another: kept, gone on with, and steered by earlier ones alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from unit.splitting.models import exactly, nearest, pictures, pipeline, watched

from pytest_memscan.splitting import rounds as rounds_module
from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.island import again
from pytest_memscan.splitting.learning import Arrivals, Traces
from pytest_memscan.splitting.rounds import Outcome, Rounds

STEPS = 6
NUM = 32
CUT = 0.12
CLEAN = pictures(6)
SHARES = np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    """Makes six images, the first of them rarely."""
    made = pipeline()
    with exactly(made, CLEAN, torch.tensor([0.02, 0.2, 0.2, 0.2, 0.2, 0.18])):
        yield made


@pytest.fixture(scope="module")
def ordinary(pipe: Any) -> tuple[Traces, Arrivals | None]:
    traces = Traces()
    images = Chain(pipeline=pipe, num_steps=STEPS, batch_size=NUM).run(range(64), traces.listen)
    rows, distances = nearest(images.images, CLEAN)
    return traces, traces.arrivals(distances, rows, lambda rows: CLEAN[rows])


def rounds(pipe: Any, ordinary: Any, folder: Path, *, num: int = 3, **changes: Any) -> Rounds:
    arguments: dict[str, Any] = {
        "chain": Chain(pipeline=pipe, num_steps=STEPS, batch_size=NUM),
        "clean": lambda rows: CLEAN[rows],
        "match": lambda arrived: nearest(arrived.images, CLEAN),
        "cuts": [CUT, 0.16, 0.25],
        "seeds": [range(100 + NUM * n, 100 + NUM * (n + 1)) for n in range(num)],
        "draws": 5,
        "shares": SHARES,
        "ordinary": lambda: ordinary,
        "folder": folder,
    }
    folder.mkdir(exist_ok=True)
    return Rounds(**arguments | changes)


def assert_same(found: Sequence[Outcome], expected: Sequence[Outcome]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for each in fields(Outcome):
            if each.name == "arrivals":
                continue
            assert np.array_equal(getattr(one, each.name), getattr(other, each.name)), each.name
        assert (one.arrivals is None) == (other.arrivals is None)
        if one.arrivals is not None:
            for name, value in vars(one.arrivals).items():
                assert np.array_equal(value, getattr(other.arrivals, name)), name


def refuse() -> Any:
    raise AssertionError("nothing is left to learn")


def test_finished_islands_are_not_run_again(pipe: Any, ordinary: Any, tmp_path: Path) -> None:
    kept: list[int] = []
    first = rounds(pipe, ordinary, tmp_path, keep=lambda number, _: kept.append(number))
    expected = list(first.run())
    assert kept == [0, 1, 2]
    assert [each.number for each in expected] == [0, 1, 2]
    assert all(each.is_steered for each in expected)
    with watched(pipe) as seen:
        again = rounds(pipe, None, tmp_path, keep=lambda number, _: kept.append(number))
        again.ordinary = refuse
        assert_same(list(again.run()), expected)
        assert_same(list(first.run()), expected)
    assert (seen.shapes, kept) == ([], [0, 1, 2])


@pytest.mark.parametrize("call", [0, 5, 9, 17])
def test_interrupted_rounds_end_as_if_they_had_not_been(
    pipe: Any, ordinary: Any, tmp_path: Path, call: int
) -> None:
    """The same object or another one goes on; six calls for each island."""
    expected = list(rounds(pipe, ordinary, tmp_path / "whole").run())
    for folder in ("same", "other"):
        started = rounds(pipe, ordinary, tmp_path / folder)
        with watched(pipe, fail_at=call), pytest.raises(RuntimeError, match="the power went out"):
            list(started.run())
        goes_on = started if folder == "same" else rounds(pipe, ordinary, tmp_path / folder)
        with watched(pipe) as seen:
            assert_same(list(goes_on.run()), expected)
        assert len(seen.shapes) <= 3 * STEPS - call // STEPS * STEPS


def test_a_damaged_island_is_run_again_and_ends_alike(
    pipe: Any, ordinary: Any, tmp_path: Path
) -> None:
    expected = list(rounds(pipe, ordinary, tmp_path).run())
    path = tmp_path / "island-00001.result.npz"
    path.write_bytes(path.read_bytes()[:-10])
    with watched(pipe) as seen:
        assert_same(list(rounds(pipe, ordinary, tmp_path).run()), expected)
    assert len(seen.shapes) == STEPS


def test_an_island_knows_nothing_of_later_ones(pipe: Any, ordinary: Any, tmp_path: Path) -> None:
    three = list(rounds(pipe, ordinary, tmp_path / "3").run())
    two = list(rounds(pipe, ordinary, tmp_path / "2", num=2).run())
    assert_same(two, three[:2])
    # And the second is steered by what the first found: from other trajectories it differs.
    seeds = [range(9000, 9000 + NUM), range(100 + NUM, 100 + 2 * NUM)]
    other = list(rounds(pipe, ordinary, tmp_path / "other", seeds=seeds).run())
    assert not np.array_equal(other[1].log_weights, two[1].log_weights)


def test_with_nothing_to_learn_from_nothing_is_steered(
    pipe: Any, ordinary: Any, tmp_path: Path
) -> None:
    unlearnt = rounds(pipe, (ordinary[0], None), tmp_path, num=1)
    (outcome,) = unlearnt.run()
    assert not outcome.is_steered
    assert not outcome.log_weights.any()
    assert (outcome.num_ancestors, outcome.least_effective) == (NUM, 1.0)
    images = unlearnt.chain.run(range(100, 100 + NUM), lambda _: None).images
    rows, distances = nearest(images, CLEAN)
    assert np.array_equal(outcome.nearest, rows)
    np.testing.assert_allclose(outcome.dissimilarities, distances)


def test_more_images_than_aims_all_get_their_turn(
    pipe: Any, ordinary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the aims are the likeliest; of the other 10, two are drawn for each island."""
    monkeypatch.setattr(rounds_module, "MAX_AIMS", 4)
    clean = pictures(12)
    shares = np.full(12, 0.05)
    shares[[3, 7]] = 0.25
    num = 40
    many = rounds(
        pipe,
        (ordinary[0], None),
        tmp_path,
        chain=Chain(pipeline=pipe, num_steps=STEPS, batch_size=2),
        clean=lambda rows: clean[rows],
        match=lambda _: (np.zeros(2, np.int64), np.full(2, np.inf)),
        seeds=[[2 * n, 2 * n + 1] for n in range(num)],
        shares=shares,
    )
    aims = [each.aims for each in many.run()]
    assert all(len(each) == 4 and np.all(np.diff(each) > 0) for each in aims)
    assert all({3, 7} <= set(each.tolist()) for each in aims)
    counts = np.bincount(np.concatenate(aims), minlength=12)
    assert counts[[3, 7]].tolist() == [num, num]
    # Each of the others binomially, once in five: 8 times, give or take 4 standard deviations.
    others = np.delete(counts, [3, 7])
    assert others.min() >= 1
    assert others.max() <= 8 + 4 * np.sqrt(num * 0.2 * 0.8)


def test_the_closest_copy_of_each_image_is_made_again_alone(
    pipe: Any, ordinary: Any, tmp_path: Path
) -> None:
    done = rounds(pipe, ordinary, tmp_path)
    outcomes = list(done.run())
    nearest_rows = np.concatenate([each.nearest for each in outcomes])
    distances = np.concatenate([each.dissimilarities for each in outcomes])
    alone = Chain(pipeline=pipe, num_steps=STEPS, batch_size=1)
    num_copied = 0
    for row in range(len(CLEAN)):
        closest = distances[nearest_rows == row].min(initial=np.inf)
        copy = done.copy_of(row)
        assert (copy is None) == (closest > CUT)
        if copy is None:
            continue
        num_copied += 1
        assert copy["dissimilarity"] == closest
        image = again(alone, seeds=[int(copy["seed"])], noise=copy["noise"][:, None]).images
        found, distance = nearest(image, CLEAN)
        assert found[0] == row
        assert distance[0] == pytest.approx(closest, abs=1e-4)
    assert num_copied >= 2


def test_images_that_are_not_finite_are_no_copies(pipe: Any, ordinary: Any, tmp_path: Path) -> None:
    original, calls = pipe.unet.forward, 0

    def forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        output = original(sample, *args, **kwargs)
        if calls == STEPS:
            output.sample[3] = torch.inf
        return output

    pipe.unet.forward = forward
    try:
        (outcome,) = rounds(pipe, (ordinary[0], None), tmp_path, num=1).run()
    finally:
        pipe.unet.forward = original
    assert np.flatnonzero(np.isinf(outcome.dissimilarities)).tolist() == [3]


def test_rates_by_hand() -> None:
    outcome = Outcome(
        number=0,
        nearest=np.array([2, 0, 2, 1]),
        dissimilarities=np.array([0.1, 0.3, 0.2, np.inf]),
        log_weights=np.log([0.5, 2.0, 0.25, 8.0]),
        num_ancestors=4,
        least_effective=1.0,
        aims=np.arange(4),
        is_steered=True,
        arrivals=None,
    )
    np.testing.assert_allclose(outcome.rates(0.2, 4), [0, 0, 0.75 / 4, 0])
    np.testing.assert_allclose(outcome.rates(0.3, 4), [0.5, 0, 0.75 / 4, 0])
    assert outcome.rates(0.05, 4).tolist() == [0.0] * 4
