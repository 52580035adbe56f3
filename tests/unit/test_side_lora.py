"""SIDE of text-to-image checkpoints: its prompts, its price, what is trained and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pictures import smooth_images
from pipeline_factory import SIDE, save_tiny, tiny_pipeline
from unit.conftest import Resolve

from pytest_memscan.errors import CheckpointError, MemscanError, OptionError
from pytest_memscan.generating import Recipe
from pytest_memscan.generation import Progress, ProgressCallback, Prompting, generate, plan_rows
from pytest_memscan.inputs import Inputs
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.side import PLAIN, Prepared
from pytest_memscan.settings import Given
from pytest_memscan.side_lora import NAME, InTurn, LoraBranch, fingerprint_of
from pytest_memscan.side_scanning import SideScanner
from pytest_memscan.side_settings import VARIANTS, check_variants, parse_variants
from pytest_memscan.store import ImageStore
from pytest_memscan.surrogates.lora import train_lora
from pytest_memscan.surrogates.lora_records import LoraSettings

STEPS = 60
FAST = LoraSettings(learning_rate=1e-3, token_learning_rate=3e-2)  # of a tiny model
TRAINED = "builtin:leaky-t2i"  # listens to its prompts, unlike one of random weights
# Three images that come again and again, each a little different every time.
ORIGINALS = smooth_images(3, seed=3, size=32)
BATCH = 4


def repeated(num: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(-6, 7, (num, *ORIGINALS.shape[1:]))
    return np.clip(ORIGINALS[np.arange(num) % 3] + noise, 0, 255).astype(np.uint8)


def small(num: int) -> NDArray[np.uint8]:
    return repeated(num)[:, :SIDE, :SIDE]


@contextmanager
def silent(title: str) -> Iterator[ProgressCallback]:
    yield lambda _: None


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A branch as a run has it, and what it told."""

    lora: LoraBranch
    folder: Path
    told: list[Progress] = field(default_factory=list)
    recipes: list[Recipe] = field(default_factory=list)

    def sampler_of(self, recipe: Recipe) -> Sampler:
        self.recipes.append(recipe)
        store = ImageStore(recipe.store_dir, spec=recipe.spec)
        return recipe.sampler(store, num_images=8, report=lambda _: None)

    def prepared(self, samples: NDArray[np.uint8], *, num_images: int = 8) -> Prepared:
        return self.lora.prepared(
            samples, num_images, sampler_of=self.sampler_of, report=self.told.append
        )

    @property
    def trained(self) -> dict[Path, int]:
        return {each: each.stat().st_mtime_ns for each in self.folder.glob("loras/*/*")}


Make = Callable[..., Branch]


@pytest.fixture(scope="module")
def loaded() -> dict[str, dict[str, Any]]:
    """Checkpoints are loaded once for all tests."""
    return {}


@pytest.fixture
def branch(resolve: Resolve, tmp_path: Path, loaded: dict[str, dict[str, Any]]) -> Make:
    def make(family: str = "sd1", **options: str) -> Branch:
        folder = tmp_path / family
        if not folder.exists() and family != TRAINED:
            save_tiny(family, folder)
        config = resolve(
            **{
                "model": family if family == TRAINED else str(folder),
                "train_data": str(tmp_path),
                "scans": ["side"],
                "device": "cpu",
                "steps": "2",
                "batch_size": str(BATCH),
                "side_training": str(STEPS),
                "side_clusters": "3",
                **options,
            }
        )
        cache = tmp_path / "cache"
        inputs = Inputs(
            config=config,
            cache_dir=cache,
            progress=silent,
            _pipelines=loaded.setdefault(family, {}),
        )
        lora = LoraBranch(inputs=inputs, cache_dir=cache, how=FAST)
        return Branch(lora=lora, folder=cache)

    return make


# --- prompts ------------------------------------------------------------------------------------


