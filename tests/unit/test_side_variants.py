"""Which variants of SIDE run with which inputs, what stops them, and what is trained only once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_factory import save_tiny_checkpoint
from numpy.typing import NDArray
from pictures import smooth_images
from PIL import Image
from unit.conftest import Resolve
from vetting import edit

from pytest_memscan.errors import MemscanError, OptionError, TrainDataError
from pytest_memscan.generation import Progress, ProgressCallback
from pytest_memscan.inputs import Inputs
from pytest_memscan.side_settings import VARIANTS
from pytest_memscan.side_variants import Attack, SideVariants

# Four images that come again and again, each a little different every time.
ORIGINALS = smooth_images(4, seed=3, size=8)


def repeated(num: int, *, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(-6, 7, (num, *ORIGINALS.shape[1:]))
    return np.clip(ORIGINALS[np.arange(num) % 4] + noise, 0, 255).astype(np.uint8)


SAMPLES = repeated(80)
UNLIKE = np.random.default_rng(1).integers(0, 256, (80, 8, 8, 3)).astype(np.uint8)
FEW = {"side_training": "25", "side_clusters": "4"}


@contextmanager
def silent(title: str) -> Iterator[ProgressCallback]:
    yield lambda _: None


def save(folder: Path, images: Sequence[NDArray[np.uint8]], *, by_class: bool) -> Path:
    """Images in one folder, or in one for each of the four classes."""
    for row, image in enumerate(images):
        place = folder / (f"patient-{row % 4}" if by_class else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row:03d}.png")
    return folder


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Variants of a tiny checkpoint, of whose training images a test decides."""

    resolve: Resolve
    folder: Path
    told: list[Progress] = field(default_factory=list)

    def __call__(
        self, *, samples: NDArray[np.uint8] = SAMPLES, train: str = "plain", **options: str
    ) -> SideVariants:
        config = self.resolve(
            **{
                "model": str(self.checkpoint),
                "train_data": str(self.folder / train),
                "scans": "side",
                "device": "cpu",
                **FEW,
                **options,
            }
        )
        return SideVariants(
            inputs=Inputs(config=config, cache_dir=self.folder / "cache", progress=silent),
            folder=self.classifiers,
            samples=samples,
            report=self.told.append,
        )

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def classifiers(self) -> Path:
        return self.folder / "classifiers"

    def kept(self) -> dict[str, int]:
        """Folders of classifiers, and when each was finished."""
        files = self.classifiers.glob("*/classifier.safetensors")
        return {file.parent.name: file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("side")
    save_tiny_checkpoint(folder / "checkpoint")
    save(folder / "plain", repeated(40, seed=5), by_class=False)
    save(folder / "labelled", repeated(160, seed=5), by_class=True)
    save(folder / "others", smooth_images(40, seed=8, size=8), by_class=True)
    return folder


@pytest.fixture
def make(saved: Path, tmp_path: Path) -> Maker:
    folder = tmp_path / "world"
    shutil.copytree(saved, folder)
    return Maker(resolve=Resolve(tmp_path), folder=folder)


def names_of(variants: SideVariants) -> list[str]:
    return [attack.name for attack in variants.attacks()]


# --- which variants run -------------------------------------------------------------------------


def test_images_without_labels_leave_clusters_only(make: Maker) -> None:
    variants = make()
    assert list(variants.left_out) == ["side_o", "side_a", "ol_ti"]
    assert "have no class labels" in variants.left_out["side_o"]
    assert variants.left_out["ol_ti"] == variants.left_out["side_o"]
    assert "--memscan-auxiliary" in variants.left_out["side_a"]
    assert "--memscan-labeller" in variants.left_out["side_a"]
    attacks = list(variants.attacks())
    assert [each.name for each in attacks] == ["side_c", "side_c_rest"]
    for attack in attacks:
        assert attack.title == VARIANTS[attack.name]
        assert not attack.is_control
        assert attack.labels.record.maker == "clusters"
        assert attack.num_asked == attack.labels.num_classes == 4
        assert attack.trained.record.num_steps == 25


def test_labels_of_the_training_images_add_a_labeller_and_its_control(make: Maker) -> None:
    variants = make(train="labelled", side_variants="side_o,ol_ti")
    side_o, control = variants.attacks()
    assert (side_o.name, control.name) == ("side_o", "ol_ti")
    assert side_o.labels is control.labels
    assert side_o.labels.record.maker == "training labels"
    assert side_o.trained.record.is_timed
    assert not control.trained.record.is_timed
    assert (side_o.is_control, control.is_control) == (False, True)
    np.testing.assert_array_equal(side_o.labels.classes, np.arange(80) % 4)
    for attack in (side_o, control):
        assert "patient" not in repr(attack) + str(attack.labels.record)
    assert {each.unit for each in make.told} == {
        f"steps of training {name}" for name in ("labeller", "side_o")
    }


def test_other_labelled_images_are_a_labeller_of_their_own(make: Maker) -> None:
    others = save(make.folder / "alike", repeated(160, seed=9) // 2 + 90, by_class=True)
    variants = make(side_variants="side_a", auxiliary=str(others))
    (attack,) = variants.attacks()
    assert (attack.name, attack.labels.record.maker) == ("side_a", "auxiliary labels")
    assert variants.left_out == {}


def test_random_labels_are_made_for_who_asks(make: Maker) -> None:
    variants = make(side_variants="random_labels", side_training="10")
    (attack,) = variants.attacks()
    assert attack.is_control
    assert attack.labels.record.maker == "random"
    assert set(attack.labels.record.sizes) == {20}
    assert variants.left_out == {}


def test_random_labels_are_no_more_than_the_samples_support(make: Maker) -> None:
    variants = make(side_variants="random_labels", side_training="10", side_clusters="500")
    (attack,) = variants.attacks()
    assert attack.num_asked == 8


def test_samples_without_tight_clusters_are_said_to_have_none(make: Maker) -> None:
    variants = make(samples=UNLIKE, side_cohesion="0.99")
    assert list(variants.left_out) == ["side_c", "side_c_rest", "side_o", "side_a", "ol_ti"]
    assert "lower --memscan-side-cohesion" in variants.left_out["side_c"]
    assert names_of(variants) == []


def test_every_sample_the_same_image_is_no_cluster_to_tell_apart(make: Maker) -> None:
    same = np.repeat(ORIGINALS[:1], 80, axis=0)
    variants = make(samples=same)
    assert {"side_c", "side_c_rest"} <= set(variants.left_out)
    assert "no two classes to tell apart" in variants.left_out["side_c"]
    assert names_of(variants) == []


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("side_o", "the training images have no class labels"),
        ("ol_ti", "the training images have no class labels"),
        ("side_a", "it needs other labelled images"),
        ("side_c", "lower --memscan-side-cohesion"),
        ("side_c_rest", "lower --memscan-side-cohesion"),
    ],
)
def test_a_variant_asked_for_by_name_that_cannot_run_is_an_error(
    make: Maker, name: str, why: str
) -> None:
    variants = make(samples=UNLIKE, side_variants=name, side_cohesion="0.99")
    with pytest.raises(OptionError, match=f"--memscan-side-variants: {name} cannot run: ") as told:
        list(variants.attacks())
    assert why in str(told.value)
    assert make.kept() == {}


