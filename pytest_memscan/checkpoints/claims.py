"""What the files of a fine-tune say about themselves: their base, and the prompts they know.

All of it is somebody else's text and proves nothing: a base that is named here still has to fit,
and prompts are a guess. Imported early: no torch, no YAML before there is some to read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_memscan.checkpoints.families import COMPONENT_NAMES
from pytest_memscan.checkpoints.files import open_regular, parse_json, read_bytes, read_json, shown
from pytest_memscan.checkpoints.header import read_header
from pytest_memscan.errors import CheckpointError

MAX_CARD_BYTES = 1 << 20
MAX_FRONT_MATTER = 64 << 10  # characters; PyYAML reads about a hundred thousand a second
MAX_PROMPTS = 8
MAX_PROMPT_LENGTH = 1000  # characters

CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
_MAX_FILES = 16  # safetensors files whose metadata are read
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_BASE_KEY = "base_model_name_or_path"
_LORA_METADATA = "lora_adapter_metadata"  # as diffusers writes it
_KOHYA_BASE = ("ss_sd_model_name", "ss_base_model_version")
_BASE = re.compile(
    r"builtin:[a-z0-9_][a-z0-9_-]{0,95}|"
    r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}(@\w[\w./-]{0,199})?",
    re.ASCII,
)
# A path on the machine of whoever trained it can look like a Hub id.
_FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a fine-tune says of itself.

    Attributes:
        base: ``ORG/NAME``, ``ORG/NAME@REVISION`` or ``builtin:NAME``; None if nothing was found.
        base_origin: The file that says so, as "adapter_config.json".
        base_note: Why something that was said is not taken for a base; one sentence, or "".
        prompts: At most `MAX_PROMPTS`, likeliest first: on one line, and printable.
        prompts_origin: Where they come from, as "instance_prompt in README.md".
    """

    base: str | None = None
    base_origin: str = ""
    base_note: str = ""
    prompts: tuple[str, ...] = ()
    prompts_origin: str = ""


