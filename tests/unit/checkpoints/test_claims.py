"""What a fine-tune says about its base and its prompts; garbage says nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pytest_memscan.checkpoints.claims import Claims, claims_of

FIXTURES = Path(__file__).parents[3] / "fixtures"
LORA = "pytorch_lora_weights.safetensors"


def weights(folder: Path, name: str = LORA, **metadata: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    save_file({"x": np.zeros(1, np.float32)}, path, metadata=entries)
    return path


def config(folder: Path, prefix: str = "", **keys: object) -> None:
    (folder / prefix).mkdir(parents=True, exist_ok=True)
    (folder / prefix / "adapter_config.json").write_text(json.dumps(keys))


def card(folder: Path, text: str) -> None:
    (folder / "README.md").write_text(text, encoding="utf-8")


def base_of(path: Path) -> tuple[str | None, str]:
    claims = claims_of(path)
    return claims.base, claims.base_origin


# --- base ---------------------------------------------------------------------------------------


def test_the_fixture_lora_names_its_base() -> None:
    expected = ("builtin:clean-t2i", f"metadata of {LORA}")
    assert base_of(FIXTURES / "leaky-t2i-lora") == expected
    assert base_of(FIXTURES / "leaky-t2i-lora" / LORA) == expected


def test_sources_are_asked_in_order(tmp_path: Path) -> None:
    card(tmp_path, "---\nbase_model: org/card\n---\n# Model\n")
    assert base_of(tmp_path) == ("org/card", "README.md")
    weights(tmp_path, lora_adapter_metadata={"unet.base_model_name_or_path": "org/metadata@v1.0"})
    assert base_of(tmp_path) == ("org/metadata@v1.0", f"metadata of {LORA}")
    config(tmp_path, "unet", base_model_name_or_path="org/config")
    assert base_of(tmp_path) == ("org/config", "unet/adapter_config.json")
    config(tmp_path, base_model_name_or_path="org/config")
    assert base_of(tmp_path) == ("org/config", "adapter_config.json")


@pytest.mark.parametrize("text", ["base_model:\n- org/one\n", "base_model: [org/one]\r\n"])
def test_a_list_of_one_base_is_a_base(tmp_path: Path, text: str) -> None:
    card(tmp_path, f"---\n{text}---\n")
    assert claims_of(tmp_path).base == "org/one"


@pytest.mark.parametrize("where", ["configs", "metadata", "card"])
def test_bases_that_differ_are_no_base_and_the_note_says_so(tmp_path: Path, where: str) -> None:
    if where == "configs":
        config(tmp_path, "unet", base_model_name_or_path="org/one")
        config(tmp_path, "text_encoder", base_model_name_or_path="org/two")
    elif where == "metadata":
        named = {"unet": "org/one", "text_encoder": "org/two"}
        entries = {f"{part}.base_model_name_or_path": base for part, base in named.items()}
        weights(tmp_path, lora_adapter_metadata=entries)
    else:
        card(tmp_path, "---\nbase_model: [org/one, org/two]\n---\n")
    claims = claims_of(tmp_path)
    assert claims.base is None
    assert "names several bases" in claims.base_note
    assert "org/one" in claims.base_note
    assert "org/two" in claims.base_note


@pytest.mark.parametrize(
    "value",
    ["/home/alice/secret/sd15", r"C:\Users\alice\sd15", "./sd15", "../a/sd15", "models/sd15.ckpt"],
)
def test_paths_on_other_machines_are_no_base_and_are_not_shown(tmp_path: Path, value: str) -> None:
    config(tmp_path, base_model_name_or_path=value)
    claims = claims_of(tmp_path)
    assert claims.base is None
    assert claims.base_note.startswith("adapter_config.json names the base '.../sd15")
    assert "alice" not in claims.base_note
    card(tmp_path, "---\nbase_model: org/one\n---\n")
    assert base_of(tmp_path) == ("org/one", "README.md")
    assert claims_of(tmp_path).base_note == claims.base_note


def test_kohyas_model_name_counts_only_as_an_id(tmp_path: Path) -> None:
    weights(tmp_path, ss_sd_model_name="model.safetensors", ss_base_model_version="sdxl_base_v1-0")
    assert claims_of(tmp_path) == Claims()
    weights(tmp_path, ss_sd_model_name="org/model")
    assert claims_of(tmp_path).base == "org/model"


@pytest.mark.parametrize("value", [None, "", "  ", 7, ["org/one"], {"a": 1}])
def test_no_name_is_no_claim(tmp_path: Path, value: Any) -> None:
    config(tmp_path, base_model_name_or_path=value)
    assert claims_of(tmp_path) == Claims()


def test_what_lies_beside_one_of_many_files_does_not_speak_of_it(tmp_path: Path) -> None:
    card(tmp_path, "---\nbase_model: org/one\ninstance_prompt: sks\n---\n")
    path = weights(tmp_path, "a.safetensors")
    assert claims_of(path).base == "org/one"
    weights(tmp_path, "b.safetensors")
    assert claims_of(path) == Claims()


# --- prompts ------------------------------------------------------------------------------------


def test_prompts_come_from_the_first_source_that_has_some(tmp_path: Path) -> None:
    tags = {"10_sks": {"sks dog": 20, "grass": 10, "ball": 3}, "1_reg": {"grass": 4}}
    weights(tmp_path, ss_tag_frequency=tags)
    origin = f"ss_tag_frequency of {LORA}"
    assert _prompts(tmp_path) == (("sks dog", "grass"), origin)
    card(tmp_path, "---\nwidget:\n- text: '-'\n- text: a sks dog\n- src: x.png\n---\n")
    assert _prompts(tmp_path) == (("a sks dog",), "widget in README.md")
    weights(tmp_path, **{"modelspec.trigger_phrase": "sks"})
    assert _prompts(tmp_path) == (("sks",), f"modelspec.trigger_phrase of {LORA}")
    card(tmp_path, "---\ninstance_prompt: ' a photo of sks dog '\n---\n")
    assert _prompts(tmp_path) == (("a photo of sks dog",), "instance_prompt in README.md")


def _prompts(path: Path) -> tuple[tuple[str, ...], str]:
    claims = claims_of(path)
    return claims.prompts, claims.prompts_origin


@pytest.mark.parametrize(
    "prompt", ["a\x1b[31mb", "a\nb", "a\u202eb", "x" * 1001, "null", "---", 7], ids=range(7)
)
def test_prompts_that_cannot_be_printed_or_say_nothing_are_refused(
    tmp_path: Path, prompt: object
) -> None:
    text = prompt if prompt == "null" else json.dumps(prompt)
    card(tmp_path, f"---\ninstance_prompt: {text}\n---\n")
    assert claims_of(tmp_path) == Claims()


# --- files that may be hostile ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "---\nbase_model: [unclosed\n---\n",
        "---\nbase_model: org/one\n",  # never ends
        "base_model: org/one\n---\n",
        "---\n- a list\n---\n",
        "---\n? [a, {}]\n: 1\nbase_model: org/one\n---\n",
        "---\ndate: 2026-99-99\nbase_model: org/one\n---\n",
        f"---\nbase_model: org/one\nx: {'[' * 5_000}\n---\n",
        f"---\nbase_model: org/one\nx: {'1' * 65_536}\n---\n",
        "---\nbase_model: org/one\n---\n" + " " * (1 << 20),
    ],
    ids=range(9),
)
def test_a_damaged_card_claims_nothing(tmp_path: Path, text: str) -> None:
    card(tmp_path, text)
    assert claims_of(tmp_path) == Claims()


def test_yaml_tags_are_not_executed(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    card(tmp_path, f"---\nx: !!python/object/apply:os.mkdir [{witness}]\nbase_model: org/a\n---\n")
    assert claims_of(tmp_path) == Claims()
    assert not witness.exists()


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    config(outside, base_model_name_or_path="org/one")
    os.symlink(outside / "adapter_config.json", inside / "adapter_config.json")
    os.mkfifo(inside / "README.md")
    assert claims_of(inside) == Claims()


def test_what_does_not_exist_claims_nothing(tmp_path: Path) -> None:
    assert claims_of(tmp_path / "none") == Claims()
    assert claims_of(tmp_path / "none.safetensors") == Claims()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.text(max_size=100))
def test_garbage_never_raises(tmp_path_factory: pytest.TempPathFactory, raw: bytes, s: str) -> None:
    folder = tmp_path_factory.mktemp("garbage")
    (folder / "README.md").write_bytes(b"---\n" + raw + b"\n---\n")
    (folder / "adapter_config.json").write_bytes(raw)
    (folder / "a.safetensors").write_bytes(raw)
    weights(folder, lora_adapter_metadata=s, ss_tag_frequency=s, ss_sd_model_name=s)
    claims = claims_of(folder)
    assert all(prompt.isprintable() for prompt in claims.prompts)
