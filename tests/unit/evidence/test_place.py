"""Which folders are private enough for clear pictures."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from unprivileged import readable_folder, unprivileged

from pytest_memscan.errors import OptionError
from pytest_memscan.evidence.place import check_evidence_dir


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    command = ["git", *identity, "-C", str(folder), *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


def refused(folder: Path, **settings: object) -> str:
    existed = folder.exists()
    with pytest.raises(OptionError) as error:
        check_evidence_dir(folder, **{"environ": {}, **settings})  # type: ignore[arg-type]
    assert folder.exists() == existed
    assert str(folder.parent) not in str(error.value)
    return str(error.value)


def accepted(folder: Path, **settings: object) -> None:
    check_evidence_dir(folder, **{"environ": {}, **settings})  # type: ignore[arg-type]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_new_folder_is_made_for_its_owner_alone_and_may_be_used_again(tmp_path: Path) -> None:
    accepted(tmp_path / "new" / "evidence")
    accepted(tmp_path / "new" / "evidence")


def test_a_work_tree_is_refused_unless_it_ignores_the_folder(repository: Path) -> None:
    assert "git" in refused(repository / "evidence")
    assert "git" in refused(repository / "some" / "where" / "evidence")
    assert "git" in refused(repository)
    (repository / ".gitignore").write_text("/evidence/\n")  # not there yet, and to be a folder
    accepted(repository / "evidence")
    accepted(repository / "evidence" / "of" / "today")
    assert "git" in refused(repository / "other")
    for rules in ("*.json\n", "*.png\n", "/other/**\n!/other/**/\n!/other/**/*.png\n"):
        (repository / ".gitignore").write_text(rules)  # some of the files
        assert "git" in refused(repository / "other")


def test_a_link_does_not_hide_a_work_tree(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repository)
    assert "git" in refused(tmp_path / "link" / "evidence")


def test_linked_work_trees_and_submodules_are_work_trees(repository: Path, tmp_path: Path) -> None:
    git(repository, "commit", "-q", "--allow-empty", "-m", "first")
    git(repository, "worktree", "add", "-q", str(tmp_path / "linked"))
    assert "git" in refused(tmp_path / "linked" / "evidence")
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    allowed = ("-c", "protocol.file.allow=always")
    git(outer, *allowed, "submodule", "add", "-q", str(repository), "inner")
    (outer / ".gitignore").write_text("evidence/\n")
    assert "git" in refused(outer / "inner" / "evidence")  # the outer rules do not hold there


def test_a_bare_repository_has_no_work_tree(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "bare")
    accepted(tmp_path / "bare" / "evidence")


def test_without_git_nothing_counts_as_ignored(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / ".gitignore").write_text("*\n")
    monkeypatch.setenv("PATH", "")
    assert "git" in refused(repository / "evidence")


def test_variables_of_a_git_hook_do_not_name_another_repository(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "all").mkdir()
    git(tmp_path / "all", "init", "-q")
    (tmp_path / "all" / ".gitignore").write_text("*\n")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "all" / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "all"))
    assert "git" in refused(repository / "evidence")


def test_the_workspace_of_a_job_is_refused_whatever_git_ignores(
    repository: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "workspace"
    assert "GITHUB_WORKSPACE" in refused(bare / "x", environ={"GITHUB_WORKSPACE": str(bare)})
    accepted(tmp_path / "runner-temp", environ={"GITHUB_WORKSPACE": str(bare)})
    (repository / ".gitignore").write_text("evidence\n")
    # What uploads a folder asks no .gitignore.
    workspace = {"GITHUB_WORKSPACE": str(repository)}
    assert "GITHUB_WORKSPACE" in refused(repository / "evidence", environ=workspace)


def test_the_folder_of_the_reports_is_refused(tmp_path: Path) -> None:
    reports = [tmp_path / "out" / "report.json"]
    for name in ("out", "out/evidence"):
        assert "report" in refused(tmp_path / name, reports=reports)
    (tmp_path / "private").mkdir(mode=0o700)
    assert "report" in refused(tmp_path / "private", reports=[tmp_path / "private/x/a.html"])
    accepted(tmp_path / "evidence", reports=reports)


def test_a_file_and_a_folder_that_others_can_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a folder" in refused(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="not a folder"):
        check_evidence_dir(tmp_path / "dangling", environ={})
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o750)
    assert "chmod 700" in refused(tmp_path / "open")
    (tmp_path / "open").chmod(0o700)
    accepted(tmp_path / "open")


def test_a_folder_of_somebody_else_and_one_that_cannot_be_made_are_refused() -> None:
    with readable_folder() as folder:
        (folder / "theirs").mkdir()
        with unprivileged():
            message = "another user|cannot be written|can be read by others"
            with pytest.raises(OptionError, match=message):
                check_evidence_dir(folder / "theirs", environ={})
            with pytest.raises(OptionError, match="cannot be made"):
                check_evidence_dir(folder / "mine", environ={})
