"""Detector scores as JSON, so that they can be kept, and blocks of them put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.detectors.run import Scores


def as_json(scores: Scores) -> dict[str, Any]:
    """Scores as `from_json` reads them."""
    columns = {name: values.tolist() for name, values in scores.values.items()}
    parts = {name: values.tolist() for name, values in scores.parts.items()}
    return {
        "values": columns,
        "parts": parts,
        "not_applicable": scores.not_applicable,
        "calls_alone": scores.calls_alone,
        "calls": scores.calls,
    }


def from_json(kept: Mapping[str, Any]) -> Scores:
    """Scores as `as_json` wrote them."""
    return Scores(
        values={name: np.array(each, np.float64) for name, each in kept["values"].items()},
        parts={name: np.array(each, np.float64) for name, each in kept["parts"].items()},
        not_applicable=kept["not_applicable"],
        calls_alone=kept["calls_alone"],
        calls=kept["calls"],
    )


def joined(blocks: Sequence[Scores]) -> Scores:
    """Scores of some prompts after the other, all by the same detectors.

    Raises:
        ValueError: There are none.
    """
    if not blocks:
        raise ValueError("no prompts were scored")

    def column(of: Callable[[Scores], Mapping[str, NDArray[np.float64]]], name: str) -> Any:
        return np.concatenate([of(block)[name] for block in blocks])

    first = blocks[0]
    return replace(
        first,
        values={name: column(lambda block: block.values, name) for name in first.values},
        parts={name: column(lambda block: block.parts, name) for name in first.parts},
        calls=sum(block.calls for block in blocks),
    )
