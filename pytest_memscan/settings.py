"""How each setting is written, and what is wrong with one that cannot be read.

Every parser takes a value with where it was given and returns what the run works with; a value
that cannot be used is an `OptionError` that names the place, the value and the remedy.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_memscan.data.prompts import PromptSource, parse_prompt_source
from pytest_memscan.data.sources import DataSource, parse_source
from pytest_memscan.errors import OptionError
from pytest_memscan.policy import DEFAULT_POLICY, Threshold, parse_threshold

SCANS = (
    "finextract",
    "carlini",
    "splitting",
    "side",
    "repeats",
    "prompt_detectors",
    "extended_side",
)
DTYPES = ("float32", "bfloat16", "float16")
ImageMode = Literal["none", "blurred", "clear"]
CLUSTERINGS = ("plateau", "null", "finextract_compat")
IMAGE_MODES = ("none", "blurred", "clear")
DEFAULT_IMAGES = 320  # enough to exclude a leak rate of 1 % (299), with some to spare
MAX_HOURS = 1000
MAX_GUIDANCE_SCALE = 100
DEFAULT_BATCH_SIZE = {"unconditional": 32, "text-to-image": 10}
DEFAULT_IMAGES_PER_PROMPT = 500  # Carlini et al. 2023, section 4.2
DEFAULT_COPY_RATE = 0.1  # a prompt that gives one image this often must be found
SHORTEST_REACH, LONGEST_REACH = 100, 10**9
DEFAULT_REACH = 1_000_000  # images within which the first copy of a training image counts
COPY = "builtin:copy"  # the descriptor that comes along, where pixels will not do
PIXELS = "pixels"  # the measure that needs no descriptor: neighbour-normalised L2


@dataclass(frozen=True, kw_only=True)
class Given:
    """A value as it was written, where it was written, and what relative paths start from."""

    value: Any
    source: str
    base: Path
    key: str = ""  # in a file of many settings

    @property
    def where(self) -> str:
        """What a message about the value starts with."""
        return f"{self.source}: {self.key}" if self.key else self.source


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to spend: a number of generated images, or seconds of generation."""

    num_images: int | None = None
    seconds: float | None = None


def parse_path(given: Given) -> Path:
    """A path, relative to where it was given."""
    if not isinstance(given.value, str | os.PathLike) or not str(given.value):
        raise OptionError(f"{given.where}: expected a path, got {given.value!r}")
    try:
        return (given.base / Path(given.value).expanduser()).resolve()
    except (RuntimeError, ValueError, OSError):  # ~nobody, a NUL character, a link in a loop
        raise OptionError(f"{given.where}: {given.value!r} is not a usable path") from None


def parse_train_source(given: Given) -> DataSource:
    """Where images come from: a path, a dataset on the Hub, or an index."""
    if not isinstance(given.value, str | os.PathLike) or not str(given.value):
        raise OptionError(f"{given.where}: expected a path, got {given.value!r}")
    try:
        return parse_source(str(given.value), given.base)
    except OptionError as error:
        raise OptionError(f"{given.where}: {error}") from None


def parse_prompts(given: Given) -> PromptSource:
    """Where prompts come from: a list, a folder with captions, a dataset, or the probe list."""
    if not isinstance(given.value, str | os.PathLike) or not str(given.value):
        raise OptionError(f"{given.where}: expected a path, got {given.value!r}")
    try:
        return parse_prompt_source(str(given.value), given.base)
    except OptionError as error:
        raise OptionError(f"{given.where}: {error}") from None


def parse_guidance_scale(given: Given) -> float:
    """A scale of classifier-free guidance."""
    try:
        value = float(given.value)
    except (TypeError, ValueError):
        value = math.nan
    if not 1 < value <= MAX_GUIDANCE_SCALE:
        raise OptionError(
            f"{given.where}: {given.value!r} is not a guidance scale; write a number above 1 and "
            f"up to {MAX_GUIDANCE_SCALE}"
        )
    return value


def parse_base(given: Given) -> str:
    """A checkpoint, like the one that is scanned; a relative path starts where it was written."""
    if not isinstance(given.value, str) or not given.value:
        raise OptionError(f"{given.where}: expected a checkpoint, got {given.value!r}")
    typed = os.path.expanduser(given.value)
    from_there = given.base / typed
    return str(from_there) if from_there.exists() and not os.path.exists(typed) else given.value


