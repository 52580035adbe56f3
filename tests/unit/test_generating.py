"""What a recipe hands to generation when its variant is guided by the rows of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from checkpoint_factory import save_tiny_checkpoint
from unit.conftest import Resolve

from pytest_memscan.generating import Recipe, Variant
from pytest_memscan.generation import PlanRow
from pytest_memscan.inputs import Inputs
from pytest_memscan.settings import Budget
from pytest_memscan.store import ImageStore

BATCH = 4
Make = Callable[..., Recipe]


@pytest.fixture
def recipe(resolve: Resolve, tmp_path: Path) -> Make:
    """The recipe of a run on a tiny checkpoint, with a variant made from its inputs."""
    folder = save_tiny_checkpoint(tmp_path / "model")
    config = resolve(model=str(folder), steps="2", batch_size=str(BATCH))
    progress: Any = lambda _: nullcontext(lambda _: None)  # noqa: E731
    inputs = Inputs(config=config, cache_dir=tmp_path, progress=progress)

    def make(**changes: Any) -> Recipe:
        variant = Variant(record={"guided": "by rows"}, load=inputs.pipeline, **changes)
        return Recipe(inputs=inputs, cache_dir=tmp_path, variant=variant if changes else None)

    return make


def noting(events: list[str]) -> dict[str, Any]:
    """Both contexts of a variant; they note when they are opened."""

    @contextmanager
    def attached(_: Any) -> Iterator[None]:
        events.append("attached")
        yield
        events.append("detached")

    @contextmanager
    def guided(_: Any, rows: Sequence[PlanRow]) -> Iterator[None]:
        events.append(" ".join(str(row.sample_id) for row in rows))
        yield

    return {"attached": attached, "guided": guided}


def test_every_batch_of_a_variant_is_guided_within_what_is_attached(recipe: Make) -> None:
    events: list[str] = []
    made = recipe(**noting(events))
    with closing(ImageStore(made.store_dir, spec=made.spec)) as store:
        sampler = made.sampler(store, num_images=6, report=lambda _: None)
        assert sum(len(ids) for ids, _ in sampler.blocks(Counter())) == 6
    assert events == ["attached", "0 1 2 3", "4 5 6 7", "detached"]


def test_a_budget_of_time_is_measured_guided(recipe: Make) -> None:
    events: list[str] = []
    made = recipe(**noting(events))
    with closing(ImageStore(made.store_dir, spec=made.spec)) as store:
        number = made.images_of(Budget(seconds=3600.0), store)
        assert made.images_of(Budget(seconds=3600.0), store) == number
    assert number >= 1
    assert events == ["attached", "0 1 2 3", "detached"]


def test_without_a_variant_or_its_guidance_nothing_is_guided(recipe: Make) -> None:
    pixels = []
    for made in (recipe(), recipe(attached=lambda _: nullcontext())):
        with closing(ImageStore(made.store_dir, spec=made.spec)) as store:
            sampler = made.sampler(store, num_images=2, report=lambda _: None)
            pixels.append(next(sampler.blocks(Counter()))[1])
    assert (pixels[0] == pixels[1]).all()
