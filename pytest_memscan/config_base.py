"""The base of a fine-tune, as far as it is known before anything is fetched."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pytest_memscan.checkpoints.resolve import FORM_TEXTS, known_claims, known_form, known_kind
from pytest_memscan.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class KnownBase:
    """The checkpoint that another was fine-tuned from.

    Attributes:
        spec: As for ``--memscan-base``; None where none is known.
        origin: Where it was learnt: an option, a policy file, or a file of the checkpoint.
        is_known: None where the checkpoint has to be fetched first.
    """

    spec: str | None = None
    origin: str = ""
    is_known: bool | None


def checkpoint_label(model: str) -> str:
    """What was typed after ``--memscan``; of an absolute path, only the last part."""
    path = Path(os.path.expanduser(model))  # Path.expanduser raises for ~nobody
    return f".../{path.name}" if path.is_absolute() else model


def known_base(model: str, given: str | None, origin: str, *, is_asked_for: bool) -> KnownBase:
    """As given, else as the files of the checkpoint claim.

    A whole pipeline that names a base is only compared with it where that is asked for: fetching
    and sampling another model is nothing to do unasked.

    Args:
        model: As for ``--memscan``.
        given: As for ``--memscan-base``.
        origin: Where that was given.
        is_asked_for: Whether a comparison with the base is.

    Raises:
        OptionError: A LoRA or a single file without a base, which nothing can be made of.
    """
    if given is not None:
        return KnownBase(spec=given, origin=origin, is_known=True)
    form = known_form(model)
    claims = known_claims(model)
    if form is None or claims is None:
        return KnownBase(is_known=None if known_kind(model) is None else False)
    needs_it = form != "pipeline"
    if claims.base is not None and (needs_it or is_asked_for):
        return KnownBase(spec=claims.base, origin=claims.base_origin, is_known=True)
    if needs_it:
        note = f" ({claims.base_note})" if claims.base_note else ""
        raise OptionError(
            f"--memscan {checkpoint_label(model)} is a {FORM_TEXTS[form]}, and its files do not "
            f"say which checkpoint it belongs to{note}; pass the one it was trained from with "
            "--memscan-base MODEL"
        )
    return KnownBase(is_known=False)
