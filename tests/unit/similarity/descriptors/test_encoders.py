"""Image encoders of transformers: the output that the rule names, safely loaded, or a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from descriptor_factory import encoder_processor, save_encoder, silent_transformers
from PIL import Image

from pytest_memscan.errors import DescriptorError
from pytest_memscan.similarity.descriptors.encoder_files import INDEX, SINGLE
from pytest_memscan.similarity.descriptors.encoders import load_encoder

# What a user of transformers would take as the image's vector, and the rule that is documented.
ORACLES: dict[str, tuple[Callable[[torch.nn.Module, torch.Tensor], torch.Tensor], str]] = {
    "dinov2": (lambda model, x: model(x).last_hidden_state[:, 0], "class token"),
    "registers": (lambda model, x: model(x).pooler_output, "class token"),
    "vit": (lambda model, x: model(x).last_hidden_state[:, 0], "class token"),
    "vit classifier": (lambda model, x: model.vit(x).last_hidden_state[:, 0], "class token"),
    "clip": (lambda model, x: model.get_image_features(x).pooler_output, "projection"),
    "clip vision": (lambda model, x: model(x).pooler_output, "pooler"),
    "clip projection": (lambda model, x: model(x).image_embeds, "projection"),
    "siglip": (lambda model, x: model.get_image_features(x).pooler_output, "pooler"),
    "siglip vision": (lambda model, x: model(x).pooler_output, "pooler"),
    "convnext": (lambda model, x: model(x).last_hidden_state.flatten(2).mean(2), "mean"),
    "swin": (lambda model, x: model(x).pooler_output, "mean"),
}


def pictures(count: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, 30, 40, channels), dtype=np.uint8)


@pytest.fixture(scope="module")
def saved(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, torch.nn.Module]]:
    made: dict[str, tuple[Path, torch.nn.Module]] = {}

    def get(kind: str) -> tuple[Path, torch.nn.Module]:
        if kind not in made:
            folder = tmp_path_factory.mktemp("encoder") / "model"
            made[kind] = (folder, save_encoder(kind, folder))
        return made[kind]

    return get


Saved = Callable[[str], tuple[Path, torch.nn.Module]]


@pytest.fixture
def encoder(saved: Saved, tmp_path: Path) -> Path:
    """A copy of the tiny DINOv2 that a test may spoil."""
    folder = tmp_path / "encoder"
    shutil.copytree(saved("dinov2")[0], folder)
    return folder


def edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flipped(data: bytes) -> bytes:
    """The same with one bit of the last number changed."""
    return data[:-4] + bytes([data[-4] ^ 1]) + data[-3:]


def refusal(folder: Path, **options: str) -> str:
    with pytest.raises(DescriptorError) as raised:
        load_encoder(folder, label="mine", **options)
    message = str(raised.value)
    assert "\n" not in message
    assert str(folder) not in message
    return message


@pytest.mark.parametrize("kind", ORACLES)
def test_the_descriptor_is_the_output_that_the_rule_names(
    kind: str, saved: Saved, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, model = saved(kind)
    take, pooling = ORACLES[kind]
    capfd.readouterr()
    descriptor = load_encoder(folder, label=kind)
    assert descriptor.record["pooling"] == pooling
    images = pictures(3)
    ready = encoder_processor(kind)(
        images=[Image.fromarray(image) for image in images], return_tensors="pt"
    )["pixel_values"]
    with torch.inference_mode():
        vectors = take(model, ready)
    expected = torch.nn.functional.normalize(vectors).numpy()
    described = descriptor.describe(images)
    assert described.shape == (3, descriptor.dimension)
    np.testing.assert_allclose(described, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(described, axis=1), 1, atol=1e-6)
    assert capfd.readouterr() == ("", "")


def test_an_image_is_described_alike_with_others_and_again(saved: Saved) -> None:
    descriptor = load_encoder(saved("dinov2")[0], label="mine")
    images = pictures(10)
    described = descriptor.describe(images)
    np.testing.assert_array_equal(described, descriptor.describe(images))
    np.testing.assert_array_equal(described[:1], descriptor.describe(images[:1]))


def test_grey_images_are_taken_three_times(saved: Saved) -> None:
    descriptor = load_encoder(saved("dinov2")[0], label="mine")
    grey = pictures(2, channels=1)
    np.testing.assert_array_equal(
        descriptor.describe(grey), descriptor.describe(np.repeat(grey, 3, axis=3))
    )


def test_the_record_is_that_of_the_files_wherever_they_lie(saved: Saved, encoder: Path) -> None:
    here = load_encoder(saved("dinov2")[0], label="here")
    there = load_encoder(encoder, label="there")
    assert here.record == there.record
    assert here.levels is None
    assert set(here.record) == {
        "descriptor", "model_type", "pooling", "config_sha256", "preprocessing_sha256",
        "weights_sha256",
    }  # fmt: skip


def test_one_bit_of_weights_or_preprocessing_changes_the_record(encoder: Path) -> None:
    before = dict(load_encoder(encoder, label="mine").record)
    (encoder / SINGLE).write_bytes(flipped((encoder / SINGLE).read_bytes()))
    after = dict(load_encoder(encoder, label="mine").record)
    assert {key for key in before if before[key] != after[key]} == {"weights_sha256"}
    edit(encoder, "preprocessor_config.json", resample=2)
    last = dict(load_encoder(encoder, label="mine").record)
    assert {key for key in last if last[key] != after[key]} == {"preprocessing_sha256"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("bert", "is a bert model, which takes input_ids, not an image encoder"),
     ("masked", "describes the same image differently each time")],
)  # fmt: skip
def test_what_is_no_image_encoder_is_named(kind: str, expected: str, saved: Saved) -> None:
    assert expected in refusal(saved(kind)[0])


def test_missing_files_are_named(encoder: Path) -> None:
    (encoder / "preprocessor_config.json").rename(encoder / "other.json")
    assert "has no preprocessor_config.json, so how it wants its images is" in refusal(encoder)
    (encoder / "other.json").rename(encoder / "preprocessor_config.json")
    (encoder / SINGLE).rename(encoder / "pytorch_model.bin")
    assert "only pytorch_model.bin, which can run code when loaded" in refusal(encoder)
    (encoder / "config.json").unlink()
    assert "mine has no config.json" in refusal(encoder)


def test_a_processor_in_the_newer_file_is_read(encoder: Path) -> None:
    path = encoder / "preprocessor_config.json"
    content = json.loads(path.read_text())
    before = load_encoder(encoder, label="mine").describe(pictures(1))
    path.unlink()
    (encoder / "processor_config.json").write_text(json.dumps({"image_processor": content}))
    np.testing.assert_array_equal(load_encoder(encoder, label="mine").describe(pictures(1)), before)


def test_code_is_refused(encoder: Path) -> None:
    marker = encoder / "ran"
    (encoder / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    edit(encoder, "config.json", model_type="evil", auto_map={"AutoModel": "evil.Model"})
    assert "needs code from its own repository, which is never run" in refusal(encoder)
    edit(encoder, "config.json", model_type="dinov2")
    load_encoder(encoder, label="mine")  # the library's own code is used
    edit(
        encoder,
        "preprocessor_config.json",
        image_processor_type="EvilProcessor",
        auto_map={"AutoImageProcessor": "evil.EvilProcessor"},
    )
    assert "the image processor of mine cannot be loaded" in refusal(encoder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "unheard\x1b[2J"}, r"(unheard\x1b[2J) is of a type that the installed"),
        ({"model_type": None}, "names no model_type"),
        ({"quantization_config": {"load_in_8bit": True}}, "asks for quantization_config"),
        ({"transformers_weights": "other.safetensors"}, "asks for transformers_weights"),
        ({"num_hidden_layers": 3}, "lack "),
        ({"hidden_size": 18}, "mine"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    changes: dict[str, object], expected: str, encoder: Path
) -> None:
    edit(encoder, "config.json", **changes)
    assert expected in refusal(encoder)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_cannot_bring_its_own_attention(key: str, encoder: Path) -> None:
    before = load_encoder(encoder, label="mine").describe(pictures(1))
    edit(encoder, "config.json", **{key: "sdpa"})
    described = load_encoder(encoder, label="mine").describe(pictures(1))
    np.testing.assert_allclose(described, before, atol=1e-5)
    kernels = "someone/kernels@v1"
    for changes in ({key: kernels}, {"vision_config": {key: kernels}}, {key: {"": kernels}}):
        edit(encoder, "config.json", **changes)
        message = refusal(encoder)
        assert f"asks for {key} " in message
        assert kernels in message


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"model_type": 3}'])
def test_a_configuration_that_is_no_table_is_refused(data: bytes, encoder: Path) -> None:
    (encoder / "config.json").write_bytes(data)
    assert "config.json of mine" in refusal(encoder)


def test_damaged_weights_are_refused(encoder: Path) -> None:
    whole = (encoder / SINGLE).read_bytes()
    for data in (b"", whole[:1000], whole[:-1], b"\x80\x04pickle"):
        (encoder / SINGLE).write_bytes(data)
        assert "transformers cannot load mine" in refusal(encoder)


def test_weights_that_are_not_finite_are_refused(encoder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(encoder / SINGLE)
    tensors["layernorm.bias"].fill_(float("nan"))
    save_file(tensors, encoder / SINGLE, metadata={"format": "pt"})
    assert "no descriptor of finite values" in refusal(encoder)


def test_an_adapter_is_no_encoder(encoder: Path) -> None:
    (encoder / "adapter_config.json").write_text("{}")
    assert "is an adapter for another model" in refusal(encoder)


def test_images_that_the_network_cannot_take_are_told_at_the_start(encoder: Path) -> None:
    edit(encoder, "preprocessor_config.json", crop_size={"height": 3, "width": 3})
    assert "gives no descriptor of an image" in refusal(encoder)


def test_weights_in_several_files_are_read_and_all_needed(saved: Saved, tmp_path: Path) -> None:
    folder, model = saved("dinov2")
    sharded = tmp_path / "sharded"
    shutil.copytree(folder, sharded)
    (sharded / SINGLE).unlink()
    with silent_transformers():
        model.save_pretrained(sharded, max_shard_size="30KB")
    descriptor = load_encoder(sharded, label="mine")
    np.testing.assert_array_equal(
        descriptor.describe(pictures(1)), load_encoder(folder, label="one").describe(pictures(1))
    )
    last = sorted(sharded.glob("model-*.safetensors"))[-1]
    last.unlink()
    assert f"does not hold the files that its {INDEX} names" in refusal(sharded)
    (sharded / INDEX).write_text("[]")
    assert f"{INDEX} of mine is damaged" in refusal(sharded)
