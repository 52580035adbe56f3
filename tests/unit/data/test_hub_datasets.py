"""hub:ORG/NAME[@REVISION]: one commit, its training Parquet files, and nothing else.

Against a local server that speaks the Hub's endpoints, in a process of its own each time, since
huggingface_hub reads its settings when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hub_server import HubServer
from image_factory import Items, as_table, save_parquet, some_items

from pytest_memscan.data.readers.hub import training_files

TOKEN = "hf_" + "S3cretS3cretS3cretS3cret"

_READ = """
import hashlib, json, sys
from pathlib import Path
from pytest_memscan.data.records import open_source
from pytest_memscan.data.sources import parse_source
from pytest_memscan.errors import MemscanError
answers = []
for text in sys.argv[2:]:
    try:
        reading = open_source(parse_source(text, Path()), offline=sys.argv[1] == "offline")
        found = list(reading.records)
        records = [(r.name, hashlib.sha256(r.content).hexdigest(), r.caption) for r in found]
        answers.append({"records": records, "origin": reading.origin, "total": reading.total,
                        "labels": [r.label for r in found]})
    except MemscanError as error:
        answers.append({"error": f"{type(error).__name__}: {error}"})
print("ANSWER" + json.dumps(answers))
"""
READ_ME = {"README.md": b"# data", ".gitattributes": b"", "load.py": b"raise SystemExit"}


@dataclass
class Hub:
    """A fake Hub, and reading from it in a process of its own."""

    server: HubServer
    home: Path

    def read_all(self, *texts: str, offline: bool = False, **env: str) -> list[dict[str, Any]]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
        settings = {
            "HF_ENDPOINT": self.server.url,
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_ETAG_TIMEOUT": "5",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", _READ, "offline" if offline else "", *texts],
            env={**kept, **settings, "PYTHONPATH": os.pathsep.join(sys.path), **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "ANSWER" in done.stdout, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        answers: list[dict[str, Any]] = json.loads(done.stdout.partition("ANSWER")[2])
        return answers

    def read(self, text: str, *, offline: bool = False, **env: str) -> dict[str, Any]:
        return self.read_all(text, offline=offline, **env)[0]

    def error(self, text: str, *, offline: bool = False, **env: str) -> str:
        message: str = self.read(text, offline=offline, **env)["error"]
        assert message.startswith(("TrainDataError: ", "NotCachedError: "))
        assert "\n" not in message
        assert "checkpoint" not in message
        assert "model" not in message
        return message


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with HubServer.running() as server:
        yield Hub(server, tmp_path / "hf")


@pytest.fixture
def items() -> Items:
    return some_items(4)


@pytest.fixture
def files(tmp_path: Path, items: Items) -> dict[str, bytes]:
    """Two training shards, a test shard, and what else lies in a dataset's repository."""
    names = {"train-00000-of-00002": items[:2], "train-00001-of-00002": items[2:]}
    shards = {**names, "test-00000-of-00001": some_items(9)}
    made = {
        f"data/{name}.parquet": save_parquet(tmp_path / "made" / name, part).read_bytes()
        for name, part in shards.items()
    }
    return {**made, **READ_ME}


TRAIN = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


def test_only_the_training_split_is_fetched_and_by_commit(
    hub: Hub, files: dict[str, bytes], items: Items
) -> None:
    commit = hub.server.add_dataset("org/name", files).branches["main"]
    found = hub.read("hub:org/name")
    assert found["origin"] == f"hub:org/name@{commit[:7]} (training split, 2 of 3 Parquet files)"
    assert found["total"] == 4
    assert [name for name, _, _ in found["records"]] == [
        *(f"{TRAIN[0]}[{row}]" for row in range(2)),
        *(f"{TRAIN[1]}[{row}]" for row in range(2)),
    ]
    assert [caption for _, _, caption in found["records"]] == [caption for _, _, caption in items]
    assert hub.server.fetched() == TRAIN
    downloads = [r.path for r in hub.server.requests if "/resolve/" in r.path]
    assert downloads
    assert all(path.split("/")[5] == commit for path in downloads)