def test_it_is_an_error_before_anything_is_trained(make: Maker) -> None:
    variants = make(side_variants="side_c,side_o")
    with pytest.raises(OptionError, match="side_o cannot run"):
        next(variants.attacks())
    assert make.kept() == {}


@pytest.mark.parametrize("name", ["side_c", "side_c_rest"])
def test_a_classifier_that_learnt_nothing_is_an_error(make: Maker, name: str) -> None:
    variants = make(samples=UNLIKE, side_variants=name, side_cohesion="0", side_training="10")
    with pytest.raises(MemscanError, match=f"the classifier of {name} learnt nothing") as told:
        list(variants.attacks())
    assert "of 8 held-out samples" in str(told.value)
    for option in ("--memscan-side-training", "--memscan-side-samples", "--memscan-side-variants"):
        assert option in str(told.value)


def test_too_few_samples_for_two_clusters_name_the_option(make: Maker) -> None:
    with pytest.raises(OptionError, match="--memscan-side-samples"):
        list(make(samples=SAMPLES[:19]).attacks())


def test_auxiliary_images_that_were_trained_on_are_refused(make: Maker) -> None:
    shutil.copytree(make.folder / "labelled", make.folder / "aux")
    variants = make(train="labelled", side_variants="side_a", auxiliary=str(make.folder / "aux"))
    with pytest.raises(TrainDataError, match="160 of 160 images are training images") as told:
        list(variants.attacks())
    assert "patient" not in str(told.value)


@pytest.mark.parametrize("asked", [{}, {"side_variants": "side_a"}], ids=["all", "by name"])
def test_two_ways_to_the_same_labels_are_a_mistake(make: Maker, asked: dict[str, str]) -> None:
    variants = make(auxiliary=str(make.folder / "others"), labeller=str(make.checkpoint), **asked)
    with pytest.raises(OptionError, match="--memscan-auxiliary and --memscan-labeller are two way"):
        next(variants.attacks())


def relabelled(make: Maker, place_of: Callable[[int], str]) -> str:
    """The training images in other folders."""
    for row, image in enumerate(repeated(40, seed=5)):
        place = make.folder / "relabelled" / place_of(row)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row:03d}.png")
    return "relabelled"


