"""Which values count as private in a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_memscan.config import Config, resolve_config
from pytest_memscan.privacy.scrubber import Scrubber
from pytest_memscan.privacy.values import of_environment, of_settings

TOKEN = "token-of-nobody-0123"  # noqa: S105  # a marker


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a person who works in a folder below it."""
    (tmp_path / "homes" / "jane" / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "homes" / "jane"))
    monkeypatch.chdir(tmp_path / "homes" / "jane" / "project")
    return tmp_path / "homes" / "jane"


def config(**options: object) -> Config:
    given = {"model": "builtin:leaky-t2i", **options}
    return resolve_config(given, ini={}, rootdir=Path.cwd(), invocation_dir=Path.cwd(), environ={})


def scrubber(environ: dict[str, str] | None = None, **options: object) -> Scrubber:
    return of_settings(config(**options), environ or {})


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY"]
)
def test_variables_with_tokens_are_private(home: Path, name: str) -> None:
    assert of_environment({name: f" {TOKEN}\n"}).scrub(f"x {TOKEN}") == "x (token)"


@pytest.mark.parametrize("value", ["", "no", "disabled"])
def test_a_variable_of_such_a_name_may_hold_a_mere_word(home: Path, value: str) -> None:
    assert of_environment({"USE_TOKEN": value}).scrub(f"it is {value}") == f"it is {value}"


def test_the_file_of_a_login_is_private(home: Path, tmp_path: Path) -> None:
    for environ, folder in (
        ({"HF_TOKEN_PATH": str(tmp_path / "a" / "token")}, tmp_path / "a"),
        ({"HF_HOME": str(tmp_path / "b")}, tmp_path / "b"),
        ({"XDG_CACHE_HOME": str(tmp_path / "c")}, tmp_path / "c" / "huggingface"),
        ({}, home / ".cache" / "huggingface"),
    ):
        folder.mkdir(parents=True)
        assert TOKEN in of_environment(environ).scrub(TOKEN)
        (folder / "token").write_text(f"{TOKEN}\n")
        assert TOKEN not in of_environment(environ).scrub(TOKEN)
        (folder / "token").unlink()


def test_the_home_folder_and_the_user_are_private(home: Path) -> None:
    scrub = of_environment({"USER": "jane"}).scrub
    assert scrub(f"{home}/x and /scratch/jane/x") == "~/x and /scratch/(user)/x"
    assert of_environment({"USER": "runner"}).scrub("/opt/runner/x") == "/opt/runner/x"


@pytest.mark.parametrize(
    ("option", "others"),
    [
        ("train_data", {}),
        ("holdout", {}),
        ("auxiliary", {"model": "builtin:leaky", "scans": "side", "labeller": "org/labeller"}),
    ],
)
def test_folders_of_images_are_private_and_the_folders_around_them(
    home: Path, tmp_path: Path, option: str, others: dict[str, str]
) -> None:
    folder = tmp_path / "customer one" / "portraits"
    scrub = scrubber(**{option: str(folder), **others}).scrub
    assert scrub(f"at {folder}") == "at .../portraits"
    assert scrub(f"at {folder}/alice.png") == "at .../portraits/(file)"
    assert scrub(f"at {folder.parent}") == "at ..."
    assert scrub(f"at {tmp_path}") == f"at {tmp_path}"  # where this run works, too


def test_a_folder_below_the_working_one_keeps_its_name_and_hides_its_files(home: Path) -> None:
    scrub = scrubber(train_data="data").scrub
    assert scrub(f"{Path.cwd()}/data/alice.png") == "data/(file)"
    assert scrub(f"{Path.cwd()}/tests/test_a.py") == "~/project/tests/test_a.py"
    assert scrubber(train_data=".").scrub(f"{Path.cwd()}/tests") == "~/project/tests"


def test_a_link_is_as_private_as_what_it_points_to(home: Path, tmp_path: Path) -> None:
    (tmp_path / "customer").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "customer")
    typed = f"index:{tmp_path / 'link' / 'portraits'}"
    scrub = of_settings(config(train_data=typed), {}, typed=[typed]).scrub
    for name in ("link", "customer"):
        assert scrub(f"{tmp_path / name}/portraits/y") == ".../portraits/(file)"


def test_the_evidence_is_named_on_the_terminal_alone(home: Path, tmp_path: Path) -> None:
    settings, folder = config(evidence=str(tmp_path / "private")), tmp_path / "private"
    assert of_settings(settings, {}).scrub(f"{folder}/run") == ".../private/run"
    assert of_settings(settings, {}, shows_evidence=True).scrub(f"{folder}") == str(folder)


def test_prompts_and_planted_strings_are_private_unless_prompts_are_asked_for(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a portrait of alice at sea\ndog\n")
    (tmp_path / "keys.txt").write_text("zqwx vunt klop\n")
    lists = {"prompts": str(tmp_path / "prompts.txt"), "canaries": str(tmp_path / "keys.txt")}
    text = "a portrait of alice at sea, zqwx vunt klop, dog"
    assert scrubber(**lists).scrub(text) == "(prompt), (planted string), dog"
    shown = scrubber(**lists, show_prompts=True).scrub(text)
    assert shown == "a portrait of alice at sea, (planted string), dog"


@pytest.mark.parametrize("word", ["inconclusive", "not_applicable", "extracted", "duplicates"])
def test_a_word_of_every_report_is_no_secret(home: Path, tmp_path: Path, word: str) -> None:
    (tmp_path / "keys.txt").write_text(f"{word}\nzqwx vunt klop\n")
    scrub = scrubber({"HF_TOKEN": word}, canaries=str(tmp_path / "keys.txt")).scrub
    assert scrub(f"{word} zqwx vunt klop") == f"{word} (planted string)"


def test_a_list_that_cannot_be_read_is_no_reason_to_stop(home: Path, tmp_path: Path) -> None:
    assert scrubber(prompts=str(tmp_path / "none.txt")).scrub("x") == "x"
