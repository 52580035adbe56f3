"""One result, every format: what a run writes, and what is rendered again from its JSON report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_memscan.reports.json import from_json, to_json
from pytest_memscan.results import RunResult

if TYPE_CHECKING:
    from pytest_memscan.reports.picture_files import Pictures
    from pytest_memscan.reports.pictures import ImagePolicy


def render(
    kind: str,
    result: RunResult,
    *,
    pictures: Pictures | None = None,
    images: ImagePolicy = "none",
) -> str:
    """The text of one report.

    It is rendered from what the JSON report holds, so that a rendering of the stored report, years
    later, is the same to the byte; HTML is, as far as it shows no pictures.

    Args:
        kind: One of `FORMATS`.
        result: What was measured.
        pictures: For HTML, the only format that has any.
        images: How they are shown.

    Raises:
        ValueError: An unknown ``kind``, or ``images``.
        MemscanError: A number in ``result`` is not a number, or infinite where it must not be.
    """
    if kind not in FORMATS:
        raise ValueError(f"kind must be one of {', '.join(FORMATS)}, got {kind!r}")
    text = to_json(result)
    if kind == "json":
        return text
    stored = from_json(text)
    if kind != "html":
        return _RENDERERS[kind](stored)
    from pytest_memscan.reports.picture_files import Pictures

    return (pictures or Pictures()).draw(stored, images=images)


def _sarif(result: RunResult) -> str:
    from pytest_memscan.reports.sarif import to_sarif

    return to_sarif(result)


def _markdown(result: RunResult) -> str:
    from pytest_memscan.reports.markdown import to_markdown

    return to_markdown(result)


def _model_card(result: RunResult) -> str:
    from pytest_memscan.reports.model_card import to_model_card

    return to_model_card(result)


_RENDERERS: dict[str, Callable[[RunResult], str]] = {
    "sarif": _sarif,
    "md": _markdown,
    "model-card": _model_card,
}
FORMATS = ("json", "html", *_RENDERERS)
