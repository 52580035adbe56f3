"""Parts of the site that are made from the code when it is built, so that they stay true.

A line ``<!-- made: NAME -->`` of a page becomes the table of that name; the changelog is a page.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_MARK = re.compile(r"^<!-- made: ([a-z_]+) -->$", re.MULTILINE)
# Headings of the options, by the names that stand under each; whatever is new comes last.
_GROUPS = {
    "What is scanned": ("memscan", "base", "train-data", "holdout", "prompts", "canaries"),
    "How it is scanned": (
        *("scans", "descriptor", "budget", "steps", "seed", "guidance-scale"),
        *("images-per-prompt", "copy-rate", "reach", "model-guidance", "clustering"),
    ),
    "SIDE": (
        *("side-variants", "side-scales", "side-samples", "side-clusters", "side-cohesion"),
        *("side-training", "side-rank", "auxiliary", "labeller"),
    ),
    "The policy": ("fail", "config", "show-policy", "baseline", "save-baseline", "strict", "only"),
    "Reports": ("report", "images", "show-prompts", "evidence"),
    "The machine": ("device", "dtype", "batch-size", "cache-dir", "no-cache", "offline"),
}
_OTHER = "Others"
_TABLE = "none: a table of [waivers](../policy.md#waivers)"
_UNASKED = {  # checks that no scan is asked for by
    "integrity": "always there",
    "duplicates": "there with training images",
    "regression": "`--memscan-baseline FILE`",
    "status": "always there",
}


@dataclass
class Declared:
    """What the plugin declares, in the place of pytest's own parser."""

    options: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ini: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def getgroup(self, name: str, description: str = "") -> Declared:
        """The one group there is."""
        return self

    def addoption(self, name: str, **settings: Any) -> None:
        """Note an option of the command line."""
        self.options.append((name, settings))

    def addini(self, name: str, help: str, **settings: Any) -> None:
        """Note a key of pytest's own settings."""
        self.ini.append((name, {"help": help, **settings}))


def declared() -> Declared:
    """Every option and key of the plugin, in its order."""
    from pytest_memscan.plugin import pytest_addoption

    parser = Declared()
    pytest_addoption(parser)  # type: ignore[arg-type]
    return parser


def options() -> str:
    """A table for each group of options: option, meaning, key in a policy file."""
    from pytest_memscan.config_sources import TOML_KEYS

    rows: dict[str, list[tuple[str, ...]]] = {name: [] for name in (*_GROUPS, _OTHER)}
    for option, settings in declared().options:
        name = option.removeprefix("--memscan-") if option != "--memscan" else "memscan"
        group = next((title for title, names in _GROUPS.items() if name in names), _OTHER)
        key = name.replace("-", "_")
        shown = f"{option} {settings['metavar']}" if "metavar" in settings else option
        rows[group].append((_code(shown), settings["help"], _code(key) if key in TOML_KEYS else ""))
    heads = ("option", "meaning", "key in a policy file")
    return "\n\n".join(
        f"### {title}\n\n{_table(heads, lines)}" for title, lines in rows.items() if lines
    )


def ini_keys() -> str:
    """Keys of pytest's own settings."""
    return _table(
        ("key", "kind", "meaning"),
        ((_code(name), each["type"], each["help"]) for name, each in declared().ini),
    )


def policy_keys() -> str:
    """Keys of a policy file beside the options that they are the same as."""
    from pytest_memscan.config_sources import TOML_KEYS

    named = {name.removeprefix("--memscan-").replace("-", "_") for name, _ in declared().options}
    return _table(
        ("key", "the same as"),
        (
            (_code(key), _code("--memscan-" + key.replace("_", "-")) if key in named else _TABLE)
            for key in TOML_KEYS
        ),
    )


def metrics() -> str:
    """Every metric that a policy line can name: subject, meaning, kind, default lines."""
    from pytest_memscan.policy import COUNTS, DEFAULT_POLICY, METRICS, RATES

    parts = []
    for subject, names in METRICS.items():
        lines = DEFAULT_POLICY[subject]
        default = ", ".join(map(_code, lines)) if lines else "none: for information"
        rows = (
            (_code(name), (COUNTS | RATES)[name], "rate" if name in RATES else "count")
            for name in names
        )
        title = {"keys": "canaries and keys"}.get(subject, subject)
        head = f"### {title.capitalize()}\n\nDefault lines: {default}\n\n"
        parts.append(head + _table(("metric", "meaning", "kind"), rows))
    return "\n\n".join(parts)


def checks() -> str:
    """The ids that are collected, in the order they run."""
    from pytest_memscan.checks import CHECKS
    from pytest_memscan.settings import SCANS

    return _table(
        ("order", "id", "asked for by"),
        (
            (
                str(place),
                _code(f"memscan::{name}"),
                _code(f"--memscan-scans {name}") if name in SCANS else _UNASKED[name],
            )
            for place, name in enumerate(CHECKS, 1)
        ),
    )


def report_fields() -> str:
    """Every object of the verdict file, from the JSON Schema that is published with it."""
    from pytest_memscan.reports.json import json_schema

    schema = json_schema()
    objects = {"RunResult": schema, **schema["$defs"]}
    parts = []
    for name, each in objects.items():
        head = f"### {name} {{ data-search-exclude }}"
        if "properties" not in each:
            parts.append(f"{head}\n\n{_kind(each)}")
            continue
        summary = each.get("description", "").split("\n\n")[0].replace("``", "`")
        rows = ((_code(field), _kind(value)) for field, value in each["properties"].items())
        table = _table(("field", "type"), rows)
        parts.append(f"{head}\n\n{summary}\n\n{table}")
    return "\n\n".join(parts)


def _kind(value: dict[str, Any]) -> str:
    """The type of a field, in words."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(map(_kind, value["anyOf"]))
    if value.get("type") == "array":
        inner = value.get("items") or (value.get("prefixItems") or [{}])[0]
        return f"list of {_kind(inner)}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"object of {_kind(inner)}" if isinstance(inner, dict) else "object"
    if "const" in value:
        return _code(json.dumps(value["const"]))
    if "enum" in value:
        return " or ".join(_code(json.dumps(each)) for each in value["enum"])
    return str(value.get("type", "anything"))


PARTS: dict[str, Callable[[], str]] = {
    each.__name__: each for each in (options, ini_keys, policy_keys, metrics, checks, report_fields)
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the changelog a page of the site, and publish the JSON Schema beside the reference."""
    from mkdocs.structure.files import File

    from pytest_memscan.reports.json import json_schema

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=text))
    schema = json.dumps(json_schema(), indent=2, sort_keys=True)
    files.append(File.generated(config, "reference/report.schema.json", content=schema))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put tables made from the code where a page asks for them."""
    return _MARK.sub(lambda mark: PARTS[mark[1]](), markdown)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(heads)]
    lines += [("---",) * len(lines[0]), *(tuple(map(_cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text


def _code(text: str) -> str:
    return f"`{text}`"
