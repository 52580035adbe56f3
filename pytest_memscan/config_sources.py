"""Where settings come from: the command line, a policy file, pytest's ini."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_memscan.errors import OptionError
from pytest_memscan.output_settings import default_reports, parse_reports
from pytest_memscan.settings import Given, as_list, parse_path

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
    "baseline",
    "suppress",
]
FILE_ONLY = ("suppress",)  # a waiver is reviewed like code, not typed
OPTIONS_ONLY = ("save_baseline", "show_prompts", "evidence")  # asked for each time
INI_KEYS = ("fail", "report", "cache_dir", "strict", "junit_properties")


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
        if value is not None and name in (*TOML_KEYS, *OPTIONS_ONLY) and value is not False:
            option = "--memscan-" + name.replace("_", "-")
            raw[name] = Given(value=value, source=option, base=invocation_dir)
    return raw


def json_report_path(
    options: Mapping[str, Any], *, ini: Mapping[str, Any], rootdir: Path, invocation_dir: Path
) -> Path | None:
    """Where the verdict file goes, even when other settings are wrong.

    Returns:
        None where the run would have replaced its own baseline, which is somebody's evidence.
    """
    typed = {name: options.get(name) for name in ("report", "baseline") if options.get(name)}
    try:
        raw = collect(options, ini=ini, rootdir=rootdir, invocation_dir=invocation_dir)
    except OptionError:
        raw = {
            name: Given(value=value, source=f"--memscan-{name}", base=invocation_dir)
            for name, value in typed.items()
        }
    path = dict(default_reports(rootdir))["json"]
    try:
        if "report" in raw:
            given = raw["report"]  # of which another part may be what is wrong
            own = [text for text in as_list(given) if text.startswith("json:")]
            path = dict(parse_reports(replace(given, value=own), rootdir))["json"]
        if "baseline" in raw and parse_path(raw["baseline"]) == path.resolve():
            return None
    except OptionError:
        pass
    return path


def policy_file(options: Mapping[str, Any], *, rootdir: Path, invocation_dir: Path) -> Path:
    """The file of the policy, whether it is there or not: as given, else by the usual names."""
    if options.get("config") is not None:
        return invocation_dir / os.path.expanduser(str(options["config"]))
    own, shared = rootdir / "memscan.toml", rootdir / "pyproject.toml"
    return own if os.path.lexists(own) or not shared.is_file() else shared


def _read_toml(
    given: str | None, *, rootdir: Path, invocation_dir: Path
) -> tuple[Path, dict[str, Any]]:
    file = policy_file({"config": given}, rootdir=rootdir, invocation_dir=invocation_dir)
    if not file.is_file():
        if given is not None:
            raise OptionError(f"--memscan-config {given}: there is no such file")
        if os.path.lexists(file):
            raise OptionError(
                f"{file.name} is there and cannot be read as a file; is it a folder, or a link to "
                "something that is gone?"
            )
        return file, {}
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"{file.name} cannot be read as TOML: {reason}") from None
    table = content
    if file.name == "pyproject.toml":
        tools = content.get("tool", {})
        table = tools.get("memscan", {}) if isinstance(tools, dict) else {}
        if not isinstance(table, dict) or (given is not None and not table):
            raise OptionError(f"{file.name}: expected settings in a table [tool.memscan]")
        if "suppress" in content:  # a waiver that nobody would ever read
            raise OptionError(
                f"{file.name}: [[suppress]] stands outside [tool.memscan]; write "
                "[[tool.memscan.suppress]]"
            )
    unknown = sorted(set(table) - set(TOML_KEYS))
    if unknown:
        similar = difflib.get_close_matches(unknown[0], TOML_KEYS, n=1)
        hint = f", did you mean {similar[0]!r}?" if similar else "; known keys are "
        known = "" if similar else ", ".join(TOML_KEYS)
        raise OptionError(f"{file.name}: unknown key {unknown[0]!r}{hint}{known}")
    return file, table
