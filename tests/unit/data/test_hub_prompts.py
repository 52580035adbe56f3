"""hub:ORG/NAME[@REVISION] as a list of prompts: of one commit, verified, and nothing else fetched.

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

import pytest
from hub_server import HubServer
from image_factory import save_parquet, some_items

_READ = """
import json, sys
from pathlib import Path
from pytest_memscan.data.prompts import check_prompt_source, parse_prompt_source, read_prompts
from pytest_memscan.errors import MemscanError
answers = []
for text in sys.argv[2:]:
    try:
        source = parse_prompt_source(text, Path())
        check_prompt_source(source)
        found = read_prompts(source, offline=sys.argv[1] == "offline")
        answers.append({"prompts": found.prompts, "places": found.places,
                        "origin": found.coverage.origin, "unusable": found.coverage.unusable})
    except MemscanError as error:
        answers.append({"error": f"{type(error).__name__}: {error}"})
print("ANSWER" + json.dumps(answers))
"""
OTHERS = {
    "README.md": b"# data",
    "LICENSE.txt": b"all rights",
    "requirements.txt": b"torch",
    "load.py": b"raise SystemExit",
}


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
        answers: list[dict[str, Any]] = json.loads(done.stdout.partition("ANSWER")[2])
        return answers

    def read(self, text: str, *, offline: bool = False) -> dict[str, Any]:
        return self.read_all(text, offline=offline)[0]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with HubServer.running() as server:
        yield Hub(server, tmp_path / "hf")


def test_rows_of_the_training_split_are_read_by_commit_and_offline_again(hub: Hub) -> None:
    files = {
        "data/train.jsonl": b'{"prompt": "a"}\n{"text": "b"}\n{"id": 1}',
        "data/test.jsonl": b'{"text": "c"}',
        **OTHERS,
    }
    commit = hub.server.add_dataset("org/name", files).branches["main"]
    online = hub.read("hub:org/name")
    assert online == {
        "prompts": ["a", "b"],
        "places": ["data/train.jsonl line 1", "data/train.jsonl line 2"],
        "origin": f"hub:org/name@{commit[:7]} (training split, 1 of 2 JSONL files)",
        "unusable": {"without 'text', 'caption' or 'prompt'": ["data/train.jsonl line 3"]},
    }
    assert hub.server.fetched() == ["data/train.jsonl"]
    downloads = [r.path for r in hub.server.requests if "/resolve/" in r.path]
    assert all(path.split("/")[5] == commit for path in downloads)
    hub.server.requests.clear()
    specs = ("hub:org/name", f"hub:org/name@{commit}")
    assert hub.read_all(*specs, offline=True) == [online] * 2
    assert hub.server.requests == []


def test_lists_of_one_format_are_read_the_first_that_is_there(hub: Hub, tmp_path: Path) -> None:
    csv, text = b"id,caption\n1,of a table\n", b"a line\n"
    shard = save_parquet(tmp_path / "a.parquet", some_items(4)).read_bytes()
    hub.server.add_dataset("org/all", {"a.parquet": shard, "a.csv": csv, "a.txt": text, **OTHERS})
    hub.server.add_dataset("org/csv", {"metadata.csv": csv, "a.txt": text, **OTHERS})
    hub.server.add_dataset("org/txt", {"b.txt": text, "a.TXT": b"another\n", **OTHERS})
    found = hub.read_all("hub:org/all", "hub:org/csv", "hub:org/txt")
    captions = [caption for _, _, caption in some_items(4) if caption]
    assert [each["prompts"] for each in found] == [
        captions, ["of a table"], ["another", "a line"]
    ]  # fmt: skip
    assert found[0]["places"] == ["a.parquet row 2", "a.parquet row 4"]
    assert found[2]["places"] == ["a.TXT line 1", "b.txt line 1"]
    kinds = [each["origin"].partition(" ")[2] for each in found]
    assert kinds == ["(all 1 Parquet files)", "(all 1 CSV files)", "(all 2 text files)"]
    assert hub.server.fetched() == ["a.TXT", "a.parquet", "b.txt", "metadata.csv"]


def test_what_cannot_be_read_is_an_error_about_prompts(hub: Hub) -> None:
    hub.server.add_dataset("org/none", OTHERS)
    hub.server.add_dataset("org/empty", {"a.csv": b"text\n\xe9\n"})
    hub.server.add_dataset("org/gap", {"train-00000-of-00002.csv": b"text\na\n"})
    changed = hub.server.add_dataset("org/changed", {"a.txt": b"a"})
    changed.served["a.txt"] = b"b"
    names = ("none", "empty", "gap", "changed", "nothing", "none@v9")
    messages = [each["error"] for each in hub.read_all(*(f"hub:org/{name}" for name in names))]
    for message, words in zip(
        messages,
        [
            "holds no lists of prompts (.parquet, .jsonl, .csv or .txt files) but LICENSE.txt, ",
            "can be used: 1 not UTF-8 text (a.csv line 2)",
            " lacks train-00001-of-00002.csv",
            "a.txt of org/changed is not the file on the Hub",
            "no dataset org/nothing on the Hub",
            "has no revision v9",
        ],
        strict=True,
    ):
        assert message.startswith("PromptError: ")
        assert words in message
        assert "\n" not in message


def test_an_offline_miss_gives_the_command_that_prefetches(hub: Hub) -> None:
    message = hub.read("hub:org/name", offline=True)["error"]
    assert message.startswith("NotCachedError: ")
    assert "`hf download org/name --repo-type dataset --revision main`" in message
    assert hub.server.requests == []
