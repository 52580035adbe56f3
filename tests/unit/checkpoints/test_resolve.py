"""What the user types finds a folder, or a sentence that says why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from adapter_factory import DIFFUSERS_WEIGHTS, layers_of_fixture, write_diffusers
from checkpoint_factory import WEIGHTS, save_tiny_checkpoint
from original_layout import original_unet, write_original
from pipeline_factory import save_tiny, tiny_pipeline

from pytest_memscan.checkpoints import resolve as resolve_module
from pytest_memscan.checkpoints.resolve import (
    BASE,
    check_spec,
    has_builtin_train_data,
    known_claims,
    known_form,
    known_kind,
    resolve,
)
from pytest_memscan.errors import OptionError


def _message(spec: str) -> str:
    with pytest.raises(OptionError) as raised:
        check_spec(spec)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("--memscan")
    return message


def _edit_index(folder: Path, **changes: object) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint in ./ckpt of the working directory."""
    monkeypatch.chdir(tmp_path)
    return save_tiny_checkpoint(tmp_path / "ckpt")


# --- local folders ------------------------------------------------------------------------------


def test_a_local_folder_is_resolved_to_itself(checkpoint: Path) -> None:
    found = resolve("ckpt", offline=True)
    assert found.folder == checkpoint.resolve()
    assert (found.spec, found.label, found.commit) == ("ckpt", "./ckpt", None)
    assert found.train_data is None


def test_the_label_of_an_absolute_path_does_not_reveal_where_it_lies(checkpoint: Path) -> None:
    assert resolve(str(checkpoint), offline=True).label == ".../ckpt"
    assert resolve("./ckpt/../ckpt", offline=True).label == "./ckpt/../ckpt"


