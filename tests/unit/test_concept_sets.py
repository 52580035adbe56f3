"""A set of fine-tunes in a TOML file: every mistake in it is named with its concept and key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from image_factory import save_images
from unit.conftest import Resolve

from pytest_memscan.concept_sets import is_set, read_set
from pytest_memscan.errors import OptionError


def write(folder: Path, text: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "set.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_only_a_toml_file_is_a_set(tmp_path: Path) -> None:
    assert is_set("concepts.toml")
    assert is_set(str(tmp_path / "not-there-yet.toml"))
    assert not is_set("org/name")
    assert not is_set("builtin:leaky-t2i-lora")
    (tmp_path / "folder.toml").mkdir()
    assert not is_set(str(tmp_path / "folder.toml"))


def test_paths_start_at_the_file_and_the_base_is_everyones(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    for name in ("vase", "base"):
        (folder / name).mkdir(parents=True)
    text = """
        base = "base"
        [[concept]]
        model = "vase"
        train_data = "images"
        prompt = "a photo of sks vase"
        [[concept]]
        model = "org/dog"
        base = "org/other"
        prompts = "dog.txt"
        """
    vase, dog = read_set(write(folder, text))
    assert (vase.model, vase.base) == (str(folder / "vase"), str(folder / "base"))
    assert vase.train_source is not None
    assert vase.train_source.path == folder / "images"
    assert (vase.caption, vase.prompt_source) == ("a photo of sks vase", None)
    assert (dog.model, dog.base) == ("org/dog", "org/other")
    assert (dog.train_source, dog.caption) == (None, None)
    assert dog.prompt_source is not None
    assert dog.prompt_source.path == folder / "dog.txt"
    assert "sks" not in repr(vase)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = ", "cannot be read as a set of fine-tunes: "),
        ("", "has no [[concept]]; write one for each fine-tune"),
        ("concept = []", "has no [[concept]]"),
        ("concept = [1]", "concept 1 is not a table"),
        ("[concept]\nmodel = 'a/b'", "has no [[concept]]"),
        ("seed = 1\n[[concept]]\nmodel = 'a/b'", "unknown key 'seed'; known keys are base"),
        ("[[concept]]\nmodel = 'a/b'\n[[concept]]\nprompt = 'x'", "concept 2 has no model"),
        ("[[concept]]\nmodel = 'a/b'\nsteps = 5", "concept 1: unknown key 'steps'; known keys are"),
        ("[[concept]]\nmodel = 3", "concept 1"),
        ("[[concept]]\nmodel = ''", "model: expected a checkpoint, got ''"),
        ("base = 3\n[[concept]]\nmodel = 'a/b'", "base: expected a checkpoint, got 3"),
        ("[[concept]]\nmodel = 'a/b'\nprompt = ''", "prompt is not a text of 1 to 1000"),
        ("[[concept]]\nmodel = 'a/b'\nprompt = 3", "prompt is not a text"),
        ("[[concept]]\nmodel = 'a/b'\nprompt = 'x'\nprompts = 'y'", "both prompt and prompts"),
        ("[[concept]]\nmodel = 'a/b'\ntrain_data = 3", "train_data: expected a path, got 3"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_no_private_folder(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(complaint)) as raised:
        read_set(write(tmp_path, text))
    assert "--memscan" in str(raised.value)
    assert "set.toml" in str(raised.value)
    assert str(tmp_path) not in str(raised.value)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be read as a set of fine-tunes: No such file"):
        read_set(str(tmp_path / "none.toml"))
    (tmp_path / "set.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="cannot be read as a set of fine-tunes"):
        read_set(str(tmp_path / "set.toml"))


def test_the_settings_of_a_run_hold_for_every_concept(resolve: Resolve) -> None:
    save_images(resolve.invocation_dir / "images", 3)
    spec = write(
        resolve.invocation_dir,
        """
        base = "builtin:clean-t2i"
        [[concept]]
        model = "builtin:leaky-t2i-lora"
        prompt = "one"
        [[concept]]
        model = "builtin:leaky-t2i-full"
        train_data = "images"
        """,
    )
    config = resolve(model=spec, seed="7")
    assert config.checks == ("integrity", "finextract", "status")
    assert config.has_train_data
    assert [each.expression for each in config.thresholds] == ["copied_images <= 0"]
    lora, full = config.of_concepts()
    assert (lora.model, lora.base, lora.caption) == (
        "builtin:leaky-t2i-lora",
        "builtin:clean-t2i",
        "one",
    )
    assert (lora.seed, full.seed) == (7, 7)
    assert full.train_source is not None
    assert full.caption is None
    assert lora.concepts == full.concepts == ()
    assert lora.base_origin == config.label


def test_a_set_where_only_some_have_training_images_is_refused(resolve: Resolve) -> None:
    """What is measured on them differs, so that a limit would hold for some only."""
    spec = write(
        resolve.invocation_dir,
        """
        base = "builtin:clean-t2i"
        [[concept]]
        model = "builtin:leaky-t2i-lora"
        [[concept]]
        model = "org/dog"
        """,
    )
    with pytest.raises(OptionError, match="concept 2 has no training images"):
        resolve(model=spec)


def test_a_base_on_the_command_line_is_that_of_those_that_name_none(resolve: Resolve) -> None:
    spec = write(
        resolve.invocation_dir,
        """
        [[concept]]
        model = "builtin:leaky-t2i-lora"
        [[concept]]
        model = "builtin:leaky-t2i-full"
        base = "org/other"
        """,
    )
    first, second = resolve(model=spec, base="builtin:clean-t2i").of_concepts()
    assert (first.base, first.base_origin) == ("builtin:clean-t2i", "--memscan-base")
    assert (second.base, second.base_origin) == ("org/other", ".../set.toml")
    by_itself = resolve(model=spec).of_concepts()[0]
    assert by_itself.base == "builtin:clean-t2i"
    assert "pytorch_lora_weights.safetensors" in by_itself.base_origin


def test_a_fine_tune_without_a_base_or_there_twice_is_named(resolve: Resolve) -> None:
    entry = '[[concept]]\nmodel = "builtin:leaky-t2i-full"\n'
    with pytest.raises(OptionError, match=r"concept 1 \(builtin:leaky-t2i-full\) names no base"):
        resolve(model=write(resolve.invocation_dir, entry))
    twice = 'base = "builtin:clean-t2i"\n' + 2 * entry
    with pytest.raises(OptionError, match="concept 2 is builtin:leaky-t2i-full again"):
        resolve(model=write(resolve.invocation_dir, twice))


@pytest.mark.parametrize(("name", "value"), [("train_data", "images"), ("prompts", "p.txt")])
def test_what_each_concept_has_of_its_own_cannot_be_given_for_all(
    resolve: Resolve, name: str, value: str
) -> None:
    text = 'base = "builtin:clean-t2i"\n[[concept]]\nmodel = "builtin:leaky-t2i-lora"'
    spec = write(resolve.invocation_dir, text)
    option = "--memscan-" + name.replace("_", "-")
    with pytest.raises(OptionError, match=f"{option}: each fine-tune of .* has its own"):
        resolve(model=spec, **{name: value})
