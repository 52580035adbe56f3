"""The files a tokenizer is read from: well-formed, of sensible size, and no code."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from pytest_memscan.checkpoints.configs import refuse_code
from pytest_memscan.checkpoints.files import read_bytes, read_json, shown
from pytest_memscan.checkpoints.layout import PartFiles
from pytest_memscan.errors import CheckpointError

_MAX_VOCABULARY_BYTES = 64 << 20


def check_tokenizer(folder: Path, files: PartFiles) -> None:
    """Check every file that transformers reads for one tokenizer.

    Raises:
        CheckpointError: One is malformed, too large, or asks to run code.
    """
    refuse_code(read_json(folder, files.config), files.config)
    for name in files.vocabulary:
        kind = name.rpartition("/")[2]
        if kind == "special_tokens_map.json":
            refuse_code(read_json(folder, name), name)
        elif kind in ("vocab.json", "added_tokens.json"):
            _check_numbers(folder, name)
        elif kind == "tokenizer.json":
            # Tokens are keys here, and a token may well be called "auto_map".
            read_json(folder, name, max_bytes=_MAX_VOCABULARY_BYTES)
        else:
            data = read_bytes(folder, name, max_bytes=_MAX_VOCABULARY_BYTES)
            if kind == "merges.txt":
                _check_text(data, name)


def require_readable(files: PartFiles) -> None:
    """Check that this installation can read the vocabulary.

    Raises:
        CheckpointError: It is in a form that needs packages which are not installed.
    """
    kinds = {name.rpartition("/")[2] for name in files.vocabulary}
    if "spiece.model" not in kinds or "tokenizer.json" in kinds:
        return
    needed = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
    missing = [package for module, package in needed.items() if not _is_installed(module)]
    if missing:
        raise CheckpointError(
            f"{files.prefix}spiece.model can be read with {' and '.join(needed.values())} only; "
            f"pip install {' '.join(missing)}, or save the tokenizer again where they are, "
            "which writes tokenizer.json"
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _check_numbers(folder: Path, name: str) -> None:
    """A map from tokens to their numbers."""
    for token, number in read_json(folder, name, max_bytes=_MAX_VOCABULARY_BYTES).items():
        if type(number) is not int or number < 0:
            raise CheckpointError(
                f"{name}: token {shown(token)} has the number {shown(number)}; "
                "expected an integer from 0"
            )


def _check_text(data: bytes, name: str) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{name} is not UTF-8 text; fetch or save it again") from None
