"""What ``pytest --memscan X`` must do in every situation a user may bring it to."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_factory import save_tiny_checkpoint

from .conftest import QUICK, Gate, read_report

IDS = [
    "memscan::integrity",
    "memscan::duplicates",
    "memscan::carlini",
    "memscan::splitting",
    "memscan::status",
]


def test_in_an_empty_folder_the_gate_alone_is_collected_and_fails(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    result = gate("builtin:leaky")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "memscan: builtin:leaky",
            "collected 4 items",
            "*memscan carlini*",
            "memscan: fail: extracted is *, over the limit of 0",
            "memscan: FAIL builtin:leaky (extracted * > 0)",
        ]
    )
    assert read_report(pytester.path)["verdict"] == "fail"


def test_a_clean_checkpoint_passes_with_exit_code_0(gate: Gate, pytester: pytest.Pytester) -> None:
    result = gate("builtin:clean")
    assert result.ret == pytest.ExitCode.OK
    assert read_report(pytester.path)["verdict"] == "pass"
    result.stdout.fnmatch_lines(["memscan: PASS builtin:clean*"])


def test_the_gate_runs_after_a_repositorys_own_tests(gate: Gate, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_own="def test_own(): pass")
    result = gate("builtin:leaky", "-v")
    result.assert_outcomes(passed=4, failed=1)
    lines = [line for line in result.outlines if "PASSED" in line or "FAILED " in line]
    assert "test_own" in lines[0]


@pytest.mark.parametrize(
    ("expression", "passed", "failed"), [("memscan", 3, 1), ("not memscan", 1, 0)]
)
def test_the_marker_selects_the_gate(
    gate: Gate, pytester: pytest.Pytester, expression: str, passed: int, failed: int
) -> None:
    pytester.makepyfile(test_own="def test_own(): pass")
    gate("builtin:leaky", "-m", expression).assert_outcomes(
        passed=passed, failed=failed, deselected=5 - passed - failed
    )


def test_memscan_only_imports_no_test_module(gate: Gate, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_broken="raise RuntimeError('imported')")
    assert gate("builtin:clean").ret == pytest.ExitCode.INTERRUPTED
    result = gate("builtin:clean", "--memscan-only")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)


def test_naming_a_test_file_still_adds_the_gate(gate: Gate, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a="def test_a(): pass", test_b="def test_b(): assert False")
    gate("builtin:clean", "test_a.py").assert_outcomes(passed=5)


@pytest.mark.parametrize(
    "deselect",
    [
        ("-k", "test_own"),
        ("-m", "not memscan"),
        tuple(f"--deselect={each}" for each in IDS),
    ],
)
def test_a_deselected_gate_says_not_run(
    gate: Gate,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    deselect: tuple[str, ...],
) -> None:
    pytester.makepyfile(test_own="def test_own(): pass")
    result = gate("builtin:clean", *deselect)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["memscan: NOT RUN builtin:clean*"])
    assert read_report(pytester.path)["verdict"] == "not_run"

    monkeypatch.setenv("CI", "true")
    result = gate("builtin:clean", *deselect)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert read_report(pytester.path)["verdict"] == "not_run"


def test_one_selected_check_is_not_a_verdict(
    gate: Gate, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    result = gate("builtin:clean", "memscan::integrity")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert read_report(pytester.path)["verdict"] == "not_run"


def test_a_gate_that_somebody_skips_is_red(gate: Gate, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.skip(reason="annoying"))
        """
    )
    result = gate("builtin:clean")
    result.assert_outcomes(skipped=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert read_report(pytester.path)["verdict"] == "not_run"


def test_a_gate_that_somebody_expects_to_fail_is_red(gate: Gate, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.xfail)
        """
    )
    result = gate("builtin:leaky")
    result.assert_outcomes(xfailed=1, xpassed=3)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert read_report(pytester.path)["verdict"] == "fail"


def test_stopping_at_a_users_failure_leaves_the_gate_not_run(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_own="def test_own(): assert False")
    result = gate("builtin:clean", "-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert read_report(pytester.path)["verdict"] == "not_run"


def test_a_missing_gpu_is_an_error_at_setup_and_never_a_skip(
    gate: Gate, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = gate("builtin:clean", "--memscan-device=cuda", subprocess=True)
    result.assert_outcomes(errors=4)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ERROR at setup of memscan status*", "*--memscan-device*"])
    assert read_report(pytester.path)["verdict"] == "error"


def test_a_checkpoint_without_weights_never_passes(
    gate: Gate, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    folder = save_tiny_checkpoint(tmp_path / "model")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    result = gate(str(folder), "--memscan-train-data", str(tmp_path))
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR)
    assert read_report(pytester.path)["verdict"] in ("not_run", "error")


@pytest.mark.parametrize(
    "switch_off",
    [("-p", "no:memscan"), ("-p", "no:pytest_memscan.plugin", "-p", "no:memscan")],
)
def test_without_the_plugin_the_option_is_unknown(
    pytester: pytest.Pytester, switch_off: tuple[str, ...]
) -> None:
    result = pytester.runpytest_subprocess(*switch_off, "--memscan", "builtin:clean")
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_collect_only_lists_ids_without_torch_or_network(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import socket, sys
        def refuse(*args, **kwargs): raise AssertionError("network used")
        socket.socket.connect = refuse
        def pytest_unconfigure():
            heavy = {"torch", "diffusers", "transformers", "huggingface_hub"} & set(sys.modules)
            print("HEAVY", sorted(heavy))
        """
    )
    result = pytester.runpytest_subprocess(
        "--memscan", "org/some-model@main", "--memscan-train-data=x", "--collect-only", "-q"
    )
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines([*IDS, "HEAVY []"])
    assert read_report(pytester.path)["verdict"] == "not_run"


