"""What a fine-tune is asked with: as given, else as found, else as its files say, else nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adapter_factory import DIFFUSERS_WEIGHTS, FIXTURES
from image_factory import save_images
from safetensors.numpy import load_file, save_file
from unit.conftest import Resolve

from pytest_memscan.caption_inputs import Captions, captions_of
from pytest_memscan.errors import PromptError
from pytest_memscan.inputs import Inputs

BASE = "builtin:clean-t2i"
Ask = Callable[..., Captions]


@pytest.fixture
def ask(resolve: Resolve, tmp_path: Path) -> Ask:
    """The captions of a run with these options."""

    def captions(*, caption: str | None = None, **options: Any) -> Captions:
        config = replace(resolve(base=BASE, **options), caption=caption)
        progress: Any = lambda _: nullcontext(lambda _: None)  # noqa: E731
        return captions_of(Inputs(config=config, cache_dir=tmp_path / "cache", progress=progress))

    return captions


def lora(folder: Path, metadata: dict[str, str] | None = None, card: str = "") -> str:
    """The fixture's LoRA with other words about itself."""
    folder.mkdir(parents=True)
    tensors = load_file(FIXTURES / "leaky-t2i-lora" / DIFFUSERS_WEIGHTS)
    save_file(tensors, folder / DIFFUSERS_WEIGHTS, metadata=metadata)
    if card:
        (folder / "README.md").write_text(f"---\n{card}\n---\n")
    return str(folder)


def captioned(folder: Path, captions: Sequence[str | None]) -> Path:
    """Images as large as the fixture makes them."""
    save_images(folder, len(captions), size=32)
    rows = [{"file_name": f"{i:03d}.png", "text": text} for i, text in enumerate(captions) if text]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_list_that_is_given_comes_before_everything_else(ask: Ask, tmp_path: Path) -> None:
    listed = tmp_path / "captions.txt"
    listed.write_text("one\ntwo\n\none\n")
    model = lora(tmp_path / "lora", card="instance_prompt: other")
    found = ask(model=model, prompts=str(listed))
    assert found.texts == ("one", "two")
    assert (found.kind, found.note) == ("2 captions", "")
    assert found.origin.endswith("captions.txt")
    assert str(tmp_path) not in found.origin
    assert found.coverage is not None
    assert (found.coverage.num_used, found.coverage.num_planned) == (2, 2)
    assert "one" not in repr(found)
    assert ask(model=model, caption="three", prompts=str(listed)).texts == ("three",)


def test_no_caption_can_be_asked_for_and_is_then_no_guess(ask: Ask, tmp_path: Path) -> None:
    model = lora(tmp_path / "lora", card="instance_prompt: other")
    found = ask(model=model, prompts="builtin:none")
    assert (found.texts, found.is_none, found.kind, found.note) == (("",), True, "none", "")


def test_what_comes_with_a_builtin_checkpoint_is_used(ask: Ask) -> None:
    for name in ("lora", "full"):
        found = ask(model=f"builtin:leaky-t2i-{name}")
        listed = (FIXTURES / f"leaky-t2i-{name}" / "prompts.txt").read_text().splitlines()
        assert found.texts == tuple(listed)
        assert (found.kind, found.note) == ("instance prompt", "")


def test_captions_of_the_training_images_come_before_what_files_say(
    ask: Ask, tmp_path: Path
) -> None:
    captions = [None, "caption of 1", None, "caption of 3", "caption of 1"]
    images = captioned(tmp_path / "images", captions)
    model = lora(tmp_path / "lora", card="instance_prompt: other")
    found = ask(model=model, train_data=str(images))
    assert found.texts == ("caption of 1", "caption of 3")
    assert (found.kind, found.note, found.is_none) == ("2 captions", "", False)
    assert found.origin.startswith("captions of ")
    assert str(tmp_path) not in found.origin


def test_an_instance_prompt_that_files_state_is_no_guess(ask: Ask, tmp_path: Path) -> None:
    found = ask(model=lora(tmp_path / "a", card="instance_prompt: a photo of sks dog"))
    assert (found.texts, found.kind) == (("a photo of sks dog",), "instance prompt")
    assert (found.origin, found.note) == ("instance_prompt in README.md", "")
    metadata = {"modelspec.trigger_phrase": "sks"}
    found = ask(model=lora(tmp_path / "b", metadata))
    assert (found.texts, found.note) == (("sks",), "")


@pytest.mark.parametrize(
    ("metadata", "card", "texts", "source"),
    [
        ({"ss_tag_frequency": '{"x": {"a dog": 9}}'}, "", ("a dog",), "ss_tag_frequency of "),
        ({}, "widget: [{text: a cat}, {text: a cat in snow}]", ("a cat",), "widget in README.md"),
    ],
)
def test_what_files_only_suggest_is_a_guess_and_says_so(
    ask: Ask,
    tmp_path: Path,
    metadata: dict[str, str],
    card: str,
    texts: tuple[str, ...],
    source: str,
) -> None:
    found = ask(model=lora(tmp_path / "lora", metadata, card))
    assert found.texts == texts
    assert found.origin.startswith(f"guessed from {source}")
    assert found.note
    assert texts[0] not in found.note


def test_where_nothing_is_known_there_is_no_caption_and_a_note(ask: Ask, tmp_path: Path) -> None:
    found = ask(model=lora(tmp_path / "lora"))
    assert (found.texts, found.is_none, found.kind) == (("",), True, "none")
    assert found.coverage is None
    assert found.origin == "none known"
    assert found.note


def test_captions_of_training_images_that_cannot_be_used_are_no_reason_to_guess(
    ask: Ask, tmp_path: Path
) -> None:
    images = captioned(tmp_path / "images", ["x" * 100_000] * 3)
    model = lora(tmp_path / "lora", card="instance_prompt: other")
    with pytest.raises(PromptError, match="prompt"):
        ask(model=model, train_data=str(images))