def test_labels_come_with_the_names_of_their_classes(
    hub: Hub, tmp_path: Path, items: Items
) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = as_table(items).append_column("label", pa.array([1, 0, -1, 1]))
    table = table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}}).encode()}
    )
    content = save_parquet(tmp_path / "train.parquet", table).read_bytes()
    hub.server.add_dataset("org/name", {"train.parquet": content})
    assert hub.read("hub:org/name")["labels"] == ["dog", "cat", None, "dog"]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["a.parquet", "b.parquet"], ["a.parquet", "b.parquet"]),
        (["all/train/0000.parquet", "all/test/0000.parquet"], ["all/train/0000.parquet"]),
        (["x/partial-train/0.parquet", "x/test/0.parquet"], ["x/partial-train/0.parquet"]),
        (["train.parquet", "validation.parquet"], ["train.parquet"]),
        (["data/Train-0.PARQUET", "data/val-0.parquet"], ["data/Train-0.PARQUET"]),
        (["training.parquet", "trains/a.parquet"], ["training.parquet", "trains/a.parquet"]),
        (["README.md", "train.csv"], []),
    ],
)  # fmt: skip
def test_the_training_split_is_known_by_name(names: list[str], wanted: list[str]) -> None:
    assert training_files(reversed(names)) == sorted(wanted)


def test_without_a_split_by_name_every_shard_is_read(hub: Hub, files: dict[str, bytes]) -> None:
    hub.server.add_dataset("org/name", {"b.parquet": files[TRAIN[0]], "a.parquet": files[TRAIN[1]]})
    found = hub.read("hub:org/name")
    assert found["origin"].endswith(" (all 2 Parquet files)")
    assert [name for name, _, _ in found["records"]] == [
        "a.parquet[0]", "a.parquet[1]", "b.parquet[0]", "b.parquet[1]",
    ]  # fmt: skip


def test_a_branch_that_moves_during_the_run_changes_nothing(
    hub: Hub, files: dict[str, bytes]
) -> None:
    repo = hub.server.add_dataset("org/name", files)
    first = repo.branches["main"]

    def move() -> None:
        if len(repo.commits) == 1:
            repo.commit({"new.parquet": files[TRAIN[0]]})

    repo.after_info = move
    found = hub.read("hub:org/name@main")
    assert repo.branches["main"] != first
    assert found["origin"].startswith(f"hub:org/name@{first[:7]} ")
    assert found["total"] == 4


def test_the_branch_into_which_the_hub_converts_datasets_is_read(
    hub: Hub, files: dict[str, bytes]
) -> None:
    repo = hub.server.add_dataset("org/name", {"images.zip": b"PK", **READ_ME})
    repo.commit({"default/train/0000.parquet": files[TRAIN[0]]}, branch="refs/convert/parquet")
    message = hub.error("hub:org/name")
    assert "holds no Parquet files but .gitattributes, README.md, images.zip and 1 more" in message
    assert "try hub:org/name@refs/convert/parquet" in message
    assert hub.read("hub:org/name@refs/convert/parquet")["total"] == 2


def test_what_was_read_online_is_read_offline_by_branch_and_commit(
    hub: Hub, files: dict[str, bytes]
) -> None:
    commit = hub.server.add_dataset("org/name", files).branches["main"]
    online = hub.read("hub:org/name")
    hub.server.requests.clear()
    specs = ("hub:org/name", "hub:org/name@main", f"hub:org/name@{commit}")
    assert hub.read_all(*specs, offline=True) == [online] * 3
    assert hub.read_all(*specs, HF_HUB_OFFLINE="1") == [online] * 3
    assert hub.read(specs[2]) == online  # a commit that is cached needs no network
    assert hub.server.requests == []


def test_an_offline_miss_gives_the_command_that_prefetches(hub: Hub) -> None:
    for spec in ("hub:org/name", "hub:org/name@" + "0" * 40):
        message = hub.error(spec, offline=True)
        revision = spec.partition("@")[2] or "main"
        assert f"`hf download org/name --repo-type dataset --revision {revision}`" in message
    assert hub.server.requests == []


def test_a_cache_that_lacks_a_shard_is_an_offline_miss_and_is_completed_online(
    hub: Hub, files: dict[str, bytes]
) -> None:
    commit = hub.server.add_dataset("org/name", files).branches["main"]
    whole = hub.read("hub:org/name")
    (shard,) = hub.home.rglob(Path(TRAIN[1]).name)
    shard.resolve().unlink()
    shard.unlink()
    assert f"the cache lacks {TRAIN[1]}; fetch it" in hub.error("hub:org/name", offline=True)
    assert hub.read(f"hub:org/name@{commit}") == whole


