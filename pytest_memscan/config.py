"""What the user asked for, where each value came from, and what is wrong with it.

Precedence: command line > ``memscan.toml`` or ``[tool.memscan]`` > pytest ini > default.
Only the standard library is imported, since this runs at the start of every memscan session.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pytest_memscan.errors import OptionError
from pytest_memscan.policy import DEFAULT_POLICY, Threshold, check_can_be_shown, parse_threshold

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCANS = ("carlini",)
REPORT_FORMATS = ("json", "html")
DTYPES = ("float32", "bfloat16", "float16")
ImageMode = Literal["none", "blurred", "clear"]
IMAGE_MODES = ("none", "blurred", "clear")
DEFAULT_IMAGES = 320  # enough to exclude a leak rate of 1 % (299), with some to spare
TOML_KEYS = [
    "train_data",
    "holdout",
    "fail",
    "budget",
    "steps",
    "seed",
    "device",
    "dtype",
    "batch_size",
    "scans",
    "offline",
    "cache_dir",
    "report",
    "images",
    "strict",
]
INI_KEYS = ("fail", "report", "cache_dir", "strict")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much to spend: a number of generated images, or seconds of generation."""

    num_images: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    """Every effective setting of a run; ``sources`` says where each was set."""

    model: str
    train_data: Path | None
    holdout: Path | None
    thresholds: tuple[Threshold, ...]
    budget: Budget
    steps: int  # denoiser calls per image
    seed: int
    device: str  # auto, cpu, cuda, cuda:N
    dtype: str
    batch_size: int
    scans: tuple[str, ...]
    offline: bool
    cache_dir: Path
    use_cache: bool
    reports: tuple[tuple[str, Path], ...]  # (format, path)
    images: ImageMode  # what reports may show
    strict: bool  # a deselected gate fails the run
    sources: Mapping[str, tuple[str, str]]  # setting -> (value as text, source)

    @property
    def label(self) -> str:
        """The checkpoint as people name it, without a private path."""
        path = Path(self.model).expanduser()
        return f".../{path.name}" if path.is_absolute() else self.model


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """A value as it was written, where it was written, and what relative paths start from."""

    value: Any
    source: str
    base: Path