@pytest.mark.parametrize("mode", ["load", "loadscope", "each", "worksteal"])
def test_under_xdist_there_is_one_scan_and_one_report(
    pytester: pytest.Pytester, tmp_path: Path, mode: str
) -> None:
    result = pytester.runpytest_subprocess(
        "--memscan=builtin:leaky",
        *QUICK,
        f"--memscan-cache-dir={tmp_path}",
        "-n2",
        f"--dist={mode}",
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["memscan: FAIL builtin:leaky (extracted * > 0)"])
    report = read_report(pytester.path)
    assert report["verdict"] == "fail"
    stores = list((tmp_path / "generated").iterdir())
    assert len(stores) == 1
    assert len(list(stores[0].rglob("planned/**/*.png"))) == 8
    assert len(list(pytester.path.glob(".memscan/report.*"))) == 2


def test_xdist_and_one_process_agree(gate: Gate, pytester: pytest.Pytester) -> None:
    gate("builtin:leaky", subprocess=True)
    alone = read_report(pytester.path)
    gate("builtin:leaky", "-n2", subprocess=True)
    together = read_report(pytester.path)
    for report in (alone, together):
        del report["timings"]
    assert alone == together


@pytest.mark.parametrize("again", ["--lf", "--sw"])
def test_failures_can_be_run_again(gate: Gate, pytester: pytest.Pytester, again: str) -> None:
    pytester.makepyfile(test_own="def test_own(): pass")
    gate("builtin:leaky").assert_outcomes(passed=4, failed=1)
    result = gate("builtin:leaky", again)
    assert result.ret != pytest.ExitCode.OK  # --sw stops at the failure: interrupted
    assert result.parseoutcomes()["failed"] == 1
    assert read_report(pytester.path)["verdict"] == "fail"


def test_a_failing_gate_is_not_lost_behind_a_users_failure_with_lf(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_a="def test_a(): assert False", test_b="def test_b(): pass")
    gate("builtin:leaky").assert_outcomes(passed=4, failed=2)
    result = gate("builtin:leaky", "--lf")
    assert result.parseoutcomes()["failed"] == 2


def test_fixtures_without_memscan_skip_with_a_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_x(memscan): memscan.carlini()")
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs --memscan MODEL*"])


def test_without_memscan_nothing_is_shown_or_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        def test_own():
            names = {name.partition(".")[0] for name in sys.modules}
            assert not names & {"torch", "diffusers", "numpy", "huggingface_hub", "pydantic"}
        """
    )
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(passed=1)
    assert "memscan:" not in result.stdout.str()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-p", "no:cacheprovider"),
        ("-W", "error"),
        ("-o", "strict=true"),
        ("-p", "no:terminal"),
        ("--strict-markers", "--strict-config"),
        ("--import-mode=importlib",),
    ],
    ids=" ".join,
)
def test_the_gate_does_not_mind_how_pytest_is_run(gate: Gate, arguments: tuple[str, ...]) -> None:
    assert gate("builtin:clean", *arguments, subprocess="no:terminal" in arguments).ret == 0


def test_with_autoload_off_the_plugin_can_be_named(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = pytester.runpytest_subprocess(
        "-p", "pytest_memscan.plugin", "--memscan=builtin:clean", *QUICK
    )
    assert result.ret == pytest.ExitCode.OK


def test_ids_work_on_the_command_line_beside_a_users_own(
    gate: Gate, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_own="def test_one(): pass\ndef test_two(): pass")
    result = gate("builtin:clean", "memscan::carlini", "test_own.py::test_two")
    result.assert_outcomes(passed=2)


def test_an_unknown_id_is_named(gate: Gate) -> None:
    result = gate("builtin:clean", "memscan::carlino")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*memscan::carlino*memscan::carlini*"])