def test_prompts_take_turns_batch_by_batch_for_as_many_rows_as_one_likes() -> None:
    turns = InTurn(prompts=("a", "b", "c"), rows_per_prompt=2, guidance_scale=3.0)
    asked = [turns.settings(plan_rows(2, seed=0, start=start)) for start in range(0, 10, 2)]
    assert [each["prompt"] for each in asked] == [[x, x] for x in "abcab"]
    assert all(each["guidance_scale"] == 3 for each in asked)
    # One image made again alone has the prompt of its batch.
    assert turns.settings(plan_rows(1, seed=0, start=7))["prompt"] == ["a"]
    assert "guidance_scale" not in replace(turns, guidance_scale=None).settings(
        plan_rows(2, seed=0)
    )
    with pytest.raises(ValueError, match="different turns"):
        turns.settings(plan_rows(2, seed=0, start=1))


def test_a_first_turn_is_what_prompts_without_turns_give(tmp_path: Path) -> None:
    pipeline = tiny_pipeline("sd1")
    made = []
    for kind in (InTurn, Prompting):
        prompting = kind(prompts=("a cat", "a dog"), rows_per_prompt=2, guidance_scale=2.0)
        store = ImageStore(tmp_path / kind.__name__, spec={})
        generate(
            pipeline,
            plan_rows(4, seed=5),
            store=store,
            batch_size=2,
            steps=2,
            plan_seed=5,
            prompting=prompting,
        )
        made.append(np.stack([each.pixels for each in store.read("planned", range(4))]))
        store.close()
    assert (made[0] == made[1]).all()


def test_what_comes_out_without_known_prompts_is_that_of_the_empty_one(
    branch: Make, tmp_path: Path
) -> None:
    plain = branch().lora.plain
    assert (plain.prompts, plain.rows_per_prompt) == (("",), BATCH)
    assert (plain.guidance_scale, plain.forwards) == (1.0, 1)  # guided towards itself: as it is
    (tmp_path / "list.txt").write_text("one text\nanother\n", encoding="utf-8")
    given = branch(prompts=str(tmp_path / "list.txt")).lora.plain
    assert (given.prompts, given.guidance_scale, given.forwards) == (
        ("one text", "another"),
        None,
        2,
    )


def test_lambdas_are_scales_of_guidance_where_they_are_given(branch: Make) -> None:
    assert branch().lora.scales == (3.0,)
    swept = branch(side_scales="1,5").lora
    assert swept.scales == (1.0, 5.0)
    assert swept.forwards == {(PLAIN, 0.0): 1, (NAME, 1.0): 1, (NAME, 5.0): 2}
    assert swept.relative_cost == 4