def test_single_files_in_the_cache_do_not_pass_for_the_dataset(
    hub: Hub, files: dict[str, bytes]
) -> None:
    hub.server.add_dataset("org/name", files)
    script = (
        "import sys; from huggingface_hub import hf_hub_download;"
        "hf_hub_download('org/name', sys.argv[1], repo_type='dataset')"
    )
    subprocess.run(
        [sys.executable, "-c", script, TRAIN[0]],
        env={**os.environ, "HF_ENDPOINT": hub.server.url, "HF_HOME": str(hub.home)},
        check=True,
        capture_output=True,
    )
    message = hub.error("hub:org/name", offline=True)
    assert "the cache does not tell which files belong to it" in message


def test_a_cached_shard_that_changed_on_disk_is_refused(hub: Hub, files: dict[str, bytes]) -> None:
    hub.server.add_dataset("org/name", files)
    hub.read("hub:org/name")
    (shard,) = hub.home.rglob(Path(TRAIN[0]).name)
    blob = shard.resolve()
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    for offline in (True, False):
        message = hub.error("hub:org/name", offline=offline)
        assert f"{TRAIN[0]} of org/name is not the file on the Hub" in message
        assert "delete this dataset from the Hub cache" in message


def test_a_download_that_differs_from_the_announced_hash_is_refused(
    hub: Hub, files: dict[str, bytes]
) -> None:
    repo = hub.server.add_dataset("org/name", files)
    repo.served[TRAIN[1]] = files[TRAIN[1]][:-1] + b"\x01"
    assert f"{TRAIN[1]} of org/name is not the file on the Hub" in hub.error("hub:org/name")


def test_a_shard_that_is_missing_from_the_repository_is_named(
    hub: Hub, files: dict[str, bytes]
) -> None:
    del files[TRAIN[1]]
    hub.server.add_dataset("org/name", files)
    assert f" lacks {TRAIN[1]}; what is in it would not be compared" in hub.error("hub:org/name")
    assert hub.server.fetched() == []


@pytest.mark.parametrize("name", ["../../evil.parquet", "/etc/x.parquet", "a\\b.parquet", "C:x"])
def test_a_listing_with_a_name_that_leaves_the_cache_is_refused(
    hub: Hub, files: dict[str, bytes], name: str
) -> None:
    hub.server.add_dataset("org/evil", {**files, name: b"{}"})
    assert "could leave the cache folder" in hub.error("hub:org/evil")
    assert hub.server.fetched() == []


def test_a_name_that_looks_like_a_pattern_is_taken_literally(
    hub: Hub, files: dict[str, bytes]
) -> None:
    names = {"train-[ab]*.parquet": files[TRAIN[0]], "train-a.txt": b"x", "b.parquet": b"x"}
    hub.server.add_dataset("org/name", names)
    assert hub.read("hub:org/name")["total"] == 2
    assert hub.server.fetched() == ["train-[ab]*.parquet"]


def test_what_the_hub_refuses_is_said_of_a_dataset(hub: Hub, files: dict[str, bytes]) -> None:
    hub.server.add_dataset("org/private", files, required_token=TOKEN)
    hub.server.add_dataset("org/gated", files, gated_files=True)
    hub.server.add_dataset("org/down", files, fail_with=503)
    hub.server.add_dataset("org/name", files)
    specs = ("nothing", "private", "gated", "down", "name@v9")
    messages = [each["error"] for each in hub.read_all(*(f"hub:org/{spec}" for spec in specs))]
    for message, words in zip(
        messages,
        [
            "no dataset org/nothing on the Hub",
            "if the dataset is private, set HF_TOKEN",
            f"dataset org/gated is gated: accept its terms at {hub.server.url}/datasets/org/gated",
            "answered 503 for org/down at revision main; nothing was scanned",
            f"has no revision v9; use a branch, tag or full commit hash listed at "
            f"{hub.server.url}/datasets/org/name/commits/main",
        ],
        strict=True,
    ):
        assert message.startswith("TrainDataError: ")
        assert words in message
        assert "\n" not in message
        assert "folder" not in message
    assert hub.read("hub:org/private", HF_TOKEN=TOKEN)["total"] == 4


def test_a_hub_that_cannot_be_reached_means_that_nothing_was_scanned(hub: Hub) -> None:
    message = hub.error("hub:org/name", HF_ENDPOINT="http://user:password@127.0.0.1:9")
    assert "could not reach the Hub at http://127.0.0.1:9 for org/name" in message
    assert "prefetch the dataset and use --memscan-offline" in message
    assert "password" not in message


def test_a_model_of_the_same_name_is_another_repository(hub: Hub, files: dict[str, bytes]) -> None:
    hub.server.add("org/name", files)
    assert "no dataset org/name" in hub.error("hub:org/name")
