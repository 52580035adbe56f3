"""What happens when pytest starts with ``--memscan``: everything that can be checked, is.

No network and no torch: what is wrong with the options is said in the first second.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_memscan.checks import CHECKS, not_scanned
from pytest_memscan.config import Config, resolve_config
from pytest_memscan.config_base import checkpoint_label
from pytest_memscan.config_sources import (
    FILE_ONLY,
    INI_KEYS,
    OPTIONS_ONLY,
    TOML_KEYS,
    json_report_path,
)
from pytest_memscan.errors import MemscanError, OptionError
from pytest_memscan.items import FILE_NAME, SESSION, Collection, FileCollection
from pytest_memscan.policy_files import locate
from pytest_memscan.privacy.hooks import SCRUBBER, Privacy
from pytest_memscan.privacy.values import of_environment, of_settings
from pytest_memscan.progress import console_progress
from pytest_memscan.reports.text import sentence_lines
from pytest_memscan.session import Session
from pytest_memscan.settings import PIXELS
from pytest_memscan.waivers import states, utc_today

SETTINGS = (
    *(name for name in TOML_KEYS if name not in FILE_ONLY),
    *OPTIONS_ONLY,
    "config",
    "no_cache",
)


def activate(config: pytest.Config) -> None:
    """Check everything that can be checked now, and add the gate to this run.

    Raises:
        pytest.UsageError: An option or policy value cannot be used.
    """
    option = config.option
    workerinput = getattr(config, "workerinput", None)
    is_worker = workerinput is not None
    session_id = workerinput["memscan_session"] if workerinput else uuid.uuid4().hex
    try:
        settings = _settings(config)
        option.memscan_selected = _take_gate_ids(config, settings)
        if not is_worker:
            _check_inputs(settings, config)
    except MemscanError as error:
        text = " ".join(sentence_lines(of_environment().scrub(str(error))))
        if not is_worker:
            _replace_verdict(config, text)
        raise pytest.UsageError(f"memscan: {text}") from None
    if option.memscan_only:
        config.args[:] = []
    # Threads that spin long while they wait stall a scan as soon as anything else, such as another
    # xdist worker, needs their core. OpenMP reads this when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    session = Session(
        config=settings,
        session_id=session_id,
        progress=partial(console_progress, config),
    )
    config.stash[SESSION] = session
    typed = [each for each in vars(option).values() if isinstance(each, str)]
    config.stash[SCRUBBER] = of_settings(settings, typed=typed)
    shown = of_settings(settings, typed=typed, shows_evidence=True)
    config.pluginmanager.register(Privacy(shown), "memscan-privacy")
    config.pluginmanager.register(Collection(), "memscan-collection")
    config.pluginmanager.register(FileCollection(), "memscan-file")
    if not is_worker:
        from pytest_memscan.controller import Controller

        config.pluginmanager.register(Controller(config, session), "memscan-controller")


def _settings(config: pytest.Config) -> Config:
    return resolve_config(**_given(config))


def _given(config: pytest.Config) -> dict[str, Any]:
    values = {name: getattr(config.option, f"memscan_{name}") for name in SETTINGS}
    return {
        "options": {"model": config.option.memscan, **values},
        "ini": {name: config.getini(f"memscan_{name}") for name in INI_KEYS},
        "rootdir": _home(config),
        "invocation_dir": config.invocation_params.dir,
    }


def _replace_verdict(config: pytest.Config, reason: str) -> None:
    """A pass of an earlier run must not outlive one that could not start."""
    from pytest_memscan.controller import write_not_run

    path = json_report_path(**_given(config))
    if path is not None:
        with suppress(OptionError):  # said already, or less important than what was wrong first
            write_not_run((("json", path),), checkpoint_label(config.option.memscan), reason)


def _home(config: pytest.Config) -> Path:
    """Where the policy file is looked for and reports go.

    pytest takes the paths in ``--memscan PATH`` for arguments when it looks for its rootdir.
    Without an ini file that may be the checkpoint's own folder, or one far above both.
    """
    started_in = config.invocation_params.dir
    configured = config.inipath is not None and started_in.is_relative_to(config.rootpath)
    return config.rootpath if configured else started_in


def _check_inputs(settings: Config, config: pytest.Config) -> None:
    """What can be found wrong without network or torch is a usage error, before anything runs."""
    from pytest_memscan.controller import write_not_run
    from pytest_memscan.similarity.descriptors.presets import check_descriptor

    _check_baseline(settings)
    write_not_run(settings.outputs.reports, settings.label, "the run did not get to its end")
    if not config.option.collectonly:
        check_descriptor(settings.descriptor, cache_dir=settings.cache_dir)
    for number, one in enumerate(settings.of_concepts() or (settings,), start=1):
        try:
            _check_checkpoint(one)
            if not config.option.collectonly:
                _check_train_data(one)
                _check_prompts(one)
        except OptionError as error:
            if not settings.concepts:
                raise
            raise OptionError(f"--memscan {settings.label}: concept {number}: {error}") from None
    if config.option.collectonly:
        return
    _check_cache_dir(settings.cache_dir)
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


def _take_gate_ids(config: pytest.Config, settings: Config) -> list[str]:
    """Remove ``memscan::carlini`` and the like from the arguments and return their names."""
    names: list[str] = []
    started_in, file = config.invocation_params.dir, config.rootpath / FILE_NAME
    for argument in list(config.args):
        path, _, name = argument.partition("::")
        # pytest prints ids relative to where it was started: ../memscan::carlini
        if path != FILE_NAME and os.path.normpath(started_in / path) != str(file):
            continue
        if not name and (started_in / path).exists():
            continue
        if name and name not in CHECKS:
            known = ", ".join(f"{FILE_NAME}::{check}" for check in CHECKS)
            raise OptionError(f"there is no {argument}; there are {known}")
        if name and name not in settings.checks:
            raise OptionError(
                f"{argument} is not a check of this run; it has {', '.join(settings.checks)}"
            )
        names += [name] if name else settings.checks
        config.args.remove(argument)
    return list(dict.fromkeys(names))


def show_policy(config: pytest.Config) -> int:
    """Print the settings that a run would have, with the source of each, and nothing else.

    Returns:
        The exit code of pytest.

    Raises:
        pytest.UsageError: An option or policy value cannot be used.
    """
    from pytest_memscan.reports.policy_text import PolicyLine, policy_lines

    try:
        settings = _settings(config)
    except MemscanError as error:
        raise pytest.UsageError(f"memscan: {' '.join(sentence_lines(str(error)))}") from None
    today, file = utc_today(), settings.policy_file
    lines = policy_lines(
        settings.sources,
        [
            PolicyLine(
                expression=each.expression,
                source=each.source,
                location=locate(each.expression, file, settings.rootdir)
                if each.source == file.name
                else None,
            )
            for each in settings.thresholds
        ],
        states(settings.waivers, (), today),
        settings.checks,
        not_scanned(settings.situation),
        today=today,
        width=shutil.get_terminal_size().columns,
    )
    print("\n".join(lines))
    return int(pytest.ExitCode.OK)
