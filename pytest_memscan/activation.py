"""What happens when pytest starts with ``--memscan``: everything that can be checked, is.

No network and no torch: what is wrong with the options is said in the first second.
"""

from __future__ import annotations

import os
import shutil
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
from pytest_memscan.start_checks import check_inputs
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
            check_inputs(settings, only_collects=config.option.collectonly)
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
    from pytest_memscan.publishing import write_not_run

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
        text = " ".join(sentence_lines(of_environment().scrub(str(error))))
        raise pytest.UsageError(f"memscan: {text}") from None
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
    print(of_environment().scrub("\n".join(lines)))
    return int(pytest.ExitCode.OK)
