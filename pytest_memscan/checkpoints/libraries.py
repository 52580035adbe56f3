"""diffusers and transformers, imported with their remote code switched off, and quiet."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pytest_memscan.checkpoints.families import Library
from pytest_memscan.checkpoints.files import shown


def library(name: Library) -> ModuleType:
    """The library, with diffusers' remote code switched off before it is first imported."""
    os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"  # read once, at import
    return importlib.import_module(name)


def one_line(error: Exception) -> str:
    """An error of a library, as part of a sentence."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {shown(text, 300)}"


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, no advice, no warnings about what will change in later versions."""
    loggers = [library(name).utils.logging for name in ("diffusers", "transformers")]
    before = [(logging.is_progress_bar_enabled(), logging.get_verbosity()) for logging in loggers]
    for logging in loggers:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logging, (had_bar, verbosity) in zip(loggers, before, strict=True):
            if had_bar:
                logging.enable_progress_bar()
            logging.set_verbosity(verbosity)