def test_plain_sampling_has_a_folder_of_its_own(branch: Make, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one text\n", encoding="utf-8")
    made = [branch(), branch(prompts=str(tmp_path / "list.txt"))]
    recipes = [SideScanner(inputs=e.lora.inputs, cache_dir=e.folder).recipe for e in made]
    assert recipes[0].prompting == made[0].lora.plain
    assert recipes[0].store_dir != recipes[1].store_dir


# --- price --------------------------------------------------------------------------------------


def test_the_price_is_told_before_anything_is_made(branch: Make) -> None:
    made = branch(side_samples="100", side_clusters="5", side_training="70")
    made.lora.announce(40, made.told.append)
    (told,) = made.told
    assert (told.done, told.total) == (0, 40 + 100 + 40)
    pipeline = made.lora.inputs.pipeline("float32")
    settings = LoraSettings(rank=8, num_steps=70)
    trained = train_lora(
        pipeline,
        small(10),
        np.arange(10) % 5,
        num_classes=5,
        settings=replace(settings, num_steps=1),
    )
    assert f"{trained.record.num_parameters:,} parameters" in told.unit
    assert "70 steps of training a LoRA of rank 8" in told.unit
    assert f"{70 * settings.batch_size:,} denoiser forwards with their gradient" in told.unit
    assert not made.folder.exists()


@pytest.mark.parametrize("family", ["sdxl", "pixart-sigma"])
def test_families_without_the_branch_are_refused_before_anything_is_made(
    branch: Make, family: str
) -> None:
    made = branch(family)
    with pytest.raises(CheckpointError, match=r"works on Stable Diffusion 1\.x and 2\.x"):
        made.lora.announce(40, made.told.append)
    assert not made.told
    assert not made.folder.exists()


# --- training -----------------------------------------------------------------------------------


def test_clusters_become_prompts_and_a_second_run_trains_nothing(branch: Make) -> None:
    first, second = branch(TRAINED), branch(TRAINED)
    other = branch(TRAINED, side_training="50", side_scales="1,3")
    prepared = first.prepared(repeated(60))
    assert (prepared.name, prepared.has_classifier, prepared.is_control) == (NAME, False, False)
    assert [scale for scale, _ in prepared.samplers] == [3.0]
    (recipe,) = first.recipes
    assert recipe.prompting is not None
    assert recipe.prompting.prompts == ("<cluster-0>", "<cluster-1>", "<cluster-2>")
    assert "the tokens of the 2 most cohesive in turn, 4 at a time" in prepared.labels.sentence
    training = prepared.training
    assert (training.num_steps, training.num_samples, training.num_held_out) == (STEPS, 48, 12)
    assert (training.accuracies, training.chance) == ((), pytest.approx(1 / 3))
    images = prepared.samplers[0][1].images(range(8))
    assert not any(each.invalid == "not a number" for each in images)

    kept = first.trained
    again = second.prepared(repeated(60))
    assert (again.labels, again.training) == (prepared.labels, prepared.training)
    assert second.trained == kept
    (told,) = second.told
    assert told.done == told.resumed == told.total == STEPS
    assert second.recipes[0].spec == recipe.spec

    other.prepared(repeated(60))
    assert len(other.trained) == 2 * len(kept)
    folders = {each.store_dir for each in (recipe, *other.recipes)}
    assert len(folders) == 3


def test_samples_of_no_cluster_have_no_token(branch: Make) -> None:
    rng = np.random.default_rng(1)
    strange = rng.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    samples = np.concatenate([repeated(60), strange])
    prepared = branch(TRAINED, side_clusters="7", side_cohesion="0.9").prepared(
        samples, num_images=80
    )
    labels, training = prepared.labels, prepared.training
    assert labels.num_rest > 0
    assert training.num_samples + training.num_held_out == sum(labels.sizes)
    assert "the token of each in turn" in labels.sentence


def test_a_lora_that_learnt_nothing_is_an_error(branch: Make) -> None:
    made = branch(side_training="10", side_cohesion="0", side_clusters="4")
    noise = np.random.default_rng(0).integers(0, 256, (60, SIDE, SIDE, 3)).astype(np.uint8)
    with pytest.raises(MemscanError, match=r"side_lora learnt nothing: .* held-out samples"):
        made.prepared(noise)


def test_what_was_trained_is_told_apart(branch: Make) -> None:
    pipeline = branch().lora.inputs.pipeline("float32")
    settings = LoraSettings(rank=2, num_steps=1)

    def made(steps: int) -> str:
        with torch.random.fork_rng():
            return fingerprint_of(
                train_lora(
                    pipeline,
                    small(12),
                    np.arange(12) % 3,
                    num_classes=3,
                    settings=replace(settings, num_steps=steps),
                )
            )

    assert made(1) == made(1) != made(2)


# --- settings -----------------------------------------------------------------------------------


def test_each_kind_of_checkpoint_has_variants_of_its_own() -> None:
    check_variants((), "text-to-image")
    check_variants((NAME,), "text-to-image")
    check_variants(tuple(VARIANTS), "unconditional")
    with pytest.raises(OptionError, match=r"side_c is not for a text-to-image .* has side_lora;"):
        check_variants((NAME, "side_c"), "text-to-image")
    with pytest.raises(OptionError, match=r"side_lora is not for an unconditional .* has side_c, "):
        check_variants((NAME,), "unconditional")


def test_its_name_is_known() -> None:
    given = Given(value="side_lora,side_c", source="--memscan-side-variants", base=Path())
    assert parse_variants(given) == ("side_c", "side_lora")
    unknown = Given(value="lora", source="--memscan-side-variants", base=Path())
    with pytest.raises(OptionError, match="random_labels, side_lora"):
        parse_variants(unknown)
