"""The built-in list: what it may hold, and that it is read as one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest_memscan.data
from pytest_memscan.data.negatives import recombined
from pytest_memscan.data.prompts import (
    PROBE,
    check_prompt_source,
    parse_prompt_source,
    read_prompts,
)

FILE = Path(pytest_memscan.data.__file__).with_name("probe_prompts.txt")
LINES = FILE.read_text(encoding="utf-8").splitlines()
PROMPTS = [line for line in LINES if line and not line.startswith("#")]


def test_the_list_is_short_and_its_prompts_too() -> None:
    assert 220 <= len(PROMPTS) <= 260
    assert max(len(prompt.split()) for prompt in PROMPTS) <= 12
    assert max(map(len, PROMPTS)) <= 80


def test_no_prompt_comes_twice_and_none_has_anything_to_strip() -> None:
    assert len({" ".join(prompt.casefold().split()) for prompt in PROMPTS}) == len(PROMPTS)
    assert all(prompt == " ".join(prompt.split()) and prompt.isprintable() for prompt in PROMPTS)


def test_every_group_has_a_heading_and_prompts() -> None:
    groups = re.split(r"\n\n", FILE.read_text(encoding="utf-8").strip())
    assert all(line.startswith("#") for line in groups[0].splitlines())
    for group in groups[1:]:
        heading, *prompts = group.splitlines()
        assert heading.startswith("# ")
        assert len(prompts) >= 9
        assert not any(prompt.startswith("#") for prompt in prompts)


def test_the_list_is_read_without_its_headings() -> None:
    source = parse_prompt_source("builtin:probe", Path())
    check_prompt_source(source)
    found = read_prompts(source, offline=True)
    assert source == PROBE
    assert found.prompts == tuple(PROMPTS)
    assert found.coverage.is_probe
    assert found.coverage.origin == "built-in probe list"
    assert found.coverage.num_found == found.coverage.num_used == len(PROMPTS)
    assert not found.coverage.dropped
    assert found.is_whole
    assert LINES[int(found.places[-1].removeprefix("line ")) - 1] == found.prompts[-1]


def test_enough_negatives_can_be_made_of_it() -> None:
    assert len(recombined(PROMPTS, 1000, seed=0)) == 1000