def test_an_existing_folder_wins_over_a_hub_id_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_checkpoint(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve("org/name", offline=True).label == "./org/name"


def test_a_hub_id_is_accepted_without_a_network() -> None:
    check_spec("org/name")
    check_spec("org/name@v1.0")
    check_spec("org/name@refs/pr/3")


@pytest.mark.parametrize("spec", ["", "  "])
def test_an_empty_value_is_refused_with_what_it_can_be(spec: str) -> None:
    message = _message(spec)
    assert "empty" in message
    assert "ORG/NAME" in message


@pytest.mark.parametrize(
    "spec", ["./nowhere", "/nowhere/at/all", "~/no-such-folder", "nowhere", "./" + "x" * 5000]
)
def test_a_missing_folder_is_named(spec: str) -> None:
    assert "no such folder" in _message(spec)


@pytest.mark.parametrize(
    "spec", ["a/b/c", "org/../name", "org/name@a/../b", "org--x/name", "a\x00"]
)
def test_what_is_neither_a_path_nor_a_hub_id_is_refused(spec: str) -> None:
    assert "ORG/NAME[@REVISION]" in _message(spec)


def test_a_url_gets_the_advice_to_give_the_hub_id() -> None:
    message = _message("https://huggingface.co/org/name")
    assert "URL" in message
    assert "ORG/NAME" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.safetensors", "its first bytes are not a safetensors header"),
        ("model.ckpt", "is a pickle, which can run code when loaded"),
        ("notes.txt", "is a file; supported is a diffusers pipeline folder"),
    ],
)
def test_a_single_file_is_refused_with_what_is_supported(
    tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert words in _message(str(tmp_path / name))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "the folder is empty"),
        (["config.json", "diffusion_pytorch_model.safetensors"], "single model (config.json)"),
        (["v1-5.ckpt"], "single file 'v1-5.ckpt'"),
        (["README.md"], "not a diffusers pipeline"),
    ],
)
def test_a_folder_without_model_index_is_refused_with_what_it_holds(
    tmp_path: Path, files: list[str], words: str
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    message = _message(str(tmp_path))
    assert "no model_index.json" in message
    assert words in message
    assert "supported is a diffusers pipeline folder with model_index.json" in message


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["pytorch_lora_weights.safetensors"], "pytorch_lora_weights.safetensors is not a safe"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapter_config.json is not JSON"),
        (["v1-5.safetensors"], "v1-5.safetensors is not a safetensors file"),
        (["adapter_config.json"], "adapter_model.safetensors is missing"),
        (["pytorch_lora_weights.bin"], "is a pickle, which can run code when loaded"),
    ],
)
def test_a_folder_of_a_lora_that_cannot_be_read_is_refused_with_the_file(
    tmp_path: Path, files: list[str], words: str
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    assert words in _message(str(tmp_path))


def test_a_folder_with_one_file_that_is_no_lora_gets_the_advice_to_give_that_file(
    tmp_path: Path,
) -> None:
    path = write_original(tmp_path / "v1-5.safetensors", original_unet(tiny_pipeline("sd1").unet))
    message = _message(str(tmp_path))
    assert "the single file 'v1-5.safetensors'; give that file instead of its folder" in message
    check_spec(str(path))


def test_a_model_index_that_is_not_json_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model_index.json").write_text("{")
    assert "model_index.json is not JSON" in _message("./ckpt")


def test_pickle_only_weights_are_refused_without_a_way_around(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS).rename(checkpoint / "unet/diffusion_pytorch_model.bin")
    message = _message("./ckpt")
    assert (
        "unet/diffusion_pytorch_model.bin' is a pickle, which can run code when loaded" in message
    )
    assert "convert it to safetensors" in message
    assert "allow-pickle" not in message


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux-dev", "pixart-sigma"])
def test_a_text_to_image_checkpoint_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(family, tmp_path / "t2i")
    found = resolve("./t2i", offline=True)
    assert found.kind == "text-to-image"
    assert found.train_data is None
    assert found.prompts is None


@pytest.mark.parametrize("name", ["StableDiffusionImg2ImgPipeline", "StableVideoDiffusionPipeline"])
def test_a_pipeline_of_another_kind_is_refused_when_pytest_starts(
    checkpoint: Path, name: str
) -> None:
    _edit_index(checkpoint, _class_name=name)
    message = _message("./ckpt")
    assert name in message
    assert "neither text-to-image nor unconditional" in message


def test_another_pipeline_class_is_refused_with_those_supported(checkpoint: Path) -> None:
    _edit_index(checkpoint, _class_name="DiTPipeline")
    message = _message("./ckpt")
    assert "DiTPipeline" in message
    assert "DDPMPipeline or DDIMPipeline" in message


# --- builtin ------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of an installation whose package lies in ./pytest_memscan."""
    module = tmp_path / "pytest_memscan" / "checkpoints" / "resolve.py"
    monkeypatch.setattr(resolve_module, "__file__", str(module))
    return tmp_path.resolve()


@pytest.mark.parametrize("home", ["pytest_memscan/builtin", "fixtures"])
def test_a_builtin_is_found_in_the_wheel_and_in_the_repository(installed: Path, home: str) -> None:
    folder = save_tiny_checkpoint(installed / home / "leaky")
    (folder / "train_images.safetensors").write_bytes(b"images")
    found = resolve("builtin:leaky", offline=True)
    assert found.folder == folder
    assert found.label == found.spec == "builtin:leaky"
    assert found.train_data == folder / "train_images.safetensors"


def test_a_builtin_may_have_prompts_and_no_training_images(installed: Path) -> None:
    folder = save_tiny("sd1", installed / "fixtures" / "leaky-t2i")
    found = resolve("builtin:leaky-t2i", offline=True)
    assert (found.folder, found.train_data, found.prompts) == (folder, None, None)
    assert not has_builtin_train_data("builtin:leaky-t2i")
    (folder / "prompts.txt").write_text("a cat")
    (folder / "train_images.safetensors").write_bytes(b"images")
    found = resolve("builtin:leaky-t2i", offline=True)
    assert found.prompts == folder / "prompts.txt"
    assert found.train_data == folder / "train_images.safetensors"
    assert has_builtin_train_data("builtin:leaky-t2i")


def test_prompts_and_images_of_a_folder_are_not_taken_for_a_builtins(checkpoint: Path) -> None:
    (checkpoint / "prompts.txt").write_text("a cat")
    (checkpoint / "train_images.safetensors").write_bytes(b"images")
    found = resolve("./ckpt", offline=True)
    assert (found.train_data, found.prompts) == (None, None)
    assert not has_builtin_train_data("./ckpt")
    assert not has_builtin_train_data("builtin:nothing")


def test_a_folder_that_is_neither_pipeline_nor_lora_is_no_builtin(installed: Path) -> None:
    save_tiny_checkpoint(installed / "fixtures" / "clean")
    folder = installed / "fixtures" / "t2i"
    folder.mkdir()
    (folder / "train.py").write_bytes(b"x")
    message = _message("builtin:t2i")
    assert "no such builtin" in message
    assert message.endswith("available: builtin:clean")


def test_the_builtin_lora_is_one_with_its_images_and_prompts() -> None:
    found = resolve("builtin:leaky-t2i-lora", offline=True)
    assert (found.form, found.kind) == ("lora", "text-to-image")
    assert found.claims.base == "builtin:clean-t2i"
    assert found.train_data is not None
    assert found.prompts is not None
    assert (known_form(found.spec), known_kind(found.spec)) == ("lora", "text-to-image")
    assert "builtin:leaky-t2i-lora" in _message("builtin:leaky-t2i-loras")


def test_a_lora_or_a_single_file_is_no_base(tmp_path: Path) -> None:
    lora = write_diffusers(tmp_path / "lora" / DIFFUSERS_WEIGHTS, layers_of_fixture())
    single = write_original(tmp_path / "m.safetensors", original_unet(tiny_pipeline("sd1").unet))
    for spec, form in ((str(lora), "LoRA"), (str(lora.parent), "LoRA"), (str(single), "single")):
        check_spec(spec)
        with pytest.raises(OptionError, match=rf"--memscan-base .*this is a {form}.*a base has to"):
            check_spec(spec, option=BASE)
    with pytest.raises(OptionError, match=r"--memscan-base .*no such folder"):
        check_spec("./nowhere", option=BASE)


def test_what_is_known_before_anything_is_fetched(tmp_path: Path) -> None:
    assert (known_form("org/name"), known_kind("org/name"), known_claims("org/name")) == (None,) * 3
    assert (known_form("./nowhere"), known_claims("./nowhere")) == (None, None)
    lora = write_diffusers(tmp_path / DIFFUSERS_WEIGHTS, layers_of_fixture())
    (tmp_path / "README.md").write_text("---\nbase_model: org/base\n---\n")
    for spec in (str(lora), str(tmp_path)):
        claims = known_claims(spec)
        assert known_form(spec) == "lora"
        assert claims is not None
        assert (claims.base, claims.base_origin) == ("org/base", "README.md")
    assert resolve(str(lora), offline=True).label == f".../{DIFFUSERS_WEIGHTS}"


@pytest.mark.parametrize("name", ["leeky", "-leaky", "", "../leaky", "Leaky", "/etc"])
def test_an_unknown_builtin_is_refused_with_those_available(installed: Path, name: str) -> None:
    folder = save_tiny_checkpoint(installed / "fixtures" / "leaky")
    (folder / "train_images.safetensors").write_bytes(b"images")
    message = _message(f"builtin:{name}")
    assert "no such builtin" in message
    assert message.endswith("available: builtin:leaky")


def test_an_installation_without_builtins_says_so(installed: Path) -> None:
    assert "none in this installation" in _message("builtin:leaky")


# --- cost of importing --------------------------------------------------------------------------


def test_checking_and_resolving_locally_imports_nothing_heavy(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path / "ckpt")
    code = (
        "import sys\n"
        "from pytest_memscan.checkpoints.resolve import check_spec, resolve\n"
        "from pytest_memscan.checkpoints.verify import verify\n"
        "check_spec('./ckpt'); check_spec('org/name')\n"
        "verify(resolve('./ckpt', offline=False).folder)\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'huggingface_hub', 'numpy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
    )
