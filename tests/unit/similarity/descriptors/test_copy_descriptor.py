"""The built-in copy descriptor: what its vectors are, and what it was trained with."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pictures import smooth_images
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from pytest_memscan.errors import OptionError
from pytest_memscan.similarity.descriptors.copy_descriptor import (
    LEVELS,
    WEIGHTS,
    CopyNetwork,
    builtin_folder,
    load_copy_descriptor,
)
from pytest_memscan.similarity.descriptors.descriptor import Descriptor

FIXTURE = Path(__file__).parents[4] / "fixtures" / "copy_descriptor"


@pytest.fixture(scope="module")
def descriptor() -> Descriptor:
    return load_copy_descriptor()


@pytest.fixture(scope="module")
def training() -> ModuleType:
    """`fixtures/copy_descriptor/train.py`, which imports the modules beside it."""
    sys.path.insert(0, str(FIXTURE))
    try:
        spec = importlib.util.spec_from_file_location("copy_descriptor_train", FIXTURE / "train.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FIXTURE))
    return module


def resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))[None]


@pytest.mark.parametrize("shape", [(16, 16, 3), (17, 31, 3), (64, 64, 1), (256, 200, 3)])
def test_images_of_any_size_give_unit_vectors(
    descriptor: Descriptor, shape: tuple[int, int, int]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    described = descriptor.describe(images)
    assert described.shape == (3, descriptor.dimension)
    assert described.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(described, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_images_have_a_descriptor(descriptor: Descriptor, value: int) -> None:
    assert np.isfinite(descriptor.describe(np.full((1, 16, 16, 3), value, np.uint8))).all()


def test_exact_copies_are_always_in_the_highest_level(descriptor: Descriptor) -> None:
    described = descriptor.describe(smooth_images(100, seed=3))
    assert descriptor.levels is not None
    high = descriptor.levels[-1]
    assert high.name == "high"
    assert high.band_lower == 0
    for one, other in zip(described, descriptor.describe(smooth_images(100, seed=3)), strict=True):
        assert 1 - one @ other <= high.cut


def test_levels_grow_stricter(descriptor: Descriptor) -> None:
    assert descriptor.levels is not None
    assert [level.name for level in descriptor.levels] == ["low", "mid", "high"]
    cuts = [level.cut for level in descriptor.levels]
    assert 1 > cuts[0] > cuts[1] > cuts[2] > 0


def test_a_picture_at_two_sizes_is_nearly_the_same(descriptor: Descriptor) -> None:
    for picture in smooth_images(10, seed=1, size=128):
        small, large = resized(picture, 32), resized(picture, 300)
        assert descriptor.describe(small)[0] @ descriptor.describe(large)[0] > 0.95


def test_the_more_a_picture_is_changed_the_less_alike_it_is(descriptor: Descriptor) -> None:
    pictures = smooth_images(20, seed=2, size=64)
    original = descriptor.describe(pictures)
    similarity = []
    for factor in (1.0, 0.7, 0.2):
        darker = [ImageEnhance.Brightness(Image.fromarray(p)).enhance(factor) for p in pictures]
        described = descriptor.describe(np.stack([np.asarray(each) for each in darker]))
        similarity.append((original * described).sum(axis=1).mean())
    assert similarity[0] > similarity[1] > similarity[2]
    strangers = (original * np.roll(original, 1, axis=0)).sum(axis=1).mean()
    assert similarity[2] > strangers


def test_company_in_a_batch_does_not_matter(descriptor: Descriptor) -> None:
    pictures = smooth_images(40, seed=4)
    together = descriptor.describe(pictures)
    np.testing.assert_allclose(descriptor.describe(pictures[35:36])[0], together[35], atol=1e-5)
    np.testing.assert_allclose(descriptor.describe(pictures[::-1]), together[::-1], atol=1e-5)


def test_grey_images_equal_themselves_in_three_channels(descriptor: Descriptor) -> None:
    grey = smooth_images(5, channels=1)
    three = np.repeat(grey, 3, axis=3)
    np.testing.assert_array_equal(descriptor.describe(grey), descriptor.describe(three))


def test_loaded_again_it_gives_the_same_bits(descriptor: Descriptor) -> None:
    pictures = smooth_images(33)
    again = load_copy_descriptor()
    assert again.record == descriptor.record
    np.testing.assert_array_equal(again.describe(pictures), descriptor.describe(pictures))


def test_the_record_names_the_weights_and_claims_no_more_than_is_true(
    descriptor: Descriptor,
) -> None:
    weights = (builtin_folder() / WEIGHTS).read_bytes()
    assert descriptor.record["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert descriptor.name == "builtin:copy"
    assert "not SSCD" in descriptor.record["preset"]
    assert "64x64" in descriptor.record["preprocessing"]


def test_the_weights_are_small() -> None:
    assert (builtin_folder() / WEIGHTS).stat().st_size <= 4_000_000


def test_the_record_of_the_levels_is_that_of_its_rule() -> None:
    stored = json.loads((builtin_folder() / LEVELS).read_text(encoding="utf-8"))
    for name, cut in stored["levels"].items():
        assert cut == max(each[name] for each in stored["measured"].values())


@pytest.mark.parametrize("damage", ["missing", "truncated", "other weights", "no levels", "empty"])
def test_a_damaged_installation_is_named(tmp_path: Path, damage: str) -> None:
    for name in (WEIGHTS, LEVELS):
        shutil.copy(builtin_folder() / name, tmp_path / name)
    weights, levels = tmp_path / WEIGHTS, tmp_path / LEVELS
    match damage:
        case "missing":
            weights.unlink()
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "other weights":
            changed = bytearray(weights.read_bytes())
            changed[-2] ^= 1
            weights.write_bytes(changed)
        case "no levels":
            levels.unlink()
        case _:
            levels.write_text("[]", encoding="utf-8")
    with pytest.raises(OptionError, match="install it again") as caught:
        load_copy_descriptor(folder=tmp_path)
    assert str(tmp_path) not in str(caught.value)


def test_folding_the_batch_norms_changes_no_descriptor(training: ModuleType) -> None:
    torch.manual_seed(0)
    network = training.with_batch_norm(CopyNetwork())
    images = torch.randn(8, 3, 64, 64)
    for _ in range(3):
        network(images)  # running statistics differ from 0 and 1 now
    with torch.inference_mode():
        expected = network.eval()(images)
        found = training.folded(network)(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert CopyNetwork().state_dict().keys() == training.folded(network).state_dict().keys()


def test_the_loss_is_info_nce_and_the_entropy_of_nearest_neighbours(training: ModuleType) -> None:
    vectors = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64))
    contrast, entropy = training.contrastive_loss(vectors, 0.05)
    similarity = (vectors @ vectors.T).numpy()
    by_hand, gaps = [], []
    for i in range(6):
        twin, others = (i + 3) % 6, [j for j in range(6) if j != i]
        scale = np.log(sum(np.exp(similarity[i, j] / 0.05) for j in others))
        by_hand.append(scale - similarity[i, twin] / 0.05)
        distances = [np.sqrt(2 - 2 * similarity[i, j]) for j in others if j != twin]
        gaps.append(-np.log(min(distances)))
    assert contrast.item() == pytest.approx(np.mean(by_hand))
    assert entropy.item() == pytest.approx(np.mean(gaps))


def test_training_pictures_depend_on_their_seed_alone(training: ModuleType) -> None:
    two = training.draw_pictures(7, 2)
    torch.testing.assert_close(training.draw_pictures(8, 1), two[training.CHUNK :], rtol=0, atol=0)
    assert not torch.equal(two[: training.CHUNK], two[training.CHUNK :])


def test_the_jpeg_of_the_training_edits_is_a_quantised_cosine_transform(
    training: ModuleType,
) -> None:
    edits = sys.modules["edits"]
    block = np.random.default_rng(0).random((8, 8))
    basis = edits._cosine_basis().numpy()
    np.testing.assert_allclose(basis @ block @ basis.T, dctn(block, norm="ortho"), atol=1e-6)
    pictures = torch.from_numpy(smooth_images(16, size=64)).permute(0, 3, 1, 2).float() / 255
    changed = edits.jpeg(pictures, torch.Generator().manual_seed(0), chance=1.0)
    difference = (changed - pictures).abs().mean().item()
    assert 0.001 < difference < 0.05


def test_edits_keep_shape_and_range_and_follow_their_seed(training: ModuleType) -> None:
    edits = sys.modules["edits"]
    pictures = training.draw_pictures(5, 1)[:32].float() / 255
    for edit in (edits.slight_edit, edits.strong_edit):
        one, same, other = (edit(pictures, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
        assert one.shape == (32, 3, 64, 64)
        assert 0 <= one.min() <= one.max() <= 1
        torch.testing.assert_close(one, same, rtol=0, atol=0)
        assert not torch.equal(one, other)
