"""A LoRA is found and vetted by names, headers and configurations, or refused with the reason."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapter_factory import (
    DIFFUSERS_WEIGHTS,
    FIXTURES,
    Layers,
    layers_of_fixture,
    write_diffusers,
    write_kohya,
    write_old_diffusers,
    write_peft,
)
from safetensors.numpy import load_file, save_file

from pytest_memscan.checkpoints.adapter_files import (
    Adapter,
    adapter_names,
    find_adapter,
    vet_adapter,
)
from pytest_memscan.errors import CheckpointError

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
PEFT = ("unet/adapter_config.json", "unet/adapter_model.safetensors")


def _layers(rank: int = 2) -> Layers:
    down, up = np.ones((rank, 6), np.float32), np.ones((4, rank), np.float32)
    return {
        ("unet", f"{ATTENTION}.to_q"): (down, up),
        ("unet", f"{ATTENTION}.to_out.0"): (down, up),
        ("text_encoder", "encoder.layers.0.self_attn.q_proj"): (down, up),
        ("text_encoder", "encoder.layers.0.self_attn.out_proj"): (down, up),
    }


def _vetted(path: Path) -> Adapter:
    files = find_adapter(path)
    assert files is not None
    return vet_adapter(files)


def _refusal(path: Path) -> str:
    """The one line with which an adapter is refused; it tells no private path."""
    with pytest.raises(CheckpointError) as raised:
        _vetted(path)
    message = str(raised.value)
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


# --- layouts ------------------------------------------------------------------------------------


def test_the_fixture_is_described() -> None:
    folder = FIXTURES / "leaky-t2i-lora"
    adapter = _vetted(folder)
    tensors = load_file(folder / DIFFUSERS_WEIGHTS)
    digest = hashlib.sha256((folder / DIFFUSERS_WEIGHTS).read_bytes()).hexdigest()
    assert adapter.files == {DIFFUSERS_WEIGHTS: digest}
    assert adapter.num_tensors == len(tensors)
    assert adapter.num_parameters == sum(each.size for each in tensors.values())
    rank = len(next(iter(layers_of_fixture().values()))[0])
    assert adapter.description == f"diffusers layout, rank {rank}, unet and text_encoder"
    assert adapter.parts == ("unet", "text_encoder")
    assert "builtin:clean-t2i" in adapter.metadata["lora_adapter_metadata"]
    assert adapter.scalings["unet"].scale_of("any.layer") == 1.0


def test_files_in_the_layout_of_diffusers_are_found_under_any_name(tmp_path: Path) -> None:
    for write, name in [(write_diffusers, "new"), (write_old_diffusers, "old")]:
        file = write(tmp_path / name / "style.safetensors", _layers())
        for path in (file, file.parent):
            adapter = _vetted(path)
            assert adapter.description == "diffusers layout, rank 2, unet and text_encoder"
            assert list(adapter.files) == ["style.safetensors"]
            assert adapter.num_tensors == 8


def test_a_kohya_file_is_found_and_its_alphas_are_no_parameters(tmp_path: Path) -> None:
    alphas = {module: 1.0 for _, module in _layers()}
    adapter = _vetted(write_kohya(tmp_path / "style.safetensors", _layers(), alphas))
    assert adapter.description == "kohya layout, rank 2, unet and text_encoder"
    assert adapter.num_tensors == 12
    assert adapter.num_parameters == 4 * (2 * 6 + 4 * 2)


def test_a_peft_folder_is_found_with_its_parts_in_folders_or_at_the_top(tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "lora", _layers(), lora_alpha=1)
    adapter = _vetted(folder)
    assert adapter.description == "peft layout, rank 2, unet and text_encoder"
    assert set(adapter.files) == {
        f"{part}/adapter_{name}"
        for part in ("unet", "text_encoder")
        for name in ("config.json", "model.safetensors")
    }
    assert adapter.scalings["text_encoder"].scale_of("encoder.layers.0") == 0.5
    at_top = _vetted(folder / "unet")
    assert at_top.parts == ("unet",)
    assert at_top.scalings["unet"].scale_of(ATTENTION) == 0.5


def test_what_is_no_adapter_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = {"down_blocks.0.conv.weight": np.zeros((2, 2), np.float32)}
    save_file(model, tmp_path / "whole_model.safetensors")
    (tmp_path / "model.bin").write_bytes(b"PK")
    for name in ("empty", "whole_model.safetensors", "model.bin", "nowhere", "."):
        assert find_adapter(tmp_path / name) is None
    assert find_adapter(FIXTURES / "clean-t2i") is None


def test_a_pipeline_is_never_an_adapter_whatever_lies_beside_it(tmp_path: Path) -> None:
    write_diffusers(tmp_path / DIFFUSERS_WEIGHTS, _layers())
    (tmp_path / "model_index.json").write_text("{}")
    assert find_adapter(tmp_path) is None
    assert adapter_names(["model_index.json", DIFFUSERS_WEIGHTS]) is None


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([DIFFUSERS_WEIGHTS, "README.md", "train_images.safetensors"], (DIFFUSERS_WEIGHTS,)),
        ([*PEFT, "README.md", "unet/adapter_model.bin"], PEFT),
        (["style.safetensors", "README.md"], ("style.safetensors",)),
        (["config.json", "model.safetensors"], None),
        (["README.md", "unet/diffusion_pytorch_model.safetensors"], None),
        ([], None),
    ],
)
def test_names_tell_what_to_fetch(names: list[str], wanted: tuple[str, ...] | None) -> None:
    assert adapter_names(names) == wanted


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["pytorch_lora_weights.bin"], "'pytorch_lora_weights.bin' is a pickle"),
        (["adapter_config.json", "adapter_model.bin"], "'adapter_model.bin' is a pickle"),
        (["unet/adapter_config.json"], "unet/adapter_model.safetensors is missing"),
        (["a.safetensors", "b.safetensors"], "2 files may be the adapter ('a.safetensors', "),
        ([DIFFUSERS_WEIGHTS, *PEFT], "2 files may be the adapter"),
        ([*PEFT, "adapter_config.json"], "2 files may be the adapter"),
    ],
)
def test_names_that_leave_a_doubt_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        adapter_names(names)
    assert words in str(raised.value)


# --- bad files ----------------------------------------------------------------------------------


def test_two_candidates_are_refused_but_other_tensors_beside_one_are_not(tmp_path: Path) -> None:
    write_diffusers(tmp_path / "a.safetensors", _layers())
    save_file({"images": np.zeros(3, np.uint8)}, tmp_path / "train_images.safetensors")
    assert list(_vetted(tmp_path).files) == ["a.safetensors"]
    write_kohya(tmp_path / "b.safetensors", _layers())
    message = _refusal(tmp_path)
    assert "2 files may be the adapter ('a.safetensors', 'b.safetensors')" in message
    assert "give the file itself" in message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"\x80\x04\x95" + b"x" * 100, "is a pickle with another name"),
        (None, "is truncated"),
    ],
)
def test_a_file_that_is_no_sound_safetensors_is_refused(
    tmp_path: Path, data: bytes | None, words: str
) -> None:
    path = write_diffusers(tmp_path / DIFFUSERS_WEIGHTS, _layers())
    path.write_bytes(path.read_bytes()[:-10] if data is None else data)
    assert words in _refusal(tmp_path)
    assert words in _refusal(path)


@pytest.mark.parametrize("name", ["my_lora.pt", "adapter_model.bin", "pytorch_lora_weights.bin"])
def test_a_pickled_adapter_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    assert f"'{name}' is a pickle, which can run code" in _refusal(tmp_path / name)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    real = write_diffusers(tmp_path / "elsewhere/x.safetensors", _layers())
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / DIFFUSERS_WEIGHTS).symlink_to(real)
    assert "is a link to a file outside the checkpoint" in _refusal(tmp_path / "lora")


def test_links_into_the_blobs_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--lora"
    write_diffusers(repo / "blobs/0123", _layers())
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / DIFFUSERS_WEIGHTS).symlink_to("../../blobs/0123")
    assert _vetted(snapshot).num_tensors == 8


@pytest.mark.parametrize(
    ("key", "method"),
    [
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w1", "LoKr"),
        ("lora_unet_x.lora_mid.weight", "LyCORIS"),
        ("lora_unet_x.diff_b", "LyCORIS"),
        ("base_model.model.x.ia3_l", "IA3"),
        ("oft_unet_x.oft_blocks", "OFT"),
        ("lora_unet_x.dora_scale", "DoRA"),
        (f"unet.{ATTENTION}.to_q.lora_magnitude_vector", "DoRA"),
    ],
)
def test_other_methods_than_lora_are_named(tmp_path: Path, key: str, method: str) -> None:
    save_file({key: np.ones((2, 2), np.float32)}, tmp_path / "x.safetensors")
    message = _refusal(tmp_path / "x.safetensors")
    assert key in message
    assert method in message
    assert "supported is plain LoRA" in message


def _changed(path: Path, **changes: Any) -> None:
    """Add tensors to a file, replace them, or (None) remove them."""
    tensors = load_file(path)
    for key, value in changes.items():
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (f"unet.{ATTENTION}.to_q.lora_B.weight", None, "has no partner"),
        (f"unet.{ATTENTION}.to_q.lora_B.bias", np.ones(4, np.float32), "is no part of a LoRA"),
        ("unet.conv_in.weight", np.ones(4, np.float32), "is no part of a LoRA layer"),
        (f"unet.{ATTENTION}.to_q.lora_A.weight", np.ones((3, 6), np.float32), "no rank in common"),
        (f"unet.{ATTENTION}.to_q.lora_A.weight", np.ones((2, 6), np.int8), "has dtype I8"),
        (f"unet.{ATTENTION}.to_q.lora_A.weight", np.ones((0, 6), np.float32), "has shape [0, 6]"),
        (f"unet.{ATTENTION}.to_q.alpha", np.ones(2, np.float32), "is no single number"),
        (f"unet.{ATTENTION}.to_q.lora_down.weight", np.ones((2, 6), np.float32), "are both the"),
    ],
)
def test_every_tensor_belongs_to_a_layer(tmp_path: Path, key: str, value: Any, words: str) -> None:
    path = write_diffusers(tmp_path / "x.safetensors", _layers())
    _changed(path, **{key: value})
    message = _refusal(path)
    assert words in message
    assert key.partition(".lora_")[0] in message


def test_weights_of_peft_without_their_configuration_are_refused(tmp_path: Path) -> None:
    folder = write_peft(tmp_path, _layers()) / "unet"
    assert "give their folder" in _refusal(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").unlink()
    message = _refusal(folder)
    assert "adapter_config.json, which says how strong the adapter is" in message


# --- configurations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', not 'LORA'"),
        ({"peft_type": None}, "peft_type is 'None', not 'LORA'"),
        ({"r": 3}, "has rank 2, but the configuration says 3"),
        ({"r": True}, "r is 'True'"),
        ({"lora_alpha": None}, "lora_alpha is 'None'"),
        ({"lora_alpha": 1e9}, "makes no sense"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"use_dora": True}, "'use_dora' is 'True', a setting that a scan cannot honour"),
        ({"modules_to_save": ["conv_out"]}, "'modules_to_save' is"),
        ({"something_new": 1}, "'something_new' is '1'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the weights of the base"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "not regular expressions"),
        ({"alpha_pattern": {"to_q": "4"}}, "alpha_pattern is '4'"),
        ({"rank_pattern": {"to_q": 0}}, "rank_pattern is '0'"),
        ({"rank_pattern": ["to_q"]}, "expected layers and numbers"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "asks to run its own code"),
    ],
)
def test_a_configuration_that_cannot_be_honoured_is_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    message = _refusal(write_peft(tmp_path / "lora", _layers(), **settings))
    assert words in message
    assert "adapter_config.json" in message or "adapter_model.safetensors" in message


def test_metadata_of_diffusers_is_read_under_the_same_rules(tmp_path: Path) -> None:
    path = write_diffusers(tmp_path / "x.safetensors", _layers())
    config = {"unet.peft_type": "LORA", "unet.r": 2, "unet.lora_alpha": 6}

    def save(changes: dict[str, Any]) -> None:
        text = json.dumps({**config, **changes})
        save_file(load_file(path), path, metadata={"lora_adapter_metadata": text})

    save({})
    scaling = _vetted(path).scalings
    assert set(scaling) == {"unet"}
    assert scaling["unet"].scale_of(f"{ATTENTION}.to_q") == 3.0
    save({"unet.use_dora": True})
    assert "lora_adapter_metadata of x.safetensors: 'use_dora'" in _refusal(path)
    save({"unet.peft_type": "\ud800"})  # half of a pair of surrogates: no text
    assert "peft_type is" in _refusal(path)
    save_file(load_file(path), path, metadata={"lora_adapter_metadata": "[1]"})
    assert "is not a JSON object but list" in _refusal(path)
    save({})
    tensors = {**load_file(path), f"unet.{ATTENTION}.to_q.alpha": np.array(1, np.float32)}
    save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(config)})
    assert "both" in _refusal(path)


def test_finding_and_vetting_import_no_torch() -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from pytest_memscan.checkpoints.adapter_files import find_adapter, vet_adapter;"
        f"vet_adapter(find_adapter(Path({str(FIXTURES / 'leaky-t2i-lora')!r})));"
        "print({'torch', 'diffusers', 'peft', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
