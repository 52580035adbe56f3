"""What model_index.json names: the pipeline, and the class of each component that is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_memscan.checkpoints.configs import check_class, refuse_code
from pytest_memscan.checkpoints.families import (
    MODEL_INDEX,
    Component,
    Family,
    Kind,
    describe,
    family_of,
)
from pytest_memscan.checkpoints.files import read_json, shown
from pytest_memscan.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A pipeline and its components, as named by model_index.json and accepted by us."""

    family: Family
    classes: Mapping[str, str]  # component -> class; only those that are loaded
    settings: Mapping[str, bool | None]  # arguments of the pipeline that are no components


def read_parts(folder: Path) -> Parts:
    """What the model_index.json of a folder names.

    Raises:
        CheckpointError: It is missing or malformed, asks to run code, or names what is not
            supported.
    """
    return check_index(read_json(folder, MODEL_INDEX))


def kind_of(folder: Path) -> Kind:
    """Whether a checkpoint needs prompts; reads model_index.json and imports no torch.

    Raises:
        CheckpointError: As `read_parts`.
    """
    return read_parts(folder).family.kind


def check_index(index: Mapping[str, Any]) -> Parts:
    """The parts that a model_index.json names, if all are plain classes that are supported.

    Raises:
        CheckpointError: Another pipeline class, a component that is missing, unknown, or no plain
            class of diffusers or transformers.
    """
    refuse_code(index, MODEL_INDEX)
    family = family_of(index)
    named = {key: value for key, value in index.items() if not key.startswith("_")}
    classes: dict[str, str] = {}
    settings: dict[str, bool | None] = {}
    for key, value in named.items():
        if key in family.settings:
            settings[key] = _setting(key, value)
        elif key in family.left_out:
            _check_left_out(key, value)
        elif key not in family.components:
            raise CheckpointError(
                f"{MODEL_INDEX}: component {shown(key)} does not belong to {_a(family.kind)} "
                f"pipeline; {describe(family)}"
            )
        elif not (family.components[key].is_optional and value == [None, None]):
            classes[key] = _class_of(key, value, family.components[key])
    for key, component in family.components.items():
        if key not in classes and not component.is_optional:
            raise CheckpointError(f"{MODEL_INDEX} names no {key}; {describe(family)}")
    _check_pairs(classes)
    in_order = {key: classes[key] for key in family.components if key in classes}
    return Parts(family=family, classes=in_order, settings=settings)


def _a(kind: Kind) -> str:
    return f"an {kind}" if kind == "unconditional" else f"a {kind}"


def _setting(key: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise CheckpointError(f"{MODEL_INDEX}: {key} is {shown(value)}; expected true, false or null")


def _check_left_out(key: str, value: object) -> None:
    pair = value if isinstance(value, list) else []
    if len(pair) != 2 or not all(part is None or isinstance(part, str) for part in pair):
        raise CheckpointError(f"{MODEL_INDEX}: {key} is {shown(value)}, not a library and a class")


def _class_of(key: str, origin: object, component: Component) -> str:
    if not (isinstance(origin, list) and len(origin) == 2 and origin[0] == component.library):
        raise CheckpointError(
            f"{MODEL_INDEX}: {key} is {shown(origin)}, not a {component.library} class; "
            "a checkpoint that brings its own code is refused"
        )
    class_name: object = origin[1]
    check_class(class_name, component.classes, MODEL_INDEX, f"{key} class")
    return str(class_name)


def _check_pairs(classes: Mapping[str, str]) -> None:
    """An optional text encoder has its tokenizer, and the other way round."""
    for key in classes:
        other = (
            key.replace("tokenizer", "text_encoder")
            if key.startswith("tokenizer")
            else key.replace("text_encoder", "tokenizer")
        )
        if other not in classes:
            raise CheckpointError(f"{MODEL_INDEX} names {key} but no {other}")
