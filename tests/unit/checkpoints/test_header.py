"""A weight file is what its header says, byte by byte, or it is refused with the reason."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_factory import WEIGHTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vetting import refusal

from pytest_memscan.checkpoints.files import parse_json, shown
from pytest_memscan.checkpoints.header import read_header
from pytest_memscan.errors import CheckpointError


def _safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


_W = _tensor(0, 8, [2])
_BAD_WEIGHTS: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty (0 bytes)"),
    ("lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
    ("html", b"\n<!DOCTYPE html><html>", "web page"),
    ("zip", b"PK\x03\x04" + b"\x00" * 60, "zip archive"),
    ("pickle", b"\x80\x02}q\x00.1234567", "pickle with another name"),
    ("zeros", b"\x00" * 100, "starts with zero bytes"),
    ("short", b"\x08\x00", "not a safetensors header"),
    ("truncated header", struct.pack("<Q", 1000) + b"{}", "ends inside its header"),
    ("huge header", struct.pack("<Q", 101 << 20) + b"{}", "header of 105,906,176 bytes"),
    ("not json", _safetensors(b"{]"), "is not JSON"),
    ("not utf-8", _safetensors(b'{"\xff": 1}'), "not UTF-8"),
    ("no tensors", _safetensors({}), "holds no tensors"),
    ("duplicate", _safetensors(b'{"w": 1, "w": 2}'), "duplicate tensor name 'w'"),
    ("bad metadata", _safetensors({"__metadata__": {"a": 1}, "w": _W}, b"8" * 8), "__metadata__"),
    ("bad entry", _safetensors({"w": [1]}), "not described by dtype"),
    ("extra key", _safetensors({"w": {**_W, "x": 1}}, b"8" * 8), "not described by dtype"),
    ("bad dtype", _safetensors({"w": _tensor(0, 8, [2], "F7")}, b"8" * 8), "unknown dtype 'F7'"),
    ("list dtype", _safetensors({"w": {**_W, "dtype": []}}, b"8" * 8), "unknown dtype"),
    ("negative shape", _safetensors({"w": _tensor(0, 8, [-2])}), "impossible shape"),
    ("bool shape", _safetensors(b'{"w": {"dtype":"F32","shape":[true],"data_offsets":[0,4]}}'),
     "impossible shape"),
    ("bad offsets", _safetensors({"w": {**_W, "data_offsets": [0]}}), "impossible data_offsets"),
    ("overflow", _safetensors({"w": _tensor(0, 8, [2**62, 2**62])}, b"8" * 8), "for its shape"),
    ("wrong size", _safetensors({"w": _tensor(0, 8, [3])}, b"8" * 8), "12 bytes for its shape"),
    ("truncated data", _safetensors({"w": _W}, b"4444"), "is truncated"),
    ("extra data", _safetensors({"w": _W}, b"8" * 8 + b"polyglot"), "8 extra bytes"),
    ("overlap", _safetensors({"a": _tensor(0, 8, [2]), "b": _tensor(4, 12, [2])}, b"c" * 12),
     "tensor 'b' overlaps"),
    ("hole", _safetensors({"a": _tensor(0, 8, [2]), "b": _tensor(12, 20, [2])}, b"c" * 20),
     "belong to no tensor"),
    ("quantised", _safetensors({"w": _tensor(0, 2, [2], "I8")}, b"22"), "quantised"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "words"), [row[1:] for row in _BAD_WEIGHTS],
                         ids=[row[0] for row in _BAD_WEIGHTS])  # fmt: skip
def test_weights_that_are_not_sound_safetensors_are_refused_with_the_reason(
    checkpoint: Path, content: bytes, words: str
) -> None:
    (checkpoint / WEIGHTS).write_bytes(content)
    message = refusal(checkpoint)
    assert message.startswith(WEIGHTS)
    assert words in message


def test_a_header_with_too_many_tensors_is_refused(checkpoint: Path) -> None:
    header = {f"{i}": _tensor(0, 0, [0]) for i in range(20_001)}
    (checkpoint / WEIGHTS).write_bytes(_safetensors(header))
    assert "20,001 tensors, more than 20,000" in refusal(checkpoint)


def test_scalars_and_empty_tensors_are_sound() -> None:
    header = {"a": _tensor(0, 4, []), "b": _tensor(4, 4, [0, 3]), "c": _tensor(4, 6, [1], "F16")}
    tensors = read_header(io.BytesIO(_safetensors(header, b"c" * 6)), "w")
    assert {key: tensor.num_elements for key, tensor in tensors.items()} == {"a": 1, "b": 0, "c": 1}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(_safetensors)))
def test_any_bytes_give_a_header_or_a_one_linerefusal(data: bytes) -> None:
    _parse_or_refuse(lambda: read_header(io.BytesIO(data), "w.safetensors"))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "w", "__metadata__"]), children
        )
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_JSON, st.binary(max_size=16))
def test_any_header_gives_tensors_or_a_one_linerefusal(header: object, data: bytes) -> None:
    _parse_or_refuse(lambda: read_header(io.BytesIO(_safetensors(header, data)), "w.safetensors"))
    _parse_or_refuse(lambda: parse_json(json.dumps(header).encode(), "w.json"))


def _parse_or_refuse(parse: Callable[[], object]) -> None:
    message = ""
    try:
        parse()
    except CheckpointError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 400


@given(st.text())
def test_names_are_shown_on_one_short_line_of_ascii(text: str) -> None:
    assert shown(text).isascii()
    assert shown(text).isprintable()
    assert len(shown(text)) <= 120