@pytest.mark.parametrize(
    ("place_of", "why"),
    [
        (lambda row: "dr-miller", "all 40 images have the same class label"),
        (lambda row: "dr-miller" * (row % 2), "have no class label"),
        (lambda row: f"dr-miller-{min(row, 2)}", "2 of the 3 classes of the training images have"),
    ],
    ids=["one class", "some", "classes of one image"],
)
def test_labels_that_teach_nothing_are_an_error_for_who_asks_for_them(
    make: Maker, place_of: Callable[[int], str], why: str
) -> None:
    train = relabelled(make, place_of)
    for name in ("side_o", "ol_ti"):
        with pytest.raises(OptionError, match=f"{name} cannot run: ") as told:
            list(make(train=train, side_variants=name).attacks())
        assert why in str(told.value)
        assert "miller" not in str(told.value)
    unasked = make(train=train).left_out
    assert list(unasked) == ["side_o", "side_a", "ol_ti"]
    assert why in unasked["side_o"]
    assert "miller" not in unasked["side_o"]


def test_auxiliary_images_without_labels_are_refused(make: Maker) -> None:
    bare = save(make.folder / "bare", smooth_images(20, seed=9, size=8), by_class=False)
    with pytest.raises(TrainDataError, match="--memscan-auxiliary: 20 of 20 images have no class"):
        list(make(side_variants="side_a", auxiliary=str(bare)).attacks())


def test_training_labels_that_say_nothing_are_an_error(make: Maker) -> None:
    """Classes that have nothing to do with the images."""
    save(
        make.folder / "shuffled", np.random.default_rng(4).permutation(repeated(40)), by_class=True
    )
    with pytest.raises(MemscanError, match="the labeller trained on the training images learnt no"):
        list(make(train="shuffled", side_variants="side_o").attacks())


# --- what is asked for --------------------------------------------------------------------------


def test_rows_ask_for_all_classes_in_turn_and_never_for_the_rest(make: Maker) -> None:
    strange = np.concatenate([SAMPLES, UNLIKE[:20]])
    variants = make(
        samples=strange, side_variants="side_c_rest", side_clusters="9", side_cohesion="0.8"
    )
    (attack,) = variants.attacks()
    assert attack.labels.has_rest
    asked = attack.classes_of([0, 1, 5, 1000, 2**32])
    num = attack.num_asked
    assert num == attack.labels.num_outputs - 1
    assert asked.tolist() == [0, 1 % num, 5 % num, 1000 % num, 2**32 % num]
    assert max(attack.classes_of(list(range(100)))) == num - 1


def test_the_fingerprint_is_of_every_weight(make: Maker) -> None:
    (attack,) = make(side_variants="random_labels", side_training="10").attacks()
    again = Attack(
        name="side_c", labels=attack.labels, trained=attack.trained, num_asked=attack.num_asked
    )
    assert again.fingerprint == attack.fingerprint
    for name, tensor in attack.trained.classifier.state_dict().items():
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.view(-1)[-1] += 1e-4
            assert replace(attack).fingerprint != attack.fingerprint, name
            break


# --- nothing is trained twice -------------------------------------------------------------------


ONE_CONTROL = {"side_variants": "random_labels", "side_training": "10"}


def one_control(make: Maker, **options: Any) -> bool:
    """Whether a run trained a classifier in a new folder, and left the others as they were."""
    before = make.kept()
    list(make(**ONE_CONTROL | options).attacks())
    after = make.kept()
    assert before.items() <= after.items()
    return len(after) > len(before)


def test_only_another_training_has_a_folder_of_its_own(make: Maker) -> None:
    (first,) = make(**ONE_CONTROL).attacks()
    assert len(make.kept()) == 1
    for change in (
        {"seed": "1"},
        {"side_training": "11"},
        {"side_clusters": "5"},  # other labels
        {"samples": repeated(80, seed=7)},
        {"samples": SAMPLES[::-1].copy()},
    ):
        assert one_control(make, **change), change
        assert not one_control(make, **change), change
    make.told.clear()
    for change in (
        {},
        {"side_scales": "2,3"},
        {"steps": "7"},
        {"batch_size": "3"},
        {"budget": "77img"},
        {"train": "labelled"},
    ):
        assert not one_control(make, **change), change
    assert make.told == []  # nothing was trained
    (again,) = make(**ONE_CONTROL).attacks()
    assert again.fingerprint == first.fingerprint


def test_another_checkpoint_has_classifiers_of_its_own(make: Maker) -> None:
    assert one_control(make)
    edit(make.checkpoint, "scheduler/scheduler_config.json", beta_end=0.03)
    assert one_control(make)
    shutil.rmtree(make.checkpoint)
    save_tiny_checkpoint(make.checkpoint, seed=1)
    assert one_control(make)
