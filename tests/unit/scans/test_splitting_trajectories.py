"""Trajectories of several prompts, joined: which is whose, and what they say together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import smooth_images

from pytest_memscan.generation import NON_FINITE, Progress, why_invalid
from pytest_memscan.results import PromptCoverage
from pytest_memscan.scans.splitting_islands import STEERED, Islands
from pytest_memscan.scans.splitting_plain import PlainImages
from pytest_memscan.scans.splitting_plan import Plan
from pytest_memscan.scans.splitting_prompting import SplitPrompting
from pytest_memscan.scans.splitting_rates import leak_rate, plain_rate
from pytest_memscan.scans.splitting_source import Prompt, Source, Targets
from pytest_memscan.scans.splitting_trajectories import Part, Trajectories
from pytest_memscan.similarity.reference import prepare
from pytest_memscan.splitting.learning import MIN_TRACED
from pytest_memscan.splitting.rounds import Outcome
from pytest_memscan.store import ImageStore, StoredImage

CUT = 0.5
NUM_TARGETS = 4
PLAN = Plan(num_plain=3, num_islands=2, island_size=2, num_levels=1, num_screened=NUM_TARGETS)
OWN_IDS = (range(3), range(3, 5), range(5, 7))  # of `PLAN`: unsteered, then island by island
PROMPT_IDS = (2, 5, 9)


def outcome(
    dissimilarities: Sequence[float],
    nearest: Sequence[int],
    weights: Sequence[float] | None = None,
    **changed: Any,
) -> Outcome:
    told = Outcome(
        number=0,
        nearest=np.array(nearest),
        dissimilarities=np.array(dissimilarities, dtype=float),
        log_weights=np.log(np.ones(len(nearest)) if weights is None else np.array(weights)),
        num_ancestors=2,
        least_effective=1.0,
        aims=np.empty(0, dtype=np.int64),
        is_steered=False,
        arrivals=None,
    )
    return replace(told, **changed)


def island(*aims: int, is_steered: bool = True, **changed: Any) -> Outcome:
    """Of two trajectories that came close to nothing."""
    return outcome([9, 9], [0, 0], aims=np.array(aims), is_steered=is_steered, **changed)


@dataclass(frozen=True, kw_only=True)
class Told(Part):
    """A part whose trajectories ended as a test says."""

    told: tuple[Outcome, ...] = field(default=())

    def ends(self) -> tuple[Outcome, ...]:
        return self.told


@dataclass(kw_only=True)
class Remade(Islands):
    """Makes a copy again as an image of one level, the number of its prompt."""

    def again(self, copies: Mapping[int, int]) -> dict[int, StoredImage]:
        prompt = self.source.prompt
        level = 0 if prompt is None else prompt.prompt_id
        pixels = np.full((8, 8, 3), level, dtype=np.uint8)
        return {
            row: StoredImage(sample_id=own_id, seed=0, invalid="", pixels=pixels)
            for row, own_id in copies.items()
        }


def never(dtype: str) -> Any:
    raise AssertionError(f"nothing is to be made, and a pipeline was loaded in {dtype}")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore(tmp_path / "store", spec={})
    yield store
    store.close()


@pytest.fixture(scope="module")
def targets() -> Targets:
    pixels = smooth_images(NUM_TARGETS, size=8)
    return Targets(reference=prepare(pixels), pixels=pixels)


class Joiner:
    """Parts of one store."""

    def __init__(self, store: ImageStore, targets: Targets) -> None:
        self.store, self.targets = store, targets

    def part(self, prompt: Prompt | None, ends: Sequence[Outcome], plan: Plan) -> Told:
        source = Source(
            load_pipeline=never,
            store=self.store,
            seed=0,
            batch_size=2,
            steps=4,
            dtype="float32",
            progress=lambda _: None,
            prompt=prompt,
        )
        plain = PlainImages(source=source, targets=self.targets, number=plan.num_plain)
        islands = Remade(
            source=source, targets=self.targets, plan=plan, plain=plain, cut=CUT, spec={}
        )
        return Told(plain=plain, islands=islands, told=tuple(ends))

    def __call__(self, *ends: Sequence[Outcome], plan: Plan = PLAN) -> Trajectories:
        """Of one prompt for each of `ends`."""
        prompts = [Prompt(prompt_id=i, text=f"text {i}", place=f"line {i}") for i in PROMPT_IDS]
        parts = [self.part(prompt, each, plan) for prompt, each in zip(prompts, ends, strict=False)]
        return Trajectories(parts=parts, plan=plan)

    def keep(self, part: Part, own_ids: Sequence[int], pixels: np.ndarray[Any, Any]) -> None:
        """Store the images of a part as a scan does."""
        islands, source = part.islands, part.islands.source
        for own_id, each in zip(own_ids, pixels, strict=True):
            is_plain = own_id < islands.plan.num_plain
            kind = source.plain_kind if is_plain else islands._kind(STEERED)
            invalid = why_invalid(each, finite=bool(each.any()))
            (seed,) = source.seeds([own_id])
            image = StoredImage(sample_id=own_id, seed=seed, invalid=invalid, pixels=each)
            self.store.add(kind, [image])


@pytest.fixture
def joined(store: ImageStore, targets: Targets) -> Joiner:
    return Joiner(store, targets)


def coded(part: int) -> list[Outcome]:
    """What each trajectory is nearest to says which it is: the part, and the id within its plan."""
    return [outcome([9.0] * len(ids), [100 * part + own for own in ids]) for ids in OWN_IDS]


# --- which trajectory is whose --------------------------------------------------------------------


def test_sample_ids_go_through_plain_images_and_then_islands_and_in_each_from_part_to_part(
    joined: Joiner,
) -> None:
    made = joined(*(coded(part) for part in range(3)))
    assert (made.num_plain, made.num_steered) == (9, 12)
    assert [each.nearest.tolist() for each in made.ends] == [
        [0, 1, 2, 100, 101, 102, 200, 201, 202],
        [3, 4, 103, 104, 203, 204],
        [5, 6, 105, 106, 205, 206],
    ]
    expected = [2] * 3 + [5] * 3 + [9] * 3 + 2 * ([2] * 2 + [5] * 2 + [9] * 2)
    assert [made.prompt_id(sample_id) for sample_id in range(21)] == expected


@pytest.mark.parametrize("num_parts", [1, 3])
def test_an_image_is_that_of_the_trajectory_at_its_place(joined: Joiner, num_parts: int) -> None:
    made = joined(*(coded(part) for part in range(num_parts)))
    for number, part in enumerate(made.parts):
        pixels = np.zeros((7, 8, 8, 3), dtype=np.uint8)
        pixels[...] = 100 * number + np.arange(7).reshape(-1, 1, 1, 1)
        joined.keep(part, range(7), pixels)
    places = np.concatenate([each.nearest for each in made.ends]).tolist()
    found = [int(made.image(sample_id).pixels[0, 0, 0]) for sample_id in range(len(places))]
    assert found == places
    assert sorted(found) == [100 * part + own for part in range(num_parts) for own in range(7)]


@given(
    num_parts=st.integers(1, 5),
    num_plain=st.integers(1, 6),
    num_islands=st.integers(1, 4),
    island_size=st.integers(1, 5),
)
def test_every_trajectory_of_every_part_has_one_sample_id(
    num_parts: int, num_plain: int, num_islands: int, island_size: int
) -> None:
    plan = Plan(
        num_plain=num_plain,
        num_islands=num_islands,
        island_size=island_size,
        num_levels=1,
        num_screened=1,
    )
    made = Trajectories(parts=[None] * num_parts, plan=plan)  # type: ignore[list-item]
    total = made.num_plain + made.num_steered
    places = [made._place(sample_id) for sample_id in range(total)]
    each = num_plain + plan.num_steered
    assert sorted(places) == [(part, own) for part in range(num_parts) for own in range(each)]
    assert all(own < num_plain for _, own in places[: made.num_plain])


def test_copies_are_made_again_by_their_own_part(joined: Joiner) -> None:
    made = joined(*(coded(part) for part in range(3)))
    # 4 is the second unsteered image of part 1; 13 and 20 are the ends of part 2 that are steered.
    again = made.again({7: 4, 1: 13, 3: 20, 0: 0})
    assert {row: (int(image.pixels.max()), image.sample_id) for row, image in again.items()} == {
        7: (5, 1),
        1: (9, 3),
        3: (9, 6),
        0: (2, 0),
    }


def test_invalid_images_are_counted_over_all_parts(joined: Joiner) -> None:
    made = joined(*(coded(part) for part in range(2)))
    pictures = smooth_images(3, size=8)
    nothing, flat = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 7, np.uint8)
    joined.keep(made.parts[0], range(3), np.stack([pictures[0], nothing, pictures[1]]))
    joined.keep(made.parts[1], range(3), np.stack([flat, nothing, pictures[2]]))
    made.parts[0].islands.invalid.update({NON_FINITE: 2})
    assert made.invalid() == {NON_FINITE: 4, "constant": 1}


# --- what they say together -----------------------------------------------------------------------


def test_rates_are_averages_over_prompts(joined: Joiner) -> None:
    """By hand.

    Unsteered: 2 of 3 and 0 of 3 are copies, 1/3 together. Island 0: weights 0.2 and 0.1 of 2 make
    0.15 and nothing 0, 0.075 together. Island 1: 0.3 of 2 is 0.15, and 0.05 of 2 is 0.025; 0.0875.
    """
    plain = outcome([0.4, 0.6, 0.3], [0, 0, 1]), outcome([0.6, 0.9, 2.0], [0, 1, 1])
    first = outcome([0.4, 0.2], [0, 2], [0.2, 0.1]), outcome([0.8, 0.7], [0, 0], [5, 5])
    second = outcome([0.5, 0.7], [3, 3], [0.3, 9]), outcome([0.7, 0.1], [3, 3], [9, 0.05])
    made = joined(*zip(plain, first, second, strict=True))
    totals = [each.rates(CUT, NUM_TARGETS) for each in made.ends]
    assert [total.sum() for total in totals] == pytest.approx([1 / 3, 0.075, 0.0875])
    assert totals[0].tolist() == pytest.approx([1 / 6, 1 / 6, 0, 0])
    assert totals[2].tolist() == pytest.approx([0, 0, 0, 0.0875])
    for number, total in enumerate(totals):
        alone = [each[number].rates(CUT, NUM_TARGETS) for each in made.each]
        np.testing.assert_allclose(total, np.mean(alone, axis=0))
    assert plain_rate(made.ends[0], CUT).value == pytest.approx(2 / 6)


def test_every_prompt_has_its_own_rates(joined: Joiner) -> None:
    copying = [
        outcome([0.4, 0.6, 0.3], [0, 0, 1]),
        outcome([0.4, 0.2], [0, 2], [0.2, 0.1]),
        outcome([0.4, 0.8], [0, 3], [0.5, 9]),
    ]
    clean = [outcome([9.0] * len(ids), [0] * len(ids)) for ids in OWN_IDS]
    leaking, other = joined(copying, clean).leaks(CUT, NUM_TARGETS)
    assert (leaking.prompt_id, leaking.place) == (2, "line 2")
    assert (leaking.num_copies, leaking.num_copied) == (5, 3)
    assert leaking.plain_rate.value == pytest.approx(2 / 3)
    assert leaking.leak_rate == leak_rate(copying, CUT, NUM_TARGETS)
    assert (other.prompt_id, other.num_copies, other.num_copied) == (5, 0, 0)
    assert (other.leak_rate.value, other.plain_rate.value) == (0, 0)


def test_what_is_worst_in_a_part_is_worst_of_all(joined: Joiner) -> None:
    good, bad = island(0, 1), island(1, 2, num_ancestors=1, least_effective=0.25)
    plain = outcome([9] * 3, [0] * 3)
    (_, both, _) = joined([plain, good, good], [plain, bad, good]).ends
    assert (both.num_ancestors, both.least_effective, both.is_steered) == (1, 0.25, True)
    assert both.aims.tolist() == [0, 1, 2]
    unsteered = island(is_steered=False)
    assert not joined([plain, unsteered, good], [plain, unsteered, good]).ends[1].is_steered


def test_targets_that_were_tried_with_every_prompt(joined: Joiner) -> None:
    plain = outcome([9] * 3, [0] * 3)
    many = [plain, island(0, 1), island(1, 2, 3)]  # 4 different
    few = [plain, island(0, 1, 2, is_steered=False), island(1, 2)]  # 2: the first steered nothing
    none = [plain, island(0, is_steered=False), island(1, is_steered=False)]
    assert joined(many).num_tried == 4
    assert joined(many, few).num_tried == 2
    assert joined(many, few, none).num_tried == 0


def test_a_prompt_whose_weights_say_nothing_is_told(joined: Joiner) -> None:
    plan = replace(PLAN, num_plain=MIN_TRACED)
    plain = outcome([9] * MIN_TRACED, [0] * MIN_TRACED)
    fine = [plain, island(0), island(1)]
    collapsed = [plain, island(0, num_ancestors=1), island(1, num_ancestors=1)]
    reason = "in 2 of 2 islands all images go back to one start"
    assert joined(fine, plan=plan).degenerate() == ""
    assert joined(fine, fine, plan=plan).degenerate() == ""
    assert joined(collapsed, plan=plan).degenerate() == reason
    assert joined(fine, collapsed, fine, plan=plan).degenerate() == f"with 1 of 3 prompts, {reason}"
    assert joined(collapsed, collapsed, plan=plan).degenerate() == f"with 2 of 2 prompts, {reason}"


def test_one_part_is_what_it_is_alone(joined: Joiner) -> None:
    ends = tuple(coded(0))
    made = Trajectories(parts=[joined.part(None, ends, PLAN)], plan=PLAN)
    assert made.ends is made.each[0]
    assert all(mine is given for mine, given in zip(made.ends, ends, strict=True))
    assert [made._place(sample_id) for sample_id in range(7)] == [(0, own) for own in range(7)]
    assert (made.num_plain, made.num_steered) == (PLAN.num_plain, PLAN.num_steered)
    assert {made.prompt_id(sample_id) for sample_id in range(7)} == {None}
    assert made.leaks(CUT, 1000) == ()


# --- prompts as sources -----------------------------------------------------------------------


def prompting(num_texts: int, prompt_ids: Sequence[int]) -> SplitPrompting:
    return SplitPrompting(
        prompts=tuple(Prompt(prompt_id=i, text=f"text {i}") for i in prompt_ids),
        coverage=PromptCoverage(origin="", is_probe=False, num_found=0, num_used=0),
        settings={"guidance_scale": 3.0},
        seeds_each=2**32 // num_texts,
        calls_per_step=2,
        latents=np.zeros((1, 4, 2, 2), np.float32),
        decode=lambda latents: np.zeros((len(latents), 8, 8, 3), np.uint8),
    )


@given(num_texts=st.integers(2, 2**20), seed=st.integers(0, 2**32 - 1), data=st.data())
def test_no_two_prompts_share_a_seed(num_texts: int, seed: int, data: st.DataObject) -> None:
    """The first and the last seeds of two prompts: what lies between them cannot meet either."""
    ids = data.draw(st.lists(st.integers(0, num_texts - 1), min_size=2, max_size=2, unique=True))
    source: Any = Source(
        load_pipeline=never,
        store=None,  # type: ignore[arg-type]  # nothing is kept
        seed=seed,
        batch_size=1,
        steps=1,
        dtype="float32",
        progress=lambda _: None,
    )
    made = prompting(num_texts, ids)
    rows = sorted({0, 1, made.seeds_each // 2, made.seeds_each - 1})
    one, two = (set(made.of(source, number).seeds(rows)) for number in (0, 1))
    assert len(one) == len(two) == len(rows)
    assert not one & two


def test_a_source_makes_images_of_its_prompt_and_says_which_it_is_at(store: ImageStore) -> None:
    told: list[Progress] = []
    source = Source(
        load_pipeline=never,
        store=store,
        seed=7,
        batch_size=1,
        steps=1,
        dtype="float32",
        progress=told.append,
    )
    made = prompting(10, [3, 8]).of(source, 1)
    assert made.prompt == Prompt(prompt_id=8, text="text 8")
    assert (made.plain_kind, made.settings) == ("planned-8", {"guidance_scale": 3.0})
    assert made.seeds([0, 5]) == [7 + 8 * (2**32 // 10), 12 + 8 * (2**32 // 10)]
    made.report(1, 2, unit="images steered")
    assert told == [Progress(done=1, total=2, resumed=0, unit="images steered (prompt 2 of 2)")]
    assert "text 8" not in repr(made)
