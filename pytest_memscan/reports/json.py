"""The machine-readable report: ``RunResult`` to JSON and back, without losing a digit.

The text is a function of the result: fields in the order of their class, the keys of mappings
sorted. Only ``timings`` differs between two runs that measured the same.

JSON has no infinite numbers. A ``Gain``, whose ratios can be infinite, writes them as the string
``"Infinity"``; everywhere else they are refused.
"""

from __future__ import annotations

import copy
import errno
import json
import math
import os
import secrets
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pytest_memscan.errors import MemscanError, is_special, shown_path
from pytest_memscan.reports.text import escape
from pytest_memscan.results import SCHEMA_VERSION, Estimate, Gain, RunResult, Verdict

T = TypeVar("T")

_INFINITY = "Infinity"
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def to_json(result: RunResult) -> str:
    """The JSON report, two spaces deep, with a newline at its end.

    Raises:
        MemscanError: A number in ``result`` is not a number, or infinite where it must not be.
    """
    return dump(result)


def from_json(text: str) -> RunResult:
    """The run that ``to_json`` wrote.

    Raises:
        MemscanError: Not JSON, not a memscan report, damaged, or of a newer version of memscan.
    """
    plain = _parse(text, what="memscan report")
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if not isinstance(version, int) or version < 1:
        raise MemscanError(
            "this is not a memscan report: it has no schema_version. "
            "Expected a file written by --memscan-report json."
        )
    if version > SCHEMA_VERSION:
        raise MemscanError(
            f"this memscan report has schema_version {version}, and this version of "
            f"pytest-memscan reads up to {SCHEMA_VERSION}. Upgrade pytest-memscan to read it."
        )
    return _build(plain, RunResult, what="memscan report")


def dump(value: object) -> str:
    """A dataclass of ``results`` as JSON text.

    Raises:
        MemscanError: A number in ``value`` is not a number, or infinite where it must not be.
    """
    adapter = _adapter(type(value))
    # There and back: a whole number in the place of a float is written as it will be read.
    plain = _in_order(adapter.validate_python(adapter.dump_python(value, mode="json")))
    _refuse_non_finite(plain, what=f"{type(value).__name__} cannot be written as JSON")
    return json.dumps(plain, indent=2, allow_nan=False) + "\n"


def load(text: str, kind: type[T]) -> T:
    """The dataclass of type ``kind`` that ``dump`` wrote.

    Raises:
        MemscanError: Not JSON, or not a ``kind``.
    """
    what = f"stored {kind.__name__}"
    return _build(_parse(text, what=what), kind, what=what)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of what ``to_json`` writes."""
    schema = TypeAdapter(RunResult).json_schema(mode="serialization")
    definitions = schema["$defs"]
    ratio = copy.deepcopy(definitions["Estimate"])
    for name in ("value", "lower", "upper"):
        number = {"anyOf": [{"type": "number"}, {"const": _INFINITY}]}
        ratio["properties"][name] = {**number, "title": name.capitalize()}
    definitions["Ratio"] = {**ratio, "title": "Ratio"}
    for each in definitions["Gain"]["properties"].values():
        each["$ref"] = "#/$defs/Ratio"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": f"pytest-memscan report, schema_version {SCHEMA_VERSION}",
    }


def not_run_report(checkpoint: str, reason: str) -> RunResult:
    """The report of a run in which no check was executed, so that the file is never missing."""
    return RunResult(verdict=Verdict.NOT_RUN, sentence=reason, checkpoint=checkpoint)


def write_text_atomically(
    path: Path, text: str, *, option: str = "--memscan-report FORMAT:PATH"
) -> None:
    """Write ``text`` so that ``path`` holds the old report or the new one, never half of one.

    Args:
        path: A file, there or not; its folder is made.
        text: What it will hold.
        option: Where another place is chosen.

    Raises:
        MemscanError: The folder cannot be created or written to, or ``path`` is no file.
    """
    # Not tempfile: its files are private to the user, and a report made inside a container is
    # often uploaded by another one.
    try:
        _refuse_special(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise MemscanError(
            f"cannot write {escape(shown_path(path))}: {error.strerror or error}. Choose another "
            f"place with {option}."
        ) from error


def _refuse_special(path: Path) -> None:
    """Refuse what renaming a file onto it would destroy: as root, ``/dev/null`` of a machine.

    Raises:
        OSError: ``path`` is no place for a file.
    """
    if not path.name or path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if is_special(path):
        raise OSError(errno.EINVAL, "It is a device or a pipe, not a file")


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    """Made once, since building one takes as long as rendering a report."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _in_order(value: object) -> object:
    """Plain JSON values: fields in the order of their class, the keys of mappings sorted."""
    if isinstance(value, Gain):
        return {field.name: _ratio(getattr(value, field.name)) for field in fields(value)}
    if is_dataclass(value):
        return {field.name: _in_order(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _in_order(value[key]) for key in sorted(value)}
    if isinstance(value, tuple):
        return [_in_order(item) for item in value]
    return value.value if isinstance(value, Enum) else value


def _ratio(estimate: Estimate) -> dict[str, object]:
    """A ratio, which has no upper limit where there is nothing to divide by."""
    numbers = {field.name: getattr(estimate, field.name) for field in fields(estimate)}
    return {name: _INFINITY if each == math.inf else each for name, each in numbers.items()}


def _parse(text: str, *, what: str) -> object:
    try:
        plain: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MemscanError(
            f"this {what} is not valid JSON ({escape(str(error))}). It was cut off or edited; "
            "delete it and scan again."
        ) from error
    # Python reads NaN, Infinity and 1e999, none of which a comparison with a limit survives.
    _refuse_non_finite(plain, what=f"this {what} cannot be used")
    return plain


def _build(plain: object, kind: type[T], *, what: str) -> T:
    try:
        built = _adapter(kind).validate_python(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"]) or "the whole text"
        raise MemscanError(
            f"this {what} is damaged at {escape(where)}: {escape(first['msg'])}. "
            "It was edited, or written by another version of pytest-memscan; scan again."
        ) from error
    # A string such as "nan" is read as a number, too.
    _refuse_non_finite(_in_order(built), what=f"this {what} cannot be used")
    return built


def _refuse_non_finite(plain: object, *, what: str) -> None:
    for where, number in _numbers(plain, ""):
        if not math.isfinite(number):
            raise MemscanError(f"{what}: {escape(where)} is {number}, not a finite number.")


def _numbers(plain: object, where: str) -> Iterator[tuple[str, float]]:
    if isinstance(plain, float):
        yield where, plain
    elif isinstance(plain, dict):
        for key, value in plain.items():
            yield from _numbers(value, f"{where}.{key}" if where else str(key))
    elif isinstance(plain, list):
        for index, value in enumerate(plain):
            yield from _numbers(value, f"{where}[{index}]")
