"""What can be found wrong without network or torch, and is said before anything runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pytest_memscan.config import Config
from pytest_memscan.errors import MemscanError, OptionError, shown_path
from pytest_memscan.publishing import write_not_run
from pytest_memscan.settings import PIXELS


def check_inputs(settings: Config, *, only_collects: bool) -> None:
    """Find what is wrong with the inputs, and leave no verdict of an earlier run behind.

    Args:
        settings: What the user asked for.
        only_collects: Checks are listed and not run; then inputs need not be there.

    Raises:
        OptionError: Names the option and what to do.
    """
    from pytest_memscan.similarity.descriptors.presets import check_descriptor

    _check_baseline(settings)
    write_not_run(settings.outputs.reports, settings.label, "the run did not get to its end")
    if not only_collects:
        check_descriptor(settings.descriptor, cache_dir=settings.cache_dir)
    for number, one in enumerate(settings.of_concepts() or (settings,), start=1):
        try:
            _check_checkpoint(one)
            if not only_collects:
                _check_train_data(one)
                _check_prompts(one)
        except OptionError as error:
            if not settings.concepts:
                raise
            raise OptionError(f"--memscan {settings.label}: concept {number}: {error}") from None
    if only_collects:
        return
    _check_cache_dir(settings.cache_dir)
    if settings.outputs.save_baseline is not None:
        _check_save_baseline(settings.outputs.save_baseline)
    if settings.outputs.evidence is not None:
        from pytest_memscan.evidence.place import check_evidence_dir

        check_evidence_dir(
            settings.outputs.evidence, reports=[path for _, path in settings.outputs.reports]
        )


def _check_baseline(settings: Config) -> None:
    """An earlier run that this one cannot be compared with is said before any time is spent."""
    from pytest_memscan.baselines import (
        check_baseline_options,
        check_comparable_settings,
        read_baseline,
    )

    outputs = settings.outputs
    check_baseline_options(settings.baseline, outputs.save_baseline, outputs.reports)
    if settings.baseline is not None:
        check_comparable_settings(read_baseline(settings.baseline), settings.sources)


def _check_checkpoint(settings: Config) -> None:
    """The checkpoint, and the base that it is compared with."""
    from pytest_memscan.checkpoints.resolve import BASE, check_spec, known_kind

    check_spec(settings.model)
    if settings.base is None:
        return
    check_spec(settings.base, option=BASE)
    if settings.descriptor == PIXELS:
        raise OptionError(
            "--memscan-descriptor pixels: memscan::finextract compares descriptors; leave the "
            "option out, or name one"
        )
    for option, kind in (("", settings.kind), ("-base", known_kind(settings.base))):
        if kind == "unconditional":
            raise OptionError(
                f"--memscan{option}: {settings.label if not option else settings.base_label} is "
                "unconditional, and memscan::finextract is for text-to-image fine-tunes; leave "
                "--memscan-base out"
            )


def _check_cache_dir(path: Path) -> None:
    """Find out before a scan whether its images can be kept.

    Raises:
        OptionError: Names the option that moves the cache.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OptionError(
            f"the cache folder cannot be written ({error.strerror}); choose another with "
            "--memscan-cache-dir DIR or MEMSCAN_CACHE_DIR"
        ) from None


def _check_save_baseline(path: Path) -> None:
    """Find out before a scan whether it can be saved."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OptionError(
            f"--memscan-save-baseline: {shown_path(path)} cannot be written ({error.strerror}); "
            "choose another place"
        ) from None


def _check_train_data(settings: Config) -> None:
    from pytest_memscan.data.listing import check_source

    for option, source in (
        ("train-data", settings.train_source),
        ("holdout", settings.holdout_source),
    ):
        try:
            if source is not None:
                check_source(source)
        except MemscanError as error:
            raise OptionError(f"--memscan-{option}: {error}") from None
    _check_index(settings)
    compares = settings.kind != "text-to-image" or settings.has_base
    if settings.holdout_source is not None and not compares:
        raise OptionError(
            f"--memscan-holdout: {settings.label} is text-to-image, and its scans compare with no "
            "held-out images; leave the option out"
        )


def _check_prompts(settings: Config) -> None:
    """Prompts are for checkpoints that take some, and a list that cannot be read is said now."""
    from pytest_memscan.data.prompts import check_prompt_source

    for option, source in (
        ("prompts", settings.prompt_source),
        ("canaries", settings.canary_source),
    ):
        if source is None:
            continue
        if settings.kind == "unconditional":
            raise OptionError(
                f"--memscan-{option}: {settings.label} is an unconditional checkpoint, which takes "
                "no prompts; leave the option out"
            )
        try:
            check_prompt_source(source)
        except MemscanError as error:
            raise OptionError(f"--memscan-{option}: {error}") from None


def _check_index(settings: Config) -> None:
    """An index knows what it was made with; anything else cannot be compared with it."""
    from pytest_memscan.similarity.index_files import read_manifest

    if settings.holdout_source is not None and settings.holdout_source.kind == "index":
        raise OptionError("--memscan-holdout takes images, not an index of descriptors")
    source = settings.train_source
    if source is None or source.kind != "index":
        return
    try:
        made_with = read_manifest(source.local).descriptor
    except MemscanError as error:
        raise OptionError(f"--memscan-train-data: {error}") from None
    if settings.descriptor == PIXELS:
        raise OptionError(
            f"--memscan-train-data {source.label} holds descriptors, not pixels; add "
            f"--memscan-descriptor {made_with}"
        )
