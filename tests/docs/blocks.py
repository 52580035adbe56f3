"""Code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
# Formulae and the like: set off from the text, and not for any machine.
PLAIN = ""


@dataclass(frozen=True)
class Block:
    """A fenced or indented block."""

    page: str  # as in docs/tutorial.md
    line: int
    language: str  # as behind the fence; "" of an indented block
    text: str

    @property
    def first(self) -> str:
        """Its first line, by which lists in the tests know it."""
        return self.text.strip().splitlines()[0].strip()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """The README and every page that is kept in the repository."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks() -> list[Block]:
    """All of them, in the order of the pages."""
    return [block for page in pages() for block in _blocks_of(page)]


def _blocks_of(page: Path) -> Iterator[Block]:
    name = page.relative_to(ROOT).as_posix()
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language = token.info.split(" ")[0].strip()
            line = token.map[0] + 1 if token.map else 0
            yield Block(name, line, language, token.content)


@dataclass(frozen=True)
class Command:
    """One command of a console block, on one line and without its comment."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """As a shell splits it."""
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block; where some lines have a prompt, only these are commands."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    words = (shlex.split(line, comments=True) for line in lines)
    return [Command(block.page, shlex.join(each)) for each in words if each]
