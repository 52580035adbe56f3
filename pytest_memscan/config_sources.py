"""Where settings come from: the command line, a policy file, pytest's ini."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_memscan.errors import OptionError
from pytest_memscan.settings import Given, default_reports, parse_reports

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML_KEYS = [
    "base",
    "train_data",
    "holdout",
    "prompts",
    "canaries",
    "fail",
    "budget",
    "images_per_prompt",
    "copy_rate",
    "reach",
    "side_variants",
    "side_scales",
    "side_samples",
    "side_clusters",
    "side_cohesion",
    "side_training",
    "side_rank",
    "auxiliary",
    "labeller",
    "guidance_scale",
    "model_guidance",
    "clustering",
    "steps",
    "seed",
    "device",
    "dtype",
    "batch_size",
    "scans",
    "descriptor",
    "offline",
    "cache_dir",
    "report",
    "images",
    "strict",
]
INI_KEYS = ("fail", "report", "cache_dir", "strict")


def collect(
    options: Mapping[str, Any], *, ini: Mapping[str, Any], rootdir: Path, invocation_dir: Path
) -> dict[str, Given]:
    """Every setting that was given, by name, from the source that wins; see `config`.

    Raises:
        OptionError: The policy file cannot be read, or has an unknown key.
    """
    raw = {
        name: Given(value=value, source=f"ini memscan_{name}", base=rootdir)
        for name, value in ini.items()
        if value not in (None, "", [])
    }
    file, table = _read_toml(options.get("config"), rootdir=rootdir, invocation_dir=invocation_dir)
    for name, value in table.items():
        raw[name] = Given(value=value, source=file.name, base=file.parent, key=name)
    for name, value in options.items():
        if value is not None and name in TOML_KEYS and value is not False:
            option = "--memscan-" + name.replace("_", "-")
            raw[name] = Given(value=value, source=option, base=invocation_dir)
    return raw


def json_report_path(
    options: Mapping[str, Any], *, ini: Mapping[str, Any], rootdir: Path, invocation_dir: Path
) -> Path:
    """Where the verdict file goes, even when other settings are wrong."""
    try:
        given = options.get("report")
        if given:
            raw = Given(value=given, source="--memscan-report", base=invocation_dir)
        else:
            raw = collect(options, ini=ini, rootdir=rootdir, invocation_dir=invocation_dir)[
                "report"
            ]
        return dict(parse_reports(raw, rootdir))["json"]
    except (OptionError, KeyError):
        return dict(default_reports(rootdir))["json"]


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
