"""Every code block of the README and of the documentation does what it says.

A block that nothing here knows how to check fails; lists below say what cannot be run, and why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoint_factory import save_tiny_checkpoint

from pytest_memscan.concept_sets import read_set
from pytest_memscan.config import resolve_config

from .blocks import PLAIN, ROOT, Block, blocks, commands_of
from .places import Places, link_into
from .running import own_tests, run_block, run_own_tests, sample_report, world_of

BLOCKS = blocks()
CONSOLE = ("console", "bash", "sh", "shell")

# Command -> why no test runs it.
_PYPI = "installs from PyPI"
_NETWORK = "fetches from the network; tests/unit/similarity does it from a local server"
_DOWNLOAD = "python -m pytest_memscan.similarity.convert --download"
_PLACEHOLDER = "names a file that only the reader has; tests/unit/similarity makes such files"
_LONG = "takes many minutes; tests/benchmarks run the same code"
NOT_RUN = {
    "make demo": _PYPI,
    "make test": _PYPI + ", and is what runs this test",
    "pip install .": _PYPI,
    "pip install pdqhash ImageHash": _PYPI,
    "python docs/copy_detection.py cifar10_10k.npz dreambooth/": "needs photographs",
    f"{_DOWNLOAD} sscd_disc_mixup": _NETWORK,
    f"{_DOWNLOAD} sscd_disc_large --sha256 HASH": _NETWORK,
    "python -m pytest_memscan.similarity.convert sscd_disc_mixup.torchscript.pt": _PLACEHOLDER,
    "python -m pytest_memscan.similarity.convert sscd_disc_mixup.classy.pt --sha256 HASH": (
        _PLACEHOLDER
    ),
    "MEMSCAN_SSCD_DIR=/models/sscd pytest --memscan ... --memscan-descriptor sscd": _PLACEHOLDER,
    "export OMP_NUM_THREADS=1 PYTHONPATH=tests": "not a program",
    "python -m benchmarks.matching 2000 50000 3072 3": _LONG,
    "python -m benchmarks.cosine 10000 50000 512 10 3": _LONG,
    "python -m benchmarks.memory 100000 1000000": _LONG,
    "python -m benchmarks.indexing 4096 64": _LONG,
    "python -m benchmarks.indexing 1024 64 --descriptor builtin:copy --repeats 2": _LONG,
}
# Indented blocks that are for a shell all the same, by their first line.
INDENTED_COMMANDS = ("pip install pdqhash ImageHash", "export OMP_NUM_THREADS=1 PYTHONPATH=tests")
# First lines of texts that are no output of a command.
NO_OUTPUT = {
    "my-images/metadata.jsonl:": "a file",
    "negatives   48 x 10 x B T": "a formula",
}
# Commands that are refused, as the page says.
REFUSED = ("pytest --memscan ./my-model --memscan-train-data ./images "
           "--memscan-fail 'leak_rate <= 0.001'",)  # fmt: skip


def _of(*languages: str) -> list[Any]:
    return [pytest.param(each, id=str(each)) for each in BLOCKS if each.language in languages]


def _console() -> list[Any]:
    found = [
        each
        for each in BLOCKS
        if each.language in CONSOLE or (each.language == PLAIN and each.first in INDENTED_COMMANDS)
    ]
    return [pytest.param(each, id=str(each)) for each in found]


def test_every_block_is_of_a_language_that_is_checked() -> None:
    known = {PLAIN, "text", "python", "toml", "yaml", "json", *CONSOLE}
    unknown = [f"{each} is {each.language!r}" for each in BLOCKS if each.language not in known]
    assert not unknown
    fenced = [str(each) for each in BLOCKS if each.language == PLAIN and _is_fenced(each)]
    assert not fenced, "say which language it is"


def _is_fenced(block: Block) -> bool:
    lines = (ROOT / block.page).read_text(encoding="utf-8").splitlines()
    return lines[block.line - 1].lstrip().startswith(("```", "~~~"))


def test_what_is_not_run_is_still_there() -> None:
    console = [each.values[0] for each in _console()]
    there = {command.text for block in console for command in commands_of(block)}
    assert set(NOT_RUN) <= there
    assert {each.first for each in BLOCKS} >= {*INDENTED_COMMANDS, *NO_OUTPUT}


def test_a_command_that_nobody_knows_how_to_run_fails(
    places: Places, pytester: pytest.Pytester
) -> None:
    block = Block("docs/new.md", 1, "console", "python -m pytest_memscan.new ./images\n")
    with pytest.raises(AssertionError, match="No module named"):
        run_block(block, places=places, pytester=pytester, not_run=(), refused=())
    block = Block("docs/new.md", 1, "console", "curl --silent example.com\n")
    with pytest.raises(AssertionError, match="nobody knows how to run this"):
        run_block(block, places=places, pytester=pytester, not_run=(), refused=())


@pytest.mark.parametrize("block", _console())
def test_commands_are_accepted_with_all_their_files(
    block: Block, places: Places, pytester: pytest.Pytester
) -> None:
    sample_report(pytester.path)
    run_block(block, places=places, pytester=pytester, not_run=NOT_RUN, refused=REFUSED)


@pytest.mark.parametrize("block", _of("python"))
def test_python_runs(
    block: Block, places: Places, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    if own_tests(block):
        run_own_tests(block, places=places, pytester=pytester)
        return
    monkeypatch.chdir(pytester.path)
    link_into(pytester.path, places.folders[world_of(block)])
    sample_report(pytester.path)
    for folder in ("my-model", "images"):  # which the tutorial makes
        (pytester.path / folder).rename(pytester.path / f"other-{folder}")
    (pytester.path / "fixtures").symlink_to(ROOT / "fixtures")
    if '"old"' in block.text:
        _write_pickled(pytester.path / "old")
    exec(compile(block.text, str(block), "exec"), {})  # noqa: S102


def _write_pickled(folder: Path) -> None:
    """A checkpoint of the kind that is refused, for the lines that convert it."""
    from diffusers import DDPMPipeline

    source = save_tiny_checkpoint(folder.with_name("safe"))
    DDPMPipeline.from_pretrained(source).save_pretrained(folder, safe_serialization=False)


@pytest.mark.parametrize("block", _of("toml"))
def test_toml_is_a_policy_or_a_set(block: Block, tmp_path: Path, places: Places) -> None:
    link_into(tmp_path, places.folders["text-to-image"])
    if "[[concept]]" in block.text:
        file = tmp_path / "concepts.toml"
        file.write_text(block.text, encoding="utf-8")
        concepts = read_set(str(file))
        assert [each.caption for each in concepts] == re.findall(
            r'^prompt = "(.+?)"', block.text, re.M
        )
        return
    name = "pyproject.toml" if "[tool.memscan]" in block.text else "memscan.toml"
    (tmp_path / name).write_text(block.text, encoding="utf-8")
    options: Any = _NoOptions(model="builtin:leaky")
    config = resolve_config(options, ini={}, rootdir=tmp_path, invocation_dir=tmp_path)
    given = re.findall(r"^(\w+) = ", block.text.partition("[[")[0], re.M)
    assert given or config.waivers
    for key in given:
        assert config.sources.get(key, ("", name))[1] == name


class _NoOptions(dict[str, Any]):
    """A command line with the model alone."""

    def __missing__(self, key: str) -> None:
        return None


@pytest.mark.parametrize("block", _of("json"))
def test_json_is_read_by_what_reads_it(block: Block, tmp_path: Path) -> None:
    content = json.loads(block.text)
    if "file_name" in content:
        from image_factory import save_images

        from pytest_memscan.data.prompts import parse_prompt_source, read_prompts

        save_images(tmp_path / "images", 2)
        (tmp_path / "images" / "000.png").rename(tmp_path / "images" / content["file_name"])
        (tmp_path / "images" / "metadata.jsonl").write_text(block.text, encoding="utf-8")
        source = parse_prompt_source("images", base=tmp_path)
        assert content["text"] in read_prompts(source, offline=True).prompts
        return
    from pytest_memscan.reports.json import json_schema

    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(content, json_schema())


@pytest.mark.parametrize("block", _of("yaml"))
def test_yaml_is_a_workflow_or_part_of_one(block: Block) -> None:
    content = yaml.safe_load(block.text)
    assert content
    steps = list(_steps(content))
    assert steps or "model-index" in content or "on" in content or True in content
    for step in steps:
        assert ("uses" in step) != ("run" in step), step


def _steps(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, dict):
        for job in content.get("jobs", {}).values():
            yield from job.get("steps", [])
        yield from content.get("steps", [])
    elif isinstance(content, list):
        yield from content


@pytest.mark.parametrize("block", _of("text"))
def test_outputs_are_worded_as_the_program_words_them(block: Block) -> None:
    if block.first in NO_OUTPUT:
        return
    unknown = _words(block.text) - _vocabulary()
    assert not unknown


def _words(text: str) -> set[str]:
    """Words of an output, without names of files and findings."""
    plain = re.sub(r"\S*[./#@:\d]\S*", " ", text)
    plain = re.sub(r"\n.*reason.*|\n    \w.*", " ", plain)
    return set(re.findall(r"[A-Za-z]{3,}", plain))


@cache
def _vocabulary() -> set[str]:
    """Every word that stands in the program, and those of pytest's own lines."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "pytest_memscan").rglob("*.py"))
    words = set(re.findall(r"[A-Za-z]{3,}", "\n".join(sources)))
    return words | {each.upper() for each in words} | {"ERROR", "DDIMScheduler"}


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_numbers_of_the_built_in_checkpoints_are_those_that_were_measured(page: str) -> None:
    measured = (ROOT / "docs" / "fixtures.md").read_text(encoding="utf-8")
    lines = re.findall(
        r"^(extracted|leak_rate|extractable_images) +(\S+(?: %)?) +(exact|\[.*?\])",
        (ROOT / page).read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(lines) >= 6
    for name, value, bounds in lines:
        shown = value if bounds == "exact" else f"{value} {bounds}"
        assert f"| {shown} " in measured, (name, shown)
