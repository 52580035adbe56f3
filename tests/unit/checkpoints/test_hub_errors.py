"""What the Hub refuses is told in one line, with a remedy and without the token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Hub


def test_a_repository_that_does_not_exist_may_be_private(hub: Hub) -> None:
    message = hub.error("org/nothing")
    assert "no model org/nothing" in message
    assert "private" in message
    assert "HF_TOKEN is missing" in message


def test_a_private_repository_needs_the_token_and_gets_it(hub: Hub) -> None:
    hub.server.add("org/private", hub.files, required_token=hub.token)
    assert "private" in hub.error("org/private")
    assert "has not" in hub.error("org/private", HF_TOKEN=hub.token[:-1] + "x")
    assert hub.resolve("org/private", HF_TOKEN=hub.token)["label"].startswith("org/private@")


def test_a_revision_that_does_not_exist_is_named(hub: Hub) -> None:
    hub.server.add("org/name", hub.files)
    message = hub.error("org/name@v9")
    assert "model org/name has no revision v9" in message


@pytest.mark.parametrize(
    ("has_token", "words"), [(False, "HF_TOKEN is missing"), (True, "has not")]
)
def test_a_gated_model_gives_the_page_where_terms_are_accepted(
    hub: Hub, has_token: bool, words: str
) -> None:
    hub.server.add("org/gated", hub.files, gated_files=True)
    message = hub.error("org/gated", HF_TOKEN=hub.token if has_token else "")
    assert "is gated" in message
    assert f"accept its terms at {hub.server.url}/org/gated" in message
    assert words in message


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_fails_means_that_nothing_was_scanned(hub: Hub, status: int) -> None:
    hub.server.add("org/name", hub.files, fail_with=status)
    message = hub.error("org/name@v1", HF_TOKEN=hub.token)
    assert f"answered {status} for org/name at revision v1" in message
    assert "nothing was scanned" in message


def test_a_hub_that_cannot_be_reached_means_that_nothing_was_scanned(hub: Hub) -> None:
    message = hub.error("org/name", HF_ENDPOINT="http://user:password@127.0.0.1:9")
    assert "could not reach the Hub at http://127.0.0.1:9" in message
    assert "nothing was scanned" in message
    assert "password" not in message


def test_a_branch_is_never_taken_from_the_cache_because_the_hub_is_down(hub: Hub) -> None:
    repo = hub.server.add("org/name", hub.files)
    hub.resolve("org/name")
    repo.fail_with = 503
    assert "nothing was scanned" in hub.error("org/name")


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_network(
    hub: Hub, tmp_path: Path
) -> None:
    hub.server.add("org/name", hub.files)
    (tmp_path / "file").write_text("not a folder")
    message = hub.error("org/name", HF_HOME=str(tmp_path / "file"))
    assert "cannot be written to the Hub cache: " in message
    assert "HF_HOME" in message
