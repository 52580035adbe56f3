"""``python -m pytest_memscan.reports report.json --format html``: a stored report, rendered again.

Needs neither the model nor a GPU, and loads no part of either.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_memscan.errors import MemscanError, shown_path
from pytest_memscan.reports.json import from_json, json_schema, write_text_atomically
from pytest_memscan.reports.render import FORMATS, render
from pytest_memscan.reports.text import escape

UNUSABLE = 2  # exit status of argparse, too
EPILOG = (
    "Exit status: 0 once it is rendered, whatever the verdict in it (only `pytest --memscan` "
    "fails on a verdict); 2 if the options or the report cannot be used. A JSON report holds no "
    "pictures, so an HTML report made from it shows none."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render, and return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.schema == (options.report is not None):
        parser.error("give a report.json, or --schema alone")
    if options.schema and options.format:
        parser.error("--schema has one format only; leave out --format")
    if not options.schema and not options.format:
        parser.error(f"say what to make of it: --format {'|'.join(FORMATS)}")
    try:
        text = schema_text() if options.schema else _rendered(options.report, options.format)
        _write(text, options.output)
    except MemscanError as error:
        print(f"memscan: {error}", file=sys.stderr)
        return UNUSABLE
    return 0


def schema_text() -> str:
    """The JSON Schema of the JSON report, as it is published beside this file."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_memscan.reports",
        description="Render a memscan report again, in another format, without the model.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "report", nargs="?", type=Path, help="a JSON report, such as .memscan/report.json"
    )
    parser.add_argument("--format", choices=FORMATS, help="what to make of it")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to put it (default: standard output)"
    )
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON Schema of JSON reports instead"
    )
    return parser


def _rendered(path: Path, kind: str) -> str:
    name = escape(shown_path(path.absolute()))
    try:
        text = path.read_bytes().decode("utf-8-sig")  # editors may add a mark
    except OSError as error:
        raise MemscanError(
            f"cannot read the report {name}: {error.strerror or error}. "
            "Expected a file written by --memscan-report json."
        ) from error
    except UnicodeDecodeError as error:
        raise MemscanError(
            f"{name} is not UTF-8 text, so no memscan report. "
            "Expected a file written by --memscan-report json."
        ) from error
    try:
        return render(kind, from_json(text))
    except MemscanError as error:
        raise MemscanError(f"{name}: {error}") from error


def _write(text: str, output: Path | None) -> None:
    if output is not None:
        write_text_atomically(output, text, option="--output FILE")
        return
    if sys.stdout is None:  # closed by whoever started this
        raise MemscanError("standard output is closed. Choose a file with --output FILE.")
    try:
        sys.stdout.buffer.write(text.encode("utf-8"))
        sys.stdout.buffer.flush()
    except OSError as error:
        # Nothing more must be written to it when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # `| head` has seen enough
            raise MemscanError(
                f"cannot write to standard output: {error.strerror or error}. "
                "Choose a file with --output FILE."
            ) from error


if __name__ == "__main__":
    sys.exit(main())
