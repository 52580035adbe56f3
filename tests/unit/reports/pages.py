"""Looking into an HTML report."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects the tags of a page and checks that they nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())


def embedded(page: str) -> list[NDArray[np.uint8]]:
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def assert_inert(page: str) -> None:
    """One file that asks for nothing, runs nothing, and leads nowhere but to its own headings."""
    parsed = Page(page)
    tags = {tag for tag, _ in parsed.found}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base"})
    assert not re.search(r"https?://|@import|url\(|javascript:", page)
    names = {name for _, attributes in parsed.found for name in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    ids = {each["id"] for _, each in parsed.found if "id" in each}
    assert {(each["href"] or "")[0] for each in parsed.all("a")} == {"#"}
    assert {(each["href"] or "")[1:] for each in parsed.all("a")} <= ids
    assert all((each["src"] or "").startswith("data:image/png;") for each in parsed.all("img"))
    (policy,) = (each["content"] for each in parsed.all("meta") if "http-equiv" in each)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
