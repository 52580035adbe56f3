"""The support table: what the libraries say about it, and what it says to people."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
from pipeline_factory import FAMILIES as TINY
from pipeline_factory import tiny_pipeline

from pytest_memscan.checkpoints.families import FAMILIES, Family, family_of, support_table
from pytest_memscan.errors import CheckpointError

DOCS = Path(__file__).parents[3] / "docs" / "checkpoints.md"


def _refusal(name: object) -> str:
    with pytest.raises(CheckpointError) as raised:
        family_of({"_class_name": name})
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("model_index.json")
    return message


def test_the_table_in_the_documentation_is_the_one_in_the_code() -> None:
    assert f"\n\n{support_table()}\n" in DOCS.read_text("utf-8")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.pipeline)
def test_a_family_has_the_parts_that_diffusers_asks_for(family: Family) -> None:
    import diffusers

    signature = inspect.signature(getattr(diffusers, family.pipeline).__init__)
    asked_for = set(signature.parameters) - {"self"}
    assert {*family.components, *family.left_out, *family.settings} == asked_for
    assert family.denoiser in family.components


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.pipeline)
def test_every_accepted_class_is_in_its_library(family: Family) -> None:
    for component in family.components.values():
        library = importlib.import_module(component.library)
        for name in component.classes:
            assert inspect.isclass(getattr(library, name))


def test_every_family_that_is_called_tested_is_tried_in_these_tests() -> None:
    tried = {type(tiny_pipeline(name)).__name__ for name in TINY}
    tried |= {"DDPMPipeline", "DDIMPipeline"}  # test_load.py
    assert {family.pipeline for family in FAMILIES if family.images == "tested"} == tried


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionXLControlNetPipeline",
        "StableDiffusionInstructPix2PixPipeline",
        "StableDiffusionUpscalePipeline",
        "FluxFillPipeline",
        "FluxKontextPipeline",
        "QwenImageEditPipeline",
    ],
)
def test_a_pipeline_that_needs_an_image_is_refused_with_the_reason(name: str) -> None:
    message = _refusal(name)
    assert f"'{name}' needs an input image: neither text-to-image nor unconditional" in message


@pytest.mark.parametrize(
    "name",
    [
        "StableVideoDiffusionPipeline",
        "TextToVideoSDPipeline",
        "AnimateDiffPipeline",
        "CogVideoXPipeline",
        "WanPipeline",
        "LTXPipeline",
        "StableAudioPipeline",
        "MusicLDMPipeline",
    ],
)
def test_video_and_audio_are_refused_with_the_reason(name: str) -> None:
    message = _refusal(name)
    assert f"'{name}' makes video or audio: neither text-to-image nor unconditional" in message


def test_class_conditional_checkpoints_are_refused_with_the_reason() -> None:
    assert "needs a class label; class-conditional checkpoints are not supported" in _refusal(
        "DiTPipeline"
    )


@pytest.mark.parametrize("name", ["KolorsPipeline", "NewPipeline", "X\x1b[31m\n::error::"])
def test_an_unknown_pipeline_is_refused_with_all_that_are_supported(name: str) -> None:
    message = _refusal(name)
    assert "is not supported; supported are" in message
    assert "\x1b" not in message
    for family in FAMILIES:
        assert family.pipeline in message


@pytest.mark.parametrize("name", [None, 3, ["module", "Evil"]])
def test_a_class_that_is_no_name_is_refused(name: object) -> None:
    assert "asks to run its own code or is damaged" in _refusal(name)


def test_no_pipeline_of_diffusers_but_the_families_is_accepted() -> None:
    import diffusers

    structure = diffusers._import_structure.values()
    names = {name for listed in structure for name in listed if name.endswith("Pipeline")}
    families = {family.pipeline for family in FAMILIES}
    assert families <= names
    for name in names - families:
        assert _refusal(name)
