"""Neither a token nor where somebody keeps their images reaches anything that is shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_factory import save_tiny_checkpoint
from image_factory import save_images

from .conftest import Gate

TOKEN = "hf_canaryDoNotPrint0123456789"  # noqa: S105  # a marker, not a token
LOUD = ("-l", "-vv", "--showlocals", "-rA", "--tb=long", "--junitxml=junit.xml")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder whose place is nobody's business."""
    return tmp_path / "customer-canary" / "portraits"


def shared(result: pytest.RunResult, folder: Path) -> dict[str, str]:
    """Everything that people upload or paste: output and reports."""
    texts = {"stdout": result.stdout.str(), "stderr": result.stderr.str()}
    for file in [*folder.glob(".memscan/*"), *folder.glob("*.xml")]:
        texts[file.name] = file.read_text()
    return texts


def assert_private(result: pytest.RunResult, folder: Path, *secrets: str) -> None:
    for name, text in shared(result, folder).items():
        for each in (TOKEN, *secrets):
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
    assert_private(result, pytester.path, "customer-canary", "model-canary", "cache-canary")


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["alone", "xdist"])
def test_an_error_nobody_expected_tells_neither_token_nor_folder(
    gate: Gate,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    secret: Path,
    arguments: tuple[str, ...],
) -> None:
    """A conftest breaks the reading of images; its message and its locals hold both secrets."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    save_images(secret)
    pytester.makeconftest(
        """
        import os
        import PIL.Image

        def broken(*args, **kwargs):
            token = os.environ["HF_TOKEN"]
            print("sent", token)
            raise SystemError(f"broken at {FOLDER} with {token}")

        def pytest_collection_finish():
            import pytest_memscan.data.images
            pytest_memscan.data.images.decode = broken
        """.replace("FOLDER", repr(str(secret)))
    )
    result = gate(
        "builtin:clean", f"--memscan-train-data={secret}", *LOUD, *arguments, subprocess=True
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "broken at .../portraits with (token)" in result.stdout.str()
    assert_private(result, pytester.path, "customer-canary")