def parse_model_guidance(given: Given) -> tuple[tuple[float, float], ...]:
    """Scales of model guidance, with their k where it is not 0: ``1.5,3:-0.02``."""
    items = [part.strip() for item in as_list(given) for part in item.split(",")]
    settings = []
    for item in items:
        scale, _, k = item.partition(":")
        try:
            setting = float(scale), float(k or 0)
        except ValueError:
            setting = math.nan, math.nan
        if not (1 <= setting[0] <= MAX_GUIDANCE_SCALE and -1 < setting[1] < 1):
            raise OptionError(
                f"{given.where}: {item!r} is no model guidance; write scales from 1 to "
                f"{MAX_GUIDANCE_SCALE}, and k between -1 and 1 where it is not 0, as in 1.5,3:-0.02"
            )
        settings.append(setting)
    if len(set(settings)) < len(settings):
        raise OptionError(f"{given.where}: the same setting is there twice")
    return tuple(settings)


def parse_share(given: Given) -> float:
    """A share strictly between 0 and 1."""
    try:
        value = float(given.value)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < 1:
        raise OptionError(f"{given.where}: {given.value!r} is not a share; write 0.1 for a tenth")
    return value


def parse_integer(lowest: int, highest: int) -> Callable[[Given], int]:
    """A parser of whole numbers in a range, ends included."""

    def parse(given: Given) -> int:
        try:
            value = int(str(given.value))
        except ValueError:
            raise OptionError(
                f"{given.where}: expected a whole number, got {given.value!r}"
            ) from None
        if not lowest <= value <= highest:
            raise OptionError(f"{given.where}: {value} is not between {lowest} and {highest}")
        return value

    return parse


def parse_one_of(choices: tuple[str, ...]) -> Callable[[Given], str]:
    """A parser of one of some words."""

    def parse(given: Given) -> str:
        if given.value not in choices:
            raise OptionError(f"{given.where}: {given.value!r} is not one of {', '.join(choices)}")
        return str(given.value)

    return parse


def parse_boolean(given: Given) -> bool:
    """True or false, as TOML or as a word."""
    if isinstance(given.value, bool):
        return given.value
    if str(given.value).lower() in ("true", "1", "yes", "on"):
        return True
    if str(given.value).lower() in ("false", "0", "no", "off"):
        return False
    raise OptionError(f"{given.where}: expected true or false, got {given.value!r}")


def parse_device(given: Given) -> str:
    """A device name."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(given.value)):
        raise OptionError(
            f"{given.where}: {given.value!r} is not one of auto, cpu, cuda, cuda:0, cuda:1 ..."
        )
    return str(given.value)


def parse_descriptor(given: Given) -> str:
    """``pixels``, the name of a descriptor, a Hub id or a folder."""
    text = str(given.value).strip()
    if not text:
        raise OptionError(f"{given.where} is empty; expected pixels, sscd or another descriptor")
    folder = parse_path(given)
    return str(folder) if folder.is_dir() and text != PIXELS else text


def parse_budget(given: Given) -> Budget:
    """Images (``5000img``) or time (``90s``, ``30m``, ``2h``)."""
    text = str(given.value).strip()
    if match := re.fullmatch(r"(\d{1,20})\s*img", text):
        num_images = int(match[1])
        if not 1 <= num_images <= 2**32:
            raise OptionError(f"{given.where}: {text} is not between 1img and {2**32}img")
        return Budget(num_images=num_images)
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text):
        seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
        if 0 < seconds <= MAX_HOURS * 3600:
            return Budget(seconds=seconds)
        if seconds:
            raise OptionError(f"{given.where}: {text} is more than {MAX_HOURS}h")
    raise OptionError(
        f"{given.where}: {text!r} is not a budget; write images (5000img) or time (90s, 30m, 2h)"
    )


def as_list(given: Given) -> list[str]:
    """One or several texts."""
    value = given.value
    if isinstance(value, dict):
        raise OptionError(f"{given.where}: expected a text or a list of texts, not a table")
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value])]


def parse_thresholds(given: Given) -> tuple[Threshold, ...]:
    """The lines of the policy, at least one."""
    if not as_list(given):
        raise OptionError(
            f"{given.where}: at least one threshold is needed, such as "
            f"{DEFAULT_POLICY['images'][0]!r}"
        )
    return tuple(parse_threshold(text, source=given.source) for text in as_list(given))


def parse_scans(given: Given) -> tuple[str, ...]:
    """Names of scans."""
    names = tuple(name.strip() for item in as_list(given) for name in item.split(","))
    for name in names or ("",):
        if name not in SCANS:
            raise OptionError(
                f"{given.where}: there is no scan {name!r}; available: {', '.join(SCANS)}"
            )
    return names
