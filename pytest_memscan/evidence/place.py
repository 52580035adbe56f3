"""Whether a folder is a private place: not shared, not uploaded, and not about to be committed.

Imported when pytest starts: nothing heavy.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from pytest_memscan.errors import OptionError, shown_path

_OPTION = "--memscan-evidence"
_ELSEWHERE = "choose a folder outside, such as ~/memscan-evidence"
_GIT_SECONDS = 10.0


def check_evidence_dir(
    folder: Path, *, reports: Iterable[Path] = (), environ: Mapping[str, str] = os.environ
) -> None:
    """Find out before a scan whether clear pictures may go to a folder, and make it.

    Args:
        folder: Where they would go.
        reports: Files that are written for others to read.
        environ: Tells the working folder of a CI job, all of which may be uploaded.

    Raises:
        OptionError: It is a file, belongs to or can be read by somebody else, lies with reports
            or in a work tree of git that does not ignore it, or cannot be made.
    """
    shown = shown_path(folder)
    _check_apart(folder, shown, reports)
    _check_not_shared(folder, shown, environ)
    if folder.is_symlink() or folder.exists():
        _check_own(folder, shown)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"{_OPTION} {shown} cannot be made ({error.strerror}); choose another folder"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"{_OPTION} {shown} cannot be written; choose another folder")


def _check_own(folder: Path, shown: str) -> None:
    if not folder.is_dir():
        raise OptionError(f"{_OPTION} {shown} is not a folder; name a folder that is yours alone")
    if not hasattr(os, "geteuid"):
        return
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise OptionError(
            f"{_OPTION} {shown} belongs to another user; name a folder that is yours alone"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise OptionError(
            f"{_OPTION} {shown} can be read by others; run chmod 700 on it, or name a new folder, "
            "which is made for its owner alone"
        )


def _check_apart(folder: Path, shown: str, reports: Iterable[Path]) -> None:
    """Reports are uploaded by the folder."""
    resolved = folder.resolve()
    for report in reports:
        beside = report.parent.resolve()
        if resolved.is_relative_to(beside) or beside.is_relative_to(resolved):
            raise OptionError(
                f"{_OPTION} {shown} lies with the report {shown_path(report)}, and reports are "
                f"shared; {_ELSEWHERE}"
            )


def _check_not_shared(folder: Path, shown: str, environ: Mapping[str, str]) -> None:
    resolved = folder.resolve()
    tree = _work_tree(resolved)
    if tree is not None and not _is_ignored(resolved, tree):
        raise OptionError(
            f"{_OPTION} {shown} lies in a work tree of git that does not ignore it, so its "
            f"pictures could be committed; {_ELSEWHERE}, or add it to .gitignore"
        )
    workspace = environ.get("GITHUB_WORKSPACE")
    if workspace and resolved.is_relative_to(Path(workspace).resolve()):
        raise OptionError(
            f"{_OPTION} {shown} lies in the workspace of the CI job (GITHUB_WORKSPACE), which "
            "jobs upload from; choose a folder outside, such as one in $RUNNER_TEMP"
        )


def _work_tree(folder: Path) -> Path | None:
    """The nearest folder above that git looks after; ``.git`` is a file in linked work trees."""
    above = (folder, *folder.parents)
    return next((each for each in above if os.path.lexists(each / ".git")), None)


def _is_ignored(folder: Path, tree: Path) -> bool:
    """What git says; False where it cannot be asked."""
    # A hook, such as pre-commit, sets variables that name another repository.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    # Files, since a rule that ends in a slash is for what is a folder, and one may be for *.json.
    inside = [str(folder / "run" / name) for name in ("manifest.json", "a.png")]
    try:
        asked = subprocess.run(  # noqa: S603 - no shell, and the path comes after --
            ["git", "-C", str(tree), "check-ignore", "--", *inside],  # noqa: S607
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0 and len(asked.stdout.splitlines()) == len(inside)
