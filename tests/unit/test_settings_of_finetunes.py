"""Settings of scans of fine-tunes: the base, model guidance, and where captions come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from adapter_factory import DIFFUSERS_WEIGHTS, layers_of_fixture, write_diffusers
from hypothesis import given
from hypothesis import strategies as st
from unit.conftest import Resolve

from pytest_memscan.errors import OptionError
from pytest_memscan.settings import Given, parse_base, parse_model_guidance, parse_prompts


def value(given: Any, base: Path = Path()) -> Given:
    return Given(value=given, source="here", base=base, key="key")


# --- one setting --------------------------------------------------------------------------------


def test_a_base_in_a_file_starts_at_the_file_and_an_id_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = tmp_path / "conf"
    (there / "base").mkdir(parents=True)
    assert parse_base(value("base", there)) == str(there / "base")
    assert parse_base(value("org/base", there)) == "org/base"
    assert parse_base(value("builtin:clean-t2i", there)) == "builtin:clean-t2i"
    assert parse_base(value(str(there / "base"), tmp_path)) == str(there / "base")


@pytest.mark.parametrize("given", ["", 3, None, ["a"]])
def test_what_is_no_base_is_named_with_its_place(given: object) -> None:
    with pytest.raises(OptionError, match=r"here: key: expected a checkpoint"):
        parse_base(value(given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("3", ((3, 0),)),
        ("1.5, 3:-0.02", ((1.5, 0), (3, -0.02))),
        (["1.5", "2:0.1,4"], ((1.5, 0), (2, 0.1), (4, 0))),
        ("5:", ((5, 0),)),
    ],
)
def test_model_guidance_is_scales_with_their_k(
    given: Any, expected: tuple[tuple[float, float], ...]
) -> None:
    assert parse_model_guidance(value(given)) == expected


@given(
    st.lists(
        st.tuples(st.floats(1, 100), st.floats(-1, 1, exclude_min=True, exclude_max=True)),
        min_size=1,
        unique=True,
    )
)
def test_what_is_written_out_is_read_back(settings: list[tuple[float, float]]) -> None:
    text = ",".join(f"{scale!r}:{k!r}" for scale, k in settings)
    assert parse_model_guidance(value(text)) == tuple(settings)


@pytest.mark.parametrize(
    "given", ["", "x", "0.9", "3:1", "3:-1", "3:x", "nan", "3:nan", "inf", "1,,2", "3:0:1", "1e9"]
)
def test_what_is_no_model_guidance_is_refused_with_an_example(given: str) -> None:
    with pytest.raises(OptionError, match=r"here: key: .* as in 1\.5,3:-0\.02"):
        parse_model_guidance(value(given))


def test_the_same_model_guidance_twice_is_a_mistake() -> None:
    with pytest.raises(OptionError, match="the same setting is there twice"):
        parse_model_guidance(value("3, 3:0"))


def test_no_prompts_is_a_source_of_its_own() -> None:
    source = parse_prompts(value("builtin:none"))
    assert (source.kind, source.label) == ("none", "no prompts")
    with pytest.raises(OptionError, match="builtin:probe and builtin:none"):
        parse_prompts(value("builtin:nothing"))


# --- all of them --------------------------------------------------------------------------------


def test_a_whole_pipeline_is_only_compared_with_a_base_that_is_given(resolve: Resolve) -> None:
    alone = resolve(model="builtin:leaky-t2i-full")
    assert (alone.base, alone.has_base) == (None, False)
    assert "finextract" not in alone.checks
    with pytest.raises(OptionError, match=r"no base is known; pass .* with --memscan-base"):
        resolve(model="builtin:leaky-t2i-full", scans="finextract")
    pair = resolve(model="builtin:leaky-t2i-full", base="builtin:clean-t2i")
    assert (pair.base_origin, pair.has_base) == ("--memscan-base", True)
    assert pair.checks == ("integrity", "duplicates", "finextract", "status")
    assert [each.expression for each in pair.thresholds] == ["copied_images <= 0"]
    assert pair.sources["base"][0] == "builtin:clean-t2i (--memscan-base)"


def test_a_lora_finds_its_base_in_its_own_files_unless_one_is_given(resolve: Resolve) -> None:
    found = resolve(model="builtin:leaky-t2i-lora")
    assert (found.base, found.has_base) == ("builtin:clean-t2i", True)
    assert found.base_origin == f"metadata of {DIFFUSERS_WEIGHTS}"
    assert "finextract" in found.checks
    given_one = resolve(model="builtin:leaky-t2i-lora", base="org/other")
    assert (given_one.base, given_one.base_origin) == ("org/other", "--memscan-base")


def test_a_lora_that_names_no_base_needs_one(resolve: Resolve, tmp_path: Path) -> None:
    path = write_diffusers(tmp_path / "lora" / DIFFUSERS_WEIGHTS, layers_of_fixture())
    for model in (path, path.parent):
        with pytest.raises(OptionError, match=r"is a LoRA.*--memscan-base MODEL") as raised:
            resolve(model=str(model))
        assert str(tmp_path) not in str(raised.value)
        assert resolve(model=str(model), base="builtin:clean-t2i").has_base is True


def test_of_a_checkpoint_that_is_not_fetched_nothing_is_known(resolve: Resolve) -> None:
    config = resolve(model="org/name")
    assert (config.kind, config.base, config.has_base) == (None, None, None)
    assert {"finextract", "repeats", "prompt_detectors"} <= set(config.checks)


def test_paths_of_a_base_are_not_shown(resolve: Resolve, tmp_path: Path) -> None:
    (tmp_path / "secret" / "base").mkdir(parents=True)
    config = resolve(model="builtin:leaky-t2i-full", base=str(tmp_path / "secret" / "base"))
    assert config.base_label == ".../base"
    assert "secret" not in repr([config.sources, config.base_label])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"model_guidance": "0.5"}, "--memscan-model-guidance: '0.5' is no model guidance"),
        ({"clustering": "kmeans"}, "--memscan-clustering: 'kmeans' is not one of plateau, null"),
        ({"base": ""}, "--memscan-base: expected a checkpoint"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    resolve: Resolve, options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(complaint)):
        resolve(model="builtin:leaky-t2i-lora", **options)
