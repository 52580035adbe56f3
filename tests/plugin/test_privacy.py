"""Neither a token nor where somebody keeps their images reaches anything that is shared."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from checkpoint_factory import save_tiny_checkpoint
from image_factory import save_images
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from pytest_memscan.output_settings import REPORT_FORMATS
from pytest_memscan.reports.pictures import embed

from . import t2i
from .conftest import Gate

TOKEN = "hf_canaryDoNotPrint0123456789"  # noqa: S105  # a marker, not a token
STORED = "hf_canaryStoredByLogin987654321"  # likewise, in the file of `hf auth login`
LOUD = ("-l", "-vv", "--showlocals", "-rA", "--tb=long", "--junitxml=junit.xml")
REPORTS = tuple(f"--memscan-report={kind}" for kind in REPORT_FORMATS)
# Folders, a file name, a comment within a picture: parts of private places and contents.
MARKERS = ("customer-canary", "model-canary", "cache-canary", "name-canary", "chunk-canary")
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder whose place is nobody's business."""
    return tmp_path / "customer-canary" / "portraits"


def shared(folder: Path, *outputs: str) -> dict[str, str]:
    """Everything that people upload or paste: output, reports, logs, with pictures decoded."""
    texts = {f"output {number}": text for number, text in enumerate(outputs)}
    for file in [*folder.glob(".memscan/*"), *folder.glob("*.xml"), *folder.glob("*.log")]:
        texts[file.name] = file.read_text()
        for number, picture in enumerate(PICTURE.findall(texts[file.name])):
            content = base64.b64decode(picture).decode("latin-1")
            texts[f"picture {number} of {file.name}"] = content
    return texts


def assert_private(texts: dict[str, str], *secrets: str) -> None:
    for name, text in texts.items():
        for each in (TOKEN, STORED, *secrets):
            assert each not in text, f"{each} in {name}"


