"""What the user asked for, where each value came from, and what is wrong with it.

Precedence: command line > ``memscan.toml`` or ``[tool.memscan]`` > pytest ini > default.
Only the standard library is imported, since this runs at the start of every memscan session.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pytest_memscan.errors import OptionError, shown_path
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
MAX_HOURS = 1000
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


@dataclass(frozen=True, kw_only=True, repr=False)
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

    def __repr__(self) -> str:
        # A traceback with --showlocals must not tell where somebody keeps their data.
        return f"<memscan config of {self.label}>"

    @property
    def label(self) -> str:
        """The checkpoint as people name it, without a private path."""
        return checkpoint_label(self.model)


def checkpoint_label(model: str) -> str:
    """What was typed after ``--memscan``; of an absolute path, only the last part."""
    path = Path(os.path.expanduser(model))  # Path.expanduser raises for ~nobody
    return f".../{path.name}" if path.is_absolute() else model


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """A value as it was written, where it was written, and what relative paths start from."""

    value: Any
    source: str
    base: Path
    key: str = ""  # in a file of many settings

    @property
    def where(self) -> str:
        """What a message about the value starts with."""
        return f"{self.source}: {self.key}" if self.key else self.source


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
        shown = "; ".join(map(str, shown)) if isinstance(shown, list | tuple) else str(shown)
        sources[name] = (shown, "default" if given is None else given.source)
        return value

    in_ci = environ.get("CI", "").lower() not in ("", "0", "false", "no", "off")
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
    for name, shown in _shown_paths(config).items():
        sources[name] = (shown, sources[name][1])
    if config.budget.num_images is not None:
        for threshold in config.thresholds:
            check_can_be_shown(threshold, num_images=config.budget.num_images)
    return config


def _shown_paths(config: Config) -> dict[str, str]:
    """Settings that hold paths, as a report may show them."""
    shown = {
        "cache_dir": "(hidden)",
        "report": "; ".join(f"{kind}:{shown_path(path)}" for kind, path in config.reports),
    }
    for name, path in (("train_data", config.train_data), ("holdout", config.holdout)):
        shown[name] = "None" if path is None else shown_path(path)
    return shown


def json_report_path(
    options: Mapping[str, Any], *, ini: Mapping[str, Any], rootdir: Path, invocation_dir: Path
) -> Path:
    """Where the verdict file goes, even when other settings are wrong."""
    try:
        given = options.get("report")
        if given:
            raw = _Raw(value=given, source="--memscan-report", base=invocation_dir)
        else:
            raw = _collect(options, ini=ini, rootdir=rootdir, invocation_dir=invocation_dir)[
                "report"
            ]
        return dict(_reports(raw, rootdir))["json"]
    except (OptionError, KeyError):
        return dict(_default_reports(rootdir))["json"]


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
        raw[name] = _Raw(value=value, source=file.name, base=file.parent, key=name)
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
        file = invocation_dir / os.path.expanduser(given)
        if not file.is_file():
            raise OptionError(f"--memscan-config {given}: there is no such file")
    elif not file.is_file():
        file = rootdir / "pyproject.toml"
        if not file.is_file():
            return file, {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"{file.name} cannot be read as TOML: {reason}") from None
    table = content
    if file.name == "pyproject.toml":
        tools = content.get("tool", {})
        table = tools.get("memscan", {}) if isinstance(tools, dict) else {}
        if not isinstance(table, dict) or (given is not None and not table):
            raise OptionError(f"{file.name}: expected settings in a table [tool.memscan]")
    unknown = sorted(set(table) - set(TOML_KEYS))
    if unknown:
        raise OptionError(
            f"{file.name}: unknown key {unknown[0]!r}; known keys are {', '.join(TOML_KEYS)}"
        )
    return file, table


def _path(given: _Raw) -> Path:
    if not isinstance(given.value, str | os.PathLike) or not str(given.value):
        raise OptionError(f"{given.where}: expected a path, got {given.value!r}")
    try:
        return (given.base / Path(given.value).expanduser()).resolve()
    except (RuntimeError, ValueError, OSError):  # ~nobody, a NUL character, a link in a loop
        raise OptionError(f"{given.where}: {given.value!r} is not a usable path") from None


def _integer(lowest: int, highest: int) -> Callable[[_Raw], int]:
    def parse(given: _Raw) -> int:
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


def _one_of(choices: tuple[str, ...]) -> Callable[[_Raw], str]:
    def parse(given: _Raw) -> str:
        if given.value not in choices:
            raise OptionError(f"{given.where}: {given.value!r} is not one of {', '.join(choices)}")
        return str(given.value)

    return parse


def _boolean(given: _Raw) -> bool:
    if isinstance(given.value, bool):
        return given.value
    if str(given.value).lower() in ("true", "1", "yes", "on"):
        return True
    if str(given.value).lower() in ("false", "0", "no", "off"):
        return False
    raise OptionError(f"{given.where}: expected true or false, got {given.value!r}")


def _device(given: _Raw) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(given.value)):
        raise OptionError(
            f"{given.where}: {given.value!r} is not one of auto, cpu, cuda, cuda:0, cuda:1 ..."
        )
    return str(given.value)


def _budget(given: _Raw) -> Budget:
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


def _as_list(given: _Raw) -> list[str]:
    value = given.value
    if isinstance(value, dict):
        raise OptionError(f"{given.where}: expected a text or a list of texts, not a table")
    return [str(item) for item in (value if isinstance(value, list | tuple) else [value])]


def _thresholds(given: _Raw) -> tuple[Threshold, ...]:
    if not _as_list(given):
        raise OptionError(
            f"{given.where}: at least one threshold is needed, such as {DEFAULT_POLICY[0]!r}"
        )
    return tuple(parse_threshold(text, source=given.source) for text in _as_list(given))


def _scans(given: _Raw) -> tuple[str, ...]:
    names = tuple(name.strip() for item in _as_list(given) for name in item.split(","))
    for name in names or ("",):
        if name not in SCANS:
            raise OptionError(
                f"{given.where}: there is no scan {name!r}; available: {', '.join(SCANS)}"
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
                f"{given.where}: {kind!r} is not a report format; "
                f"available: {', '.join(REPORT_FORMATS)}"
            )
        if path:
            targets[kind] = _path(replace(given, value=path))
        if targets[kind].is_dir():
            raise OptionError(
                f"{given.where}: {shown_path(targets[kind])} is a folder; name a file in it, "
                f"as in {kind}:{targets[kind].name}/report.{kind}"
            )
    # The JSON report is the verdict file: it is always written, whatever else is asked for.
    asked = {"json", *(text.partition(":")[0] for text in _as_list(given))}
    reports = tuple((kind, path) for kind, path in targets.items() if kind in asked)
    if len({path for _, path in reports}) < len(reports):
        raise OptionError(f"{given.where}: two reports cannot be written to the same file")
    return reports


def _is_offline(environ: Mapping[str, str]) -> bool:
    names = ("MEMSCAN_OFFLINE", "HF_HUB_OFFLINE")
    return any(environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)


def _default_cache_dir(environ: Mapping[str, str]) -> Path:
    if environ.get("MEMSCAN_CACHE_DIR"):
        return Path(environ["MEMSCAN_CACHE_DIR"]).expanduser().resolve()
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "pytest-memscan"
