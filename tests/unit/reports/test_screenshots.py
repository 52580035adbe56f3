"""What people see: the report in a real browser, light and dark, wide and narrow.

``SCREENSHOTS_DIR=FOLDER`` keeps the pictures, and takes all of them; without it a few are
taken and thrown away.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from unit.reports import rich_samples, samples

from pytest_memscan.reports.html import to_html

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
FOLDER = os.environ.get("SCREENSHOTS_DIR")
SCHEMES = {"dark": 0, "light": 1}  # as Blink counts them
HEIGHTS = {"rich": 2400, "pass": 900, "inconclusive": 900}
WIDE, NARROW = 1280, 400

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser is installed: looked for {', '.join(BROWSERS)}"
)

FEW = [("rich", WIDE, "light"), ("rich", NARROW, "dark"), ("pass", NARROW, "light")]
ALL = [(name, width, scheme) for name in HEIGHTS for width in (WIDE, NARROW) for scheme in SCHEMES]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a report for each name."""
    folder = tmp_path_factory.mktemp("pages")
    rich = rich_samples.rich()
    reports = {
        "rich": to_html(rich, rich_samples.pairs(rich), images="blurred"),
        "pass": to_html(samples.passed(), samples.pairs(samples.passed()), images="blurred"),
        "inconclusive": to_html(samples.inconclusive(), [], images="blurred"),
    }
    for name, page in reports.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("name", "width", "scheme"), ALL if FOLDER else FEW)
def test_a_report_is_a_picture_of_the_right_size_and_brightness(
    name: str, width: int, scheme: str, pages: Path, tmp_path: Path
) -> None:
    folder = Path(FOLDER) if FOLDER else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    shot = folder / f"{name}-{width}-{scheme}.png"
    size = f"--window-size={width},{HEIGHTS[name]}"
    browse(pages / f"{name}.html", size, f"--screenshot={shot.resolve()}", scheme=scheme)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape == (HEIGHTS[name], width, 3)
    page = brightness(pixels[-40:, :8])  # the margin beside the text
    assert page < 40 if scheme == "dark" else page > 230
    assert pixels.std() > 8  # blank pages, and those of an error, have hardly any ink
    assert num_colours(pixels) > (1000 if name == "rich" and width == WIDE else 100)
    # The style sheet is known by its hash: refused, there would be no coloured bar at the top.
    assert np.ptp(pixels[:200].reshape(-1, 3).astype(int), axis=1).max() > 60


def test_nothing_is_wider_than_a_telephone(pages: Path, tmp_path: Path) -> None:
    """With everything unfolded; browsers without a window are never as narrow, frames are."""
    page = (pages / "rich.html").read_text(encoding="utf-8")
    page = re.sub(r"<meta http-equiv=.*?>", "", page).replace("<details>", "<details open>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    measure = (
        "const root = frame.contentDocument.documentElement;"
        "document.title = [root.clientWidth, root.scrollWidth].join(' of ')"
    )
    (tmp_path / "frame.html").write_text(
        f'<iframe id="frame" src="page.html" width="{NARROW}" height="800" '
        f'style="border: 0" onload="{measure}"></iframe>',
        encoding="utf-8",
    )
    dumped = browse(
        tmp_path / "frame.html",
        "--allow-file-access-from-files",
        "--virtual-time-budget=20000",
        "--dump-dom",
        scheme="light",
    )
    title = re.search(r"<title>(.*?)</title>", dumped)
    assert title is not None
    assert title[1] == f"{NARROW} of {NARROW}"


def browse(page: Path, *arguments: str, scheme: str) -> str:
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
            *arguments,
            page.resolve().as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def brightness(pixels: NDArray[np.uint8]) -> float:
    return float(pixels.mean())


def num_colours(pixels: NDArray[np.uint8]) -> int:
    packed = pixels.astype(np.uint32) @ np.array([65536, 256, 1], dtype=np.uint32)
    return len(np.unique(packed))