@dataclass(frozen=True, kw_only=True)
class _Said:
    """One source of text: where it is, and what it says."""

    origin: str
    values: Sequence[object]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A folder, and the names in it that belong to the fine-tune."""

    folder: Path
    weights: tuple[str, ...]
    is_whole: bool  # what else lies in the folder speaks of these weights


def claims_of(path: Path) -> Claims:
    """What the files of a fine-tune claim; damaged files claim nothing.

    Of a single file, what lies beside it counts only where it is the only one of its kind there.

    Args:
        path: Folder (pipeline, LoRA, snapshot of a Hub repository) or ``.safetensors`` file.
    """
    place = _place_of(path)
    metadata = {name: _metadata(place.folder, name) for name in place.weights}
    card = _front_matter(place.folder) if place.is_whole else {}
    base, origin, note = _base(
        [*_adapter_configs(place), *_said_by(metadata), *_said_by_card(card)]
    )
    prompts, prompts_origin = _prompts(card, metadata)
    return Claims(
        base=base,
        base_origin=origin,
        base_note=note,
        prompts=prompts,
        prompts_origin=prompts_origin,
    )


def _place_of(path: Path) -> _Place:
    folder = path if path.is_dir() else path.parent
    beside = _weights_in(folder, "")
    if path.is_dir():
        inside = [name for part in COMPONENT_NAMES for name in _weights_in(folder, f"{part}/")]
        adapters = [name for name in inside if name.rpartition("/")[2] in _ADAPTER_WEIGHTS]
        return _Place(folder=path, weights=(*beside, *adapters)[:_MAX_FILES], is_whole=True)
    return _Place(folder=folder, weights=(path.name,), is_whole=beside == [path.name])


def _weights_in(folder: Path, prefix: str) -> list[str]:
    try:
        names = sorted(each.name for each in (folder / prefix).iterdir())
    except OSError:
        return []
    return [prefix + name for name in names if name.endswith(".safetensors")]


# --- base ---------------------------------------------------------------------------------------


def _adapter_configs(place: _Place) -> Iterator[_Said]:
    """One source: the configurations of the parts have to agree."""
    if not place.is_whole:
        return
    found = {}
    for prefix in ("", *(f"{part}/" for part in COMPONENT_NAMES)):
        name = f"{prefix}{ADAPTER_CONFIG}"
        try:
            found[name] = read_json(place.folder, name).get(_BASE_KEY)
        except CheckpointError:
            continue
    if found:
        yield _Said(origin=next(iter(found)), values=list(found.values()))


def _said_by(metadata: Mapping[str, Mapping[str, str]]) -> Iterator[_Said]:
    for name, entries in metadata.items():
        origin = f"metadata of {shown(name)[1:-1]}"
        try:
            config = parse_json(entries.get(_LORA_METADATA, "{}").encode(), name)
        except (CheckpointError, UnicodeEncodeError):
            config = {}
        named = [value for key, value in config.items() if key.split(".")[-1] == _BASE_KEY]
        yield _Said(origin=origin, values=named)
        # Mostly a name for people ("sdxl_base_v1-0") or of a file; a note would only confuse.
        kohya = [entries[key] for key in _KOHYA_BASE if _is_base(entries.get(key))]
        yield _Said(origin=origin, values=kohya)


def _said_by_card(card: Mapping[str, object]) -> Iterator[_Said]:
    value = card.get("base_model")
    values = value if isinstance(value, list) else [value]
    yield _Said(origin=CARD, values=values)


def _base(sources: Sequence[_Said]) -> tuple[str | None, str, str]:
    """Base, origin and note: of the first source that names one in a form that is understood."""
    note = ""
    for source in sources:
        named = list(dict.fromkeys(v for v in source.values if isinstance(v, str) and v.strip()))
        if len(named) > 1:
            several = " and ".join(_without_path(each) for each in named[:2])
            return None, "", f"{source.origin} names several bases, {several}"
        if named and _is_base(named[0]):
            return named[0], source.origin, note
        if named and not note:
            note = (
                f"{source.origin} names the base {_without_path(named[0])}, which is neither a "
                "Hub id ORG/NAME nor builtin:NAME"
            )
    return None, "", note


def _is_base(value: object) -> bool:
    return (
        isinstance(value, str)
        and _BASE.fullmatch(value) is not None
        and ".." not in value
        and "--" not in value.partition("@")[0].removeprefix("builtin:")
        and not value.lower().endswith(_FILE_SUFFIXES)
    )


def _without_path(value: str) -> str:
    """As a message may show it: where somebody keeps their models is private."""
    if _is_base(value):
        return shown(value)
    name = re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return shown(name if name == value else f".../{name}")


# --- prompts ------------------------------------------------------------------------------------


def _prompts(
    card: Mapping[str, object], metadata: Mapping[str, Mapping[str, str]]
) -> tuple[tuple[str, ...], str]:
    """Those of the first source that has some, and what it is called."""
    sources = [_Said(origin=f"instance_prompt in {CARD}", values=[card.get("instance_prompt")])]
    for name, entries in metadata.items():
        phrase = entries.get("modelspec.trigger_phrase")
        origin = f"modelspec.trigger_phrase of {shown(name)[1:-1]}"
        sources.append(_Said(origin=origin, values=[phrase]))
    widget = card.get("widget")
    cases = widget if isinstance(widget, list) else []
    texts = [case.get("text") for case in cases if isinstance(case, dict)]
    sources.append(_Said(origin=f"widget in {CARD}", values=texts))
    for name, entries in metadata.items():
        origin = f"ss_tag_frequency of {shown(name)[1:-1]}"
        sources.append(_Said(origin=origin, values=_frequent_tags(entries, name)))
    for source in sources:
        found = dict.fromkeys(p for p in map(_prompt, source.values) if p is not None)
        if found:
            return tuple(found)[:MAX_PROMPTS], source.origin
    return (), ""


def _prompt(value: object) -> str | None:
    """The text without the space around it, if it can be printed and says something."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    says_something = any(each.isalnum() for each in text)  # cards have "-" for "no prompt"
    is_sound = text.isprintable() and len(text) <= MAX_PROMPT_LENGTH
    return text if says_something and is_sound else None


def _frequent_tags(entries: Mapping[str, str], name: str) -> list[str]:
    """Kohya's tags, at least half as frequent as the first: what most pictures share.

    ``{folder of images: {tag: times}}``. Captions without commas are tags as a whole.
    """
    try:
        per_folder = parse_json(entries.get("ss_tag_frequency", "{}").encode(), name)
    except (CheckpointError, UnicodeEncodeError):
        return []
    times: Counter[str] = Counter()
    for tags in per_folder.values():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if type(count) is int and count > 0 and _prompt(tag) is not None:
                times[tag] += count
    ranked = sorted(times, key=lambda tag: (-times[tag], tag))
    return [tag for tag in ranked if 2 * times[tag] >= times[ranked[0]]]


# --- files --------------------------------------------------------------------------------------


def _metadata(folder: Path, name: str) -> dict[str, str]:
    """The metadata of a safetensors file whose header adds up; otherwise nothing."""
    try:
        with open_regular(folder, name) as file:
            read_header(file, name)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            found: dict[str, str] = parse_json(file.read(length), name).get("__metadata__", {})
    except (CheckpointError, OSError):
        return {}
    return found


def _front_matter(folder: Path) -> dict[str, Any]:
    """The YAML block at the top of the model card; otherwise nothing."""
    try:
        text = read_bytes(folder, CARD, max_bytes=MAX_CARD_BYTES).decode("utf-8")
        block = _FRONT_MATTER.match(text)
        if block is None or len(block[1]) > MAX_FRONT_MATTER:
            return {}
        import yaml  # type: ignore[import-untyped]

        found = yaml.safe_load(block[1])
    except Exception:  # somebody else's text: PyYAML also raises what Python's parsers raise
        return {}
    return found if isinstance(found, dict) else {}