@pytest.mark.parametrize("trouble", ["none", "small", "corrupt", "few", "missing", "bad option"])
def test_a_run_tells_neither_token_nor_folder(
    gate: Gate,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    secret: Path,
    trouble: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    model = save_tiny_checkpoint(tmp_path / "model-canary" / "model")
    if trouble != "missing":
        save_images(secret, 5 if trouble == "few" else 24, size=4 if trouble == "small" else 8)
    if trouble == "corrupt":
        (secret / "000.png").write_bytes(b"x")
    pytester.makepyfile(
        """
        def test_result(memscan_result): assert memscan_result.extracted.value > 99
        def test_scan(memscan): assert memscan.carlini().extracted.value > 99
        def test_images(memscan_train_data): assert memscan_train_data.num_found > 99
        """
    )
    result = gate(
        str(model),
        "--memscan-steps=2",
        f"--memscan-train-data={secret}",
        f"--memscan-cache-dir={tmp_path}/cache-canary",
        *(["--memscan-fail=x"] if trouble == "bad option" else []),
        *LOUD,
    )
    assert result.ret != 0
    texts = shared(pytester.path, result.stdout.str(), result.stderr.str())
    assert_private(texts, "customer-canary", "model-canary", "cache-canary")


def pattern(seed: int = 0) -> NDArray[np.uint8]:
    """16x16 pixels, black and white: nothing of them is left in a mean over 4x4 pixels."""
    half = np.repeat([0, 255], 8)
    rng = np.random.default_rng(seed)
    blocks = [[rng.permutation(half).reshape(4, 4) for _ in range(4)] for _ in range(4)]
    return np.repeat(np.block(blocks)[:, :, None], 3, axis=2).astype(np.uint8)


def correlation(picture: bytes, planted: NDArray[np.uint8]) -> float:
    """Of an embedded picture, brought to the size of the pattern, with the pattern."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").resize(planted.shape[1::-1])
    seen = np.asarray(image, dtype=np.float64).ravel()
    return 0.0 if seen.std() == 0 else abs(float(np.corrcoef(seen, planted.ravel())[0, 1]))


def save_marked_images(folder: Path) -> None:
    """Different pictures, of which one is there twice: its pixels and its comment are marked."""
    save_images(folder, 24, size=16)
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Description", "chunk-canary")
    for number in range(2):
        Image.fromarray(pattern()).save(folder / f"name-canary-{number}.png", pnginfo=comment)


TEST_FILE = """
import logging, os, pathlib, sys, warnings
import pytest

FOLDER = pathlib.Path(os.environ["FOLDER"])

def everything():
    stored = (pathlib.Path(os.environ["HF_HOME"]) / "token").read_text()
    return f"{os.environ['HF_TOKEN']} {stored} {sorted(FOLDER.iterdir())[-1]} {FOLDER.parent}"

def test_fails(request, record_property, memscan_train_data):
    text, environment, typed = everything(), dict(os.environ), request.config.invocation_params
    settings = request.config.option
    folder, token = sorted(FOLDER.iterdir())[-2], os.environ["HF_TOKEN"]
    print(text); print(text, file=sys.stderr)
    logging.getLogger("user").error("logged %s", text)
    warnings.warn("warned " + text)
    record_property("sent", text)
    assert text == [token, folder], text

@pytest.fixture
def broken():
    yield everything()
    raise RuntimeError(everything())

@pytest.mark.parametrize("text", [os.environ["HF_TOKEN"]])
def test_of(text): assert not text

def test_skipped(): pytest.skip("skipped " + everything())
def test_expected(): pytest.xfail("expected " + everything())
def test_torn_down(broken): print(everything())
def test_native():
    import subprocess
    subprocess.run(["true"], check=True, env={})
    raise ExceptionGroup("several", [ValueError(everything())])
"""
INTERNAL_ERROR = """
def HOOK:
    import os
    token, folder = os.environ["HF_TOKEN"], os.environ["FOLDER"]
    if CONDITION:
        raise SystemError(f"internal error at {folder} with {token}")
"""
AT_THE_END = INTERNAL_ERROR.replace("HOOK", "pytest_runtest_logfinish(nodeid)").replace(
    "CONDITION", "nodeid == 'memscan::status'"
)
AT_THE_START = INTERNAL_ERROR.replace("HOOK", "pytest_collection_finish()").replace(
    "CONDITION", "folder"
)
CONFTEST = """
import os

def pytest_collection_finish():
    import pytest_memscan.scans.carlini
    pytest_memscan.scans.carlini.carlini = broken

def broken(*args, **kwargs):
    token = os.environ["HF_TOKEN"]
    print("sent", token)
    image = max(os.listdir(os.environ["FOLDER"]))
    raise SystemError(f"broken at {os.environ['FOLDER']}/{image} with {token}")

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line("summary of " + os.environ["HF_TOKEN"])
"""


@dataclass(frozen=True)
class Loud:
    """A run in which everything goes wrong, as loudly as it can; under xdist pytest itself too."""

    folder: Path
    code: int
    output: str
    error: str


@pytest.fixture(scope="module", params=[(), ("-n1",)], ids=["alone", "xdist"])
def loud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loud:
    folder = tmp_path_factory.mktemp("run")
    private = tmp_path_factory.mktemp("private")
    images = private / "customer-canary" / "portraits"
    save_marked_images(images)
    model = save_tiny_checkpoint(private / "model-canary" / "model", size=16)
    (private / "hub").mkdir()
    (private / "hub" / "token").write_text(STORED)
    (folder / "test_user.py").write_text(TEST_FILE)
    (folder / "test_broken.py").write_text(f"{TEST_FILE}\nhere = everything()\nraise OSError(here)")
    internal_error = AT_THE_END if request.param else ""
    (folder / "conftest.py").write_text(CONFTEST + internal_error)
    (folder / "pytest.ini").write_text("[pytest]\njunit_family = legacy\n")
    names = {"HF_TOKEN": TOKEN, "HF_HOME": str(private / "hub"), "FOLDER": str(images)}
    command = (
        *("--memscan", str(model), f"--memscan-train-data={images}"),
        *("--memscan-budget=8img", "--memscan-steps=2", "--memscan-batch-size=8"),
        *("--memscan-fail=extracted <= 0", "--memscan-scans=carlini", "--memscan-offline"),
        *(f"--memscan-cache-dir={private}/cache-canary", *REPORTS, *LOUD, *request.param),
        *("-p", "no:cacheprovider", "--log-file=run.log", "--continue-on-collection-errors"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *command],
        cwd=folder,
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Loud(folder=folder, code=done.returncode, output=done.stdout, error=done.stderr)


def test_a_run_in_which_everything_goes_wrong_tells_nothing(loud: Loud) -> None:
    assert loud.code == (3 if "INTERNALERROR" in loud.output else 1), loud.output + loud.error
    texts = shared(loud.folder, loud.output, loud.error)
    assert {f"report.{kind}" for kind in ("json", "html", "sarif", "md")} <= set(texts)
    assert {"model-card.yml", "junit.xml", "run.log"} <= set(texts)
    assert_private(texts, *MARKERS)


def test_what_went_wrong_is_told_all_the_same(loud: Loud) -> None:
    everything = "(token) (token) .../portraits/(file) ..."
    junit = (loud.folder / "junit.xml").read_text()
    is_whole = loud.code == pytest.ExitCode.TESTS_FAILED
    shown = loud.output if is_whole else loud.output + junit  # else pytest shows no failures
    assert is_whole or "internal error at .../portraits with (token)" in loud.output
    for said in (
        "broken at .../portraits/(file) with (token)",
        f"ValueError: {everything}",
        f"OSError: {everything}",
    ):
        assert said in shown, said
    if is_whole:
        for said in ("warned", "skipped", "expected"):
            assert f"{said} {everything}" in shown
        assert "summary of (token)" in shown
    assert f"logged {everything}" in (loud.folder / "run.log").read_text()
    assert f'name="sent" value="{everything}"' in junit
    assert "test_of[(token)]" in junit
    report = json.loads((loud.folder / ".memscan" / "report.json").read_text())
    assert report["verdict"] == "error"


def test_an_error_of_pytest_itself_tells_nothing(
    gate: Gate, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, secret: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("FOLDER", str(secret))
    pytester.makeconftest(AT_THE_START)
    model = save_tiny_checkpoint(pytester.path / "model")
    train_data = f"--memscan-train-data={save_images(secret)}"
    result = gate(str(model), train_data, *LOUD)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    assert "internal error at .../portraits with (token)" in result.stdout.str()
    assert_private(shared(pytester.path, result.stdout.str(), result.stderr.str()), *MARKERS)


def test_no_embedded_picture_gives_a_training_image_back(loud: Loud) -> None:
    clear = PICTURE.findall(embed(pattern(), images="clear").uri)
    assert correlation(base64.b64decode(clear[0]), pattern()) > 0.9  # it would be seen
    pictures = PICTURE.findall((loud.folder / ".memscan" / "report.html").read_text())
    assert pictures  # of the group of duplicates
    for picture in pictures:
        assert correlation(base64.b64decode(picture), pattern()) < 0.2


def test_prompts_and_planted_strings_are_told_by_their_lines(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A conftest breaks the scan; its message and its locals hold both lists."""
    lists = {"prompts": "a portrait of prompt-canary at sea", "canaries": "planted-canary qwx"}
    for name, text in lists.items():
        (tmp_path / f"{name}.txt").write_text(f"{text}\n{text} again\n")
    monkeypatch.setenv("LISTS", str(tmp_path))
    source = """
        import os, pathlib
        import pytest_memscan.prompt_scanning as module

        def broken(*args, **kwargs):
            texts = [each.read_text() for each in pathlib.Path(os.environ["LISTS"]).glob("*.txt")]
            raise SystemError(f"broken with {texts} " + " ".join(texts))

        """
    pytester.makepyfile(f"{source}\n        def test_it(): broken()")
    pytester.makeconftest(
        f"{source}\n        def pytest_runtest_setup(): module.PromptScanner.scan = broken"
    )
    options = [f"--memscan-{name}={tmp_path}/{name}.txt" for name in lists]
    model = "builtin:leaky-t2i"
    command = t2i.command(model, tmp_path / "cache", *options, *REPORTS, *LOUD)
    result = pytester.runpytest_inprocess(*command)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "broken with" in result.stdout.str()
    texts = shared(pytester.path, result.stdout.str(), result.stderr.str())
    assert_private(texts, "prompt-canary", "planted-canary")


def test_evidence_goes_to_its_folder_and_nowhere_else(
    gate: Gate, pytester: pytest.Pytester, tmp_path: Path, secret: Path
) -> None:
    folder = tmp_path / "evidence"
    result = gate("builtin:leaky", f"--memscan-evidence={folder}", *REPORTS)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (own,) = folder.iterdir()
    assert str(own) in result.stdout.str()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(own.stat().st_mode) == 0o700
    findings = json.loads((own / "manifest.json").read_text())["findings"]
    files = {own / each["file"] for each in findings}
    assert files == set(own.glob("*.png"))
    report = json.loads((pytester.path / ".memscan" / "report.json").read_text())
    carlini = next(check for check in report["checks"] if check["name"] == "carlini")
    seeds = {each["sample_id"] for each in carlini["scan"]["findings"]}  # the first row has seed 0
    assert {each["seed"] for each in findings if each["check"] == "carlini"} == seeds
    assert all(each["train_file"] for each in findings if "train" in each)
    assert not list(pytester.path.rglob("*.png"))
    texts = shared(pytester.path)
    assert_private(texts, str(folder), own.name)


def test_evidence_is_refused_where_reports_go_before_anything_runs(gate: Gate) -> None:
    result = gate("builtin:clean", "--memscan-evidence=.memscan/evidence")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--memscan-evidence .memscan/evidence lies with the report" in result.stderr.str()
