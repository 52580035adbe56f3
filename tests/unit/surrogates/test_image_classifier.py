"""Image classifiers of transformers as labellers: their classes, safely loaded, or a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from descriptor_factory import save_encoder, silent_transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from pytest_memscan.errors import MemscanError, OptionError
from pytest_memscan.surrogates.image_classifier import (
    check_labeller,
    classified_by,
    load_labeller,
)

NUM_CLASSES = 3
WEIGHTS = "model.safetensors"
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def save_classifier(folder: Path) -> torch.nn.Module:
    """A tiny ResNet with random weights and its image processor."""
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        num_labels=NUM_CLASSES,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), silent_transformers():
        torch.manual_seed(0)
        model = ResNetForImageClassification(config).eval()
        model.save_pretrained(folder)
        ConvNextImageProcessorPil(
            size={"shortest_edge": 384},  # from 384 on, this processor does not crop
            resample=Image.Resampling.BICUBIC,
            image_mean=MEAN,
            image_std=STD,
        ).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("labeller") / "model"
    return folder, save_classifier(folder)


@pytest.fixture
def spoilt(saved: tuple[Path, torch.nn.Module], tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    folder = tmp_path / "labeller"
    shutil.copytree(saved[0], folder)
    return folder


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pictures(num: int, *, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Flat colours with noise."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (num, 1, 1, channels))
    noise = rng.integers(-20, 20, (num, 16, 16, channels))
    return (colours + noise).clip(0, 255).astype(np.uint8)


def refusal(folder: Path, kind: type[MemscanError] = MemscanError) -> str:
    with pytest.raises(kind) as raised:
        load_labeller(str(folder))
    message = str(raised.value)
    assert message.startswith("--memscan-labeller: ")
    assert "\n" not in message
    assert str(folder.parent) not in message
    return message


def test_samples_get_the_class_that_transformers_gives_them(
    saved: tuple[Path, torch.nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    folder, model = saved
    capfd.readouterr()
    labeller = load_labeller(str(folder))
    samples = pictures(30)
    made = labeller.classified(samples, least_samples=1)
    assert capfd.readouterr() == ("", "")
    expected = []
    for sample in samples:  # prepared by hand, as its configuration says
        resized = Image.fromarray(sample).resize((384, 384), Image.Resampling.BICUBIC)
        ready = (np.array(resized, dtype=np.float32) / 255 - MEAN) / STD
        pixels = torch.from_numpy(ready).permute(2, 0, 1).to(torch.float32)
        with torch.inference_mode():
            expected.append(int(model(pixels[None]).logits.argmax()))
    kept = sorted(set(expected))
    np.testing.assert_array_equal(made.classes, [kept.index(each) for each in expected])
    assert len(kept) >= 2
    again = classified_by(str(folder), samples, least_samples=1)
    assert again.fingerprint == made.fingerprint
    assert made.record.maker == "labeller"
    assert f"an image classifier of {NUM_CLASSES} classes" in made.record.sentence
    assert set(made.depends_on) > {"config_sha256", "preprocessing_sha256", "weights_sha256"}


def test_a_sample_is_classified_alike_with_others(saved: tuple[Path, torch.nn.Module]) -> None:
    labeller = load_labeller(str(saved[0]))
    samples = pictures(9)
    together = labeller.scores(samples)
    assert together.shape == (9, NUM_CLASSES)
    alone = np.concatenate([labeller.scores(samples[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_grey_samples_are_taken_three_times(saved: tuple[Path, torch.nn.Module]) -> None:
    labeller = load_labeller(str(saved[0]))
    grey = pictures(3, channels=1)
    np.testing.assert_array_equal(labeller.scores(grey), labeller.scores(np.repeat(grey, 3, 3)))


def test_one_bit_of_the_weights_changes_what_the_labels_depend_on(
    saved: tuple[Path, torch.nn.Module], spoilt: Path
) -> None:
    data = (spoilt / WEIGHTS).read_bytes()
    (spoilt / WEIGHTS).write_bytes(data[:-4] + bytes([data[-4] ^ 1]) + data[-3:])
    before, after = load_labeller(str(saved[0])).record, load_labeller(str(spoilt)).record
    assert {key for key in before if before[key] != after[key]} == {"weights_sha256"}


def test_another_number_of_classes_than_the_weights_have_is_an_error(spoilt: Path) -> None:
    edit(spoilt, id2label={str(k): str(k) for k in range(5)},
         label2id={str(k): k for k in range(5)})  # fmt: skip
    assert "names 5 classes and a network for them" in refusal(spoilt)


def test_an_encoder_without_trained_classes_is_an_error(tmp_path: Path) -> None:
    save_encoder("vit", tmp_path / "vit")
    message = refusal(tmp_path / "vit")
    assert "lack 2 tensors" in message
    assert "never trained as a classifier" in message


@pytest.mark.parametrize("kind", ["bert", "masked"])
def test_a_model_of_another_kind_is_named(kind: str, tmp_path: Path) -> None:
    save_encoder(kind, tmp_path / "model")
    assert "not an image classifier; use an image classifier such as" in refusal(tmp_path / "model")


def test_one_class_is_nothing_to_tell_apart(spoilt: Path) -> None:
    edit(spoilt, id2label={"0": "only"}, label2id={"only": 0})
    tensors = load_file(spoilt / WEIGHTS)
    head = {key: value[:1] for key, value in tensors.items() if key.startswith("classifier")}
    save_file({**tensors, **head}, spoilt / WEIGHTS, metadata={"format": "pt"})
    assert "fewer than two classes" in refusal(spoilt)


def test_weights_that_are_not_finite_are_an_error(spoilt: Path) -> None:
    tensors = load_file(spoilt / WEIGHTS)
    head = {key: value * np.nan for key, value in tensors.items() if key.startswith("classifier")}
    save_file({**tensors, **head}, spoilt / WEIGHTS, metadata={"format": "pt"})
    assert "not finite" in refusal(spoilt)


def test_pickles_code_and_foreign_weights_are_refused(spoilt: Path) -> None:
    edit(spoilt, attn_implementation="org/kernel")
    assert "could be code from the Hub" in refusal(spoilt)
    edit(spoilt, attn_implementation=None, model_type="mine", auto_map={"AutoConfig": "x.y"})
    assert "needs code from its own repository, which is never run" in refusal(spoilt)
    (spoilt / WEIGHTS).rename(spoilt / "pytorch_model.bin")
    assert "can run code when loaded" in refusal(spoilt, OptionError)


def test_damaged_weights_are_a_sentence(spoilt: Path) -> None:
    (spoilt / WEIGHTS).write_bytes((spoilt / WEIGHTS).read_bytes()[:-100])
    assert "transformers cannot load" in refusal(spoilt)


@pytest.mark.parametrize("spec", ["", "no such folder", "~nobody/x/y", "a\x00b"])
def test_what_is_neither_folder_nor_hub_model_is_a_wrong_option(spec: str) -> None:
    with pytest.raises(OptionError, match="--memscan-labeller: there is no folder"):
        check_labeller(spec)


def test_the_name_of_a_hub_model_is_taken_without_a_look_at_the_network() -> None:
    check_labeller("microsoft/resnet-18@main")


def test_a_hub_model_that_is_not_cached_is_told_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MemscanError, match="cannot be used offline"):
        load_labeller("nobody/nothing-like-this", offline=True)
