"""The documentation site: it builds without a warning, names every option, and fetches nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from pytest_memscan.checks import CHECKS
from pytest_memscan.config_sources import TOML_KEYS
from pytest_memscan.policy import METRICS

from .blocks import ROOT, pages


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed; it comes with the extra 'dev'")
    pytest.importorskip("material", reason="mkdocs-material is not installed; likewise")
    pytest.importorskip("mkdocstrings_handlers.python", reason="mkdocstrings is not; likewise")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def hooks() -> ModuleType:
    """The part of the site that is made from the code."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("memscan_site_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class _Fetched(HTMLParser):
    """Addresses that a browser asks for when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address and given.get("rel") != "canonical":
            self.addresses.append(address)


def test_every_page_is_built_and_fetches_nothing_from_elsewhere(site: Path) -> None:
    built = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    for page in pages()[1:]:
        assert page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() in built
    for name in built:
        parser = _Fetched()
        parser.feed((site / name).read_text(encoding="utf-8"))
        elsewhere = [each for each in parser.addresses if re.match(r"(https?:)?//", each)]
        assert not elsewhere, name


def test_the_reference_has_every_option_metric_key_and_id(site: Path, hooks: ModuleType) -> None:
    reference = site / "reference"
    options = (reference / "options.html").read_text(encoding="utf-8")
    for name, _ in hooks.declared().options:
        assert f"<code>{name}" in options
    metrics = (reference / "metrics.html").read_text(encoding="utf-8")
    for name in (name for names in METRICS.values() for name in names):
        assert f"<code>{name}</code>" in metrics
    keys = (reference / "settings.html").read_text(encoding="utf-8")
    for name in TOML_KEYS:
        assert f"<code>{name}</code>" in keys
    checks = (reference / "checks.html").read_text(encoding="utf-8")
    for name in CHECKS:
        assert checks.count(f"<code>memscan::{name}</code>") >= 2, "say what it checks"
    fixtures = (reference / "fixtures.html").read_text(encoding="utf-8")
    for name in ("Memscan", "CarliniResult", "FinetuneResult", "Estimate"):
        assert name in fixtures


def test_the_reference_groups_every_option(hooks: ModuleType) -> None:
    assert f"### {hooks._OTHER}" not in hooks.options()


def test_pages_name_no_option_that_does_not_exist(hooks: ModuleType) -> None:
    known = {name for name, _ in hooks.declared().options}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?<![\w-])--memscan(?:-[a-z]+(?:-[a-z]+)*)?(?![\w*-])", text))
        assert named <= known, page.name


def test_each_page_has_one_title() -> None:
    for page in pages():
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, page.name


def test_links_of_the_readme_lead_somewhere() -> None:
    text = pages()[0].read_text(encoding="utf-8")
    links = [*re.findall(r"\]\(([^)]+)\)", text), *re.findall(r'(?:src|srcset)="([^"]+)"', text)]
    inside = {each.partition("#")[0] for each in links if not each.startswith("http")}
    assert len(inside) > 10
    assert not [each for each in sorted(inside) if not (ROOT / each).is_file()]
