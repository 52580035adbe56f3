"""How the commands of the documentation are run: by the real parser, on small stand-ins, cheaply.

Options are put in front, as PYTEST_ADDOPTS does, so that those of the command win over them.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from hub_server import HubServer

from .blocks import Block, Command, commands_of
from .places import Places, link_into

CHEAP = ("-p", "no:cacheprovider", "--memscan-device=cpu")
# Every option and every file is looked at, and the checkpoint vetted; nothing is generated.
VETTED = (*CHEAP, "-k", "integrity")
# What a user's own assertions are run on, in seconds: (folder, options, whether they hold).
_CAPTIONS = "--memscan-prompts=captions.txt"
SCANNED = {
    "plain": (
        "unconditional",
        (
            *("--memscan=./my-model", "--memscan-train-data=./images"),
            *("--memscan-budget=320img", "--memscan-steps=10"),
        ),
        "passed",
    ),
    # A classifier learns something of this one only, which leaks.
    "side": (
        "unconditional",
        (
            *("--memscan=builtin:leaky", "--memscan-scans=side", "--memscan-budget=32img"),
            *("--memscan-steps=3", "--memscan-side-variants=side_c", "--memscan-side-scales=1"),
            *("--memscan-side-samples=200", "--memscan-side-training=80"),
            *("--memscan-side-clusters=4", "--memscan-side-cohesion=0"),
        ),
        "failed",
    ),
    "prompts": (
        "text-to-image",
        (
            *("--memscan=./my-model", _CAPTIONS, "--memscan-canaries=planted.txt"),
            *("--memscan-steps=2", "--memscan-guidance-scale=1.5"),
        ),
        "passed",
    ),
    "finextract": (
        "text-to-image",
        (
            *("--memscan=./my-lora", "--memscan-base=./my-t2i", "--memscan-train-data=./images"),
            *(_CAPTIONS, "--memscan-budget=40img", "--memscan-steps=3"),
            "--memscan-copy-rate=0.3",
        ),
        "passed",
    ),
}
ASKED = {
    "side": {"side"},
    "prompts": {"prompts", "extended_side"},
    "finextract": {"finextract"},
}
# Models that are scanned whole, since the next command needs what the scan leaves behind.
WHOLE = {
    name: ("--memscan-scans=carlini", "--memscan-budget=320img", "--memscan-steps=3")
    for name in ("./v1", "./v2")
}
# SSCD's weights may not be fetched by a test; the last of two options wins.
STAND_IN = "builtin:copy"


def world_of(block: Block, command: Command | None = None) -> str:
    """Which folder of stand-ins a block is about."""
    text = block.text if command is None else command.text
    if "python -m pytest_memscan.index" in block.text:
        return "large"
    prompted = any(word in text for word in ("-prompts", "-canaries", "-base ", "lora"))
    if prompted or block.page == "docs/text-to-image.md":
        return "text-to-image"
    return "unconditional"


def run_block(
    block: Block,
    *,
    places: Places,
    pytester: pytest.Pytester,
    not_run: Collection[str],
    refused: Collection[str],
) -> None:
    """Run the commands of a block one after the other, but for those that cannot be run."""
    for command in commands_of(block):
        if command.text in not_run:
            continue
        link_into(pytester.path, places.folders[world_of(block, command)])
        words = command.words
        if words[0] == "pytest":
            is_refused = command.text in refused
            run_pytest(words[1:], places=places, pytester=pytester, is_refused=is_refused)
            continue
        assert words[:2] == ["python", "-m"], f"{command}: nobody knows how to run this"
        _run_module(words[2], words[3:], folder=pytester.path)


def run_pytest(
    arguments: list[str], *, places: Places, pytester: pytest.Pytester, is_refused: bool
) -> None:
    """The command as a user's, up to the checkpoint's own check."""
    runs_itself = ("--collect-only", "--memscan-show-policy")
    whole = [WHOLE[each] for each in arguments if each in WHOLE]
    is_vetted = not whole and not any(
        each in runs_itself or "memscan::" in each for each in arguments
    )
    if "sscd" in arguments:
        arguments = [*arguments, f"--memscan-descriptor={STAND_IN}"]
    with _hub(places, arguments, pytester.path):
        options = (*(VETTED if is_vetted else CHEAP), *itertools.chain(*whole))
        result = pytester.runpytest_inprocess(*options, *arguments)
    output = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in output
    if is_refused:
        assert result.ret == pytest.ExitCode.USAGE_ERROR, output
        return
    assert result.ret != pytest.ExitCode.USAGE_ERROR, output
    if "--memscan-show-policy" in arguments:
        return
    outcomes = result.parseoutcomes()
    assert not outcomes.keys() & {"failed", "errors", "error"}, output
    assert not is_vetted or outcomes.get("passed") == 1, output


@contextlib.contextmanager
def _hub(places: Places, arguments: list[str], folder: Path) -> Iterator[None]:
    """A local Hub, where a command names something on it."""
    if not any("org/" in each for each in arguments):
        yield
        return
    from huggingface_hub import constants

    with HubServer.running() as hub, pytest.MonkeyPatch.context() as patch:
        for name, files in places.models.items():
            repo = hub.add(name, files)
            repo.branches["revision"] = repo.branches["main"]
        for name, files in places.datasets.items():
            hub.add_dataset(name, files)
        # It reads these from the environment when it is imported, which was long ago.
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        yield


def _run_module(name: str, arguments: list[str], *, folder: Path) -> None:
    """``python -m NAME``; the one that only renders is started as users start it."""
    if "sscd" in arguments:
        arguments = [*arguments, "--descriptor", STAND_IN]
    command = [sys.executable, "-m", name, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def own_tests(block: Block) -> list[str]:
    """Names of the tests in a block of Python."""
    return re.findall(r"^def (test_\w+)", block.text, re.MULTILINE)


def run_own_tests(block: Block, *, places: Places, pytester: pytest.Pytester) -> None:
    """Run tests of a user's own, each on a scan that it is about; no line may be wrong."""
    file = pytester.makepyfile(test_release=block.text)
    functions = {each: _source(block.text, each) for each in own_tests(block)}
    for kind, (world, options, outcome) in SCANNED.items():
        names = [name for name, source in functions.items() if _kind(source) == kind]
        if not names:
            continue
        link_into(pytester.path, places.folders[world])
        result = pytester.runpytest_inprocess(
            *CHEAP, *options, *(f"{file.name}::{name}" for name in names), "-k", "test_"
        )
        output = result.stdout.str()
        assert result.parseoutcomes().get(outcome) == len(names), output
        assert "Error" not in output.replace("AssertionError", "")


def _source(text: str, name: str) -> str:
    found = re.search(rf"^def {name}\b.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def _kind(source: str) -> str:
    code = re.sub(r"#.*", "", source)
    asked = set(re.findall(r"memscan\.(\w+)\(", code))
    for kind, scans in ASKED.items():
        if asked & scans:
            return kind
    return "plain"


def sample_report(folder: Path) -> None:
    """A stored report, where a page speaks of one that is there already."""
    from unit.reports import samples

    from pytest_memscan.reports.json import to_json

    (folder / ".memscan").mkdir(exist_ok=True)
    result = next(iter(samples.every_verdict()))
    (folder / ".memscan" / "report.json").write_text(to_json(result), encoding="utf-8")