def resolve_config(
    options: Mapping[str, Any],
    *,
    ini: Mapping[str, Any],
    rootdir: Path,
    invocation_dir: Path,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Merge the sources and check every value.

    Args:
        options: Command-line values by name without ``memscan_``; None where not given.
        ini: Values of the pytest ini keys; empty where not set.
        rootdir: Where ``memscan.toml`` and ``pyproject.toml`` are looked for.
        invocation_dir: What relative paths on the command line start from.
        environ: For ``CI``, ``MEMSCAN_CACHE_DIR``, ``MEMSCAN_OFFLINE``, ``HF_HUB_OFFLINE``.

    Raises:
        OptionError: A value cannot be used; the message names it, its source and the remedy.
    """
    raw = _collect(options, ini=ini, rootdir=rootdir, invocation_dir=invocation_dir)
    sources: dict[str, tuple[str, str]] = {}

    def take(name: str, parse: Callable[[_Raw], Any], default: Any) -> Any:
        given = raw.get(name)
        value = default if given is None else parse(given)
        shown = default if given is None else given.value
        shown = ", ".join(map(str, shown)) if isinstance(shown, list | tuple) else str(shown)
        sources[name] = (shown, "default" if given is None else given.source)
        return value

    in_ci = bool(environ.get("CI"))
    budget = take("budget", _budget, Budget(num_images=DEFAULT_IMAGES))
    if "budget" not in raw:
        sources["budget"] = (f"{DEFAULT_IMAGES}img", "default")
    config = Config(
        model=options["model"],
        train_data=take("train_data", _path, None),
        holdout=take("holdout", _path, None),
        thresholds=take("fail", _thresholds, tuple(map(parse_threshold, DEFAULT_POLICY))),
        budget=budget,
        steps=take("steps", _integer(1, 1000), 50),
        seed=take("seed", _integer(0, 2**32 - 1), 0),
        device=take("device", _device, "auto"),
        dtype=take("dtype", _one_of(DTYPES), "float32"),
        batch_size=take("batch_size", _integer(1, 4096), 32),
        scans=take("scans", _scans, SCANS),
        offline=take("offline", _boolean, _is_offline(environ)),
        cache_dir=take("cache_dir", _path, _default_cache_dir(environ)),
        use_cache=not options.get("no_cache"),
        reports=take("report", lambda given: _reports(given, rootdir), _default_reports(rootdir)),
        images=take("images", _one_of(IMAGE_MODES), "blurred"),
        strict=take("strict", _boolean, in_ci),
        sources=sources,
    )
    if "fail" not in raw:
        sources["fail"] = ("; ".join(DEFAULT_POLICY), "default")
    # The folder of a person is nobody else's business; reports are shared.
    sources["cache_dir"] = ("(hidden)", sources["cache_dir"][1])
    if config.budget.num_images is not None:
        for threshold in config.thresholds:
            check_can_be_shown(threshold, num_images=config.budget.num_images)
    return config


def _collect(
    options: Mapping[str, Any], *, ini: Mapping[str, Any], rootdir: Path, invocation_dir: Path
) -> dict[str, _Raw]:
    raw = {
        name: _Raw(value=value, source=f"ini memscan_{name}", base=rootdir)
        for name, value in ini.items()
        if value not in (None, "", [])
    }
    file, table = _read_toml(options.get("config"), rootdir=rootdir, invocation_dir=invocation_dir)
    for name, value in table.items():
        raw[name] = _Raw(value=value, source=file.name, base=file.parent)
    for name, value in options.items():
        if value is not None and name in TOML_KEYS and value is not False:
            option = "--memscan-" + name.replace("_", "-")
            raw[name] = _Raw(value=value, source=option, base=invocation_dir)
    return raw


def _read_toml(
    given: str | None, *, rootdir: Path, invocation_dir: Path
) -> tuple[Path, dict[str, Any]]:
    file = rootdir / "memscan.toml"
    if given is not None:
        file = invocation_dir / given
        if not file.is_file():
            raise OptionError(f"--memscan-config {given}: there is no such file")
    elif not file.is_file():
        file = rootdir / "pyproject.toml"
        if not file.is_file():
            return file, {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise OptionError(f"{file.name} cannot be read as TOML: {error}") from None
    table = content.get("tool", {}).get("memscan", {}) if file.name == "pyproject.toml" else content
    unknown = sorted(set(table) - set(TOML_KEYS))
    if unknown:
        raise OptionError(
            f"{file.name}: unknown key {unknown[0]!r}; known keys are {', '.join(TOML_KEYS)}"
        )
    return file, table


def _path(given: _Raw) -> Path:
    if not isinstance(given.value, str | os.PathLike) or not str(given.value):
        raise OptionError(f"{given.source}: expected a path, got {given.value!r}")
    return (given.base / Path(given.value).expanduser()).resolve()


def _integer(lowest: int, highest: int) -> Callable[[_Raw], int]:
    def parse(given: _Raw) -> int:
        try:
            value = int(str(given.value))
        except ValueError:
            raise OptionError(
                f"{given.source}: expected a whole number, got {given.value!r}"
            ) from None
        if not lowest <= value <= highest:
            raise OptionError(f"{given.source}: {value} is not between {lowest} and {highest}")
        return value

    return parse


def _one_of(choices: tuple[str, ...]) -> Callable[[_Raw], str]:
    def parse(given: _Raw) -> str:
        if given.value not in choices:
            raise OptionError(f"{given.source}: {given.value!r} is not one of {', '.join(choices)}")
        return str(given.value)

    return parse


def _boolean(given: _Raw) -> bool:
    if isinstance(given.value, bool):
        return given.value
    if str(given.value).lower() in ("true", "1", "yes", "on"):
        return True
    if str(given.value).lower() in ("false", "0", "no", "off"):
        return False
    raise OptionError(f"{given.source}: expected true or false, got {given.value!r}")


def _device(given: _Raw) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(given.value)):
        raise OptionError(
            f"{given.source}: {given.value!r} is not one of auto, cpu, cuda, cuda:0, cuda:1 ..."
        )
    return str(given.value)


def _budget(given: _Raw) -> Budget:
    text = str(given.value).strip()
    if match := re.fullmatch(r"(\d+)\s*img", text):
        num_images = int(match[1])
        if not 1 <= num_images <= 2**32:
            raise OptionError(f"{given.source}: {text} is not between 1img and {2**32}img")
        return Budget(num_images=num_images)
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text):
        seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
        if seconds > 0:
            return Budget(seconds=seconds)
    raise OptionError(
        f"{given.source}: {text!r} is not a budget; write images (5000img) or time (90s, 30m, 2h)"
    )


def _as_list(given: _Raw) -> list[str]:
    value = given.value
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value])]


def _thresholds(given: _Raw) -> tuple[Threshold, ...]:
    if not _as_list(given):
        raise OptionError(
            f"{given.source}: at least one threshold is needed, as in {DEFAULT_POLICY}"
        )
    return tuple(parse_threshold(text, source=given.source) for text in _as_list(given))


def _scans(given: _Raw) -> tuple[str, ...]:
    names = tuple(name.strip() for item in _as_list(given) for name in item.split(","))
    for name in names:
        if name not in SCANS:
            raise OptionError(
                f"{given.source}: there is no scan {name!r}; available: {', '.join(SCANS)}"
            )
    return names


def _default_reports(rootdir: Path) -> tuple[tuple[str, Path], ...]:
    return tuple((kind, rootdir / ".memscan" / f"report.{kind}") for kind in REPORT_FORMATS)


def _reports(given: _Raw, rootdir: Path) -> tuple[tuple[str, Path], ...]:
    targets = dict(_default_reports(rootdir))
    for text in _as_list(given):
        kind, _, path = text.partition(":")
        if kind not in REPORT_FORMATS:
            raise OptionError(
                f"{given.source}: {kind!r} is not a report format; "
                f"available: {', '.join(REPORT_FORMATS)}"
            )
        if path:
            targets[kind] = (given.base / Path(path).expanduser()).resolve()
        if targets[kind].is_dir():
            raise OptionError(f"{given.source}: {path or targets[kind].name} is a folder")
    # The JSON report is the verdict file: it is always written, whatever else is asked for.
    asked = {"json", *(text.partition(":")[0] for text in _as_list(given))}
    return tuple((kind, path) for kind, path in targets.items() if kind in asked)


def _is_offline(environ: Mapping[str, str]) -> bool:
    names = ("MEMSCAN_OFFLINE", "HF_HUB_OFFLINE")
    return any(environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


def _default_cache_dir(environ: Mapping[str, str]) -> Path:
    if environ.get("MEMSCAN_CACHE_DIR"):
        return Path(environ["MEMSCAN_CACHE_DIR"]).expanduser().resolve()
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "pytest-memscan"
