"""`pytest --memscan X` on text-to-image checkpoints: what it finds, and what it says of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# pytester forgets modules that a run inside this process imported; torch cannot be imported twice.
import diffusers.pipelines.stable_diffusion
import pytest
import transformers.models.clip

from . import t2i
from .conftest import PRELOADED as PRELOADED_BY_ALL
from .t2i import CANARIES, FIXTURES, IDS, PROMPTS, Run

PRELOADED = (*PRELOADED_BY_ALL, diffusers, transformers)
OK, FAILED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED

Again = Callable[..., Run]


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the scans below, for other runs in this process."""
    return tmp_path_factory.mktemp("t2i-cache")


@pytest.fixture(scope="session")
def leaky(once: Once, cache: Path) -> Run:
    """The leaky checkpoint, its prompts and canaries, by two processes."""
    arguments = ("-n2", "-vv", "-rA", "--junitxml=junit.xml")
    return scanned(once, "leaky-t2i", cache, *arguments)


@pytest.fixture(scope="session")
def clean(once: Once, cache: Path) -> Run:
    """The clean checkpoint with the same lists."""
    return scanned(once, "clean-t2i", cache)


def scanned(once: Once, name: str, cache: Path, *arguments: str) -> Run:
    """A scan that all processes of the run share; each has its own copy of the images."""

    def scan(folder: Path) -> None:
        lists = t2i.write_lists(folder)
        run = t2i.scan(folder, f"builtin:{name}", folder / "cache", *lists, *arguments)
        (folder / "run.json").write_text(json.dumps({"code": run.code, "output": run.output}))

    folder = once(name, scan)
    shutil.copytree(folder / "cache", cache, dirs_exist_ok=True)
    return Run(folder=folder, **json.loads((folder / "run.json").read_text()))


@pytest.fixture
def again(pytester: pytest.Pytester, cache: Path) -> Again:
    """Another run in this process; with the same lists, nothing is generated again."""

    def run(model: str, *arguments: str, lists: bool = True) -> Run:
        options = t2i.write_lists(pytester.path) if lists else ()
        result = pytester.runpytest_inprocess(*t2i.command(model, cache, *options, *arguments))
        output = result.stdout.str() + result.stderr.str()
        return Run(folder=pytester.path, code=int(result.ret), output=output)

    return run


def test_a_leaky_checkpoint_fails_and_names_its_prompts_by_line(leaky: Run) -> None:
    assert leaky.code == FAILED
    assert leaky.report["verdict"] == "fail"
    assert tuple(leaky.verdicts) == IDS
    assert leaky.verdicts["carlini"] == "fail"
    findings = leaky.checks["carlini"]["prompt_scan"]["findings"]
    found = {(each["place"], each["route"] == "canary"): each["kind"] for each in findings}
    assert {place: kind for place, kind in found.items() if kind} == {
        ("line 2", False): "verbatim",
        ("line 3", False): "verbatim",
        ("line 5", False): "template",
        ("line 1", True): "verbatim",
        ("line 2", True): "verbatim",
    }
    assert "prompt#00001 (line 2)" in leaky.output
    assert "memscan: FAIL builtin:leaky-t2i (memorised_prompts 3 > 0" in leaky.output


def test_the_memorised_image_is_the_one_of_the_prompt(leaky: Run) -> None:
    truth = {row["prompt"]: row["image_ids"] for row in t2i.truth()}
    for each in leaky.checks["carlini"]["prompt_scan"]["findings"]:
        if each["kind"]:
            texts = CANARIES if each["route"] == "canary" else PROMPTS
            assert each["train_id"] in truth[texts[each["prompt_id"]]]


def test_planted_strings_are_extracted(leaky: Run) -> None:
    keys = leaky.checks["extended_side"]["keys"]
    assert keys["metrics"]["extracted_canaries"]["value"] == len(CANARIES)
    assert "extracted_canaries is 2, over the limit of 0" in leaky.output


def test_no_report_holds_the_text_of_a_prompt(leaky: Run) -> None:
    assert set(leaky.shared) >= {"output", "report.json", "report.html", "junit.xml"}
    for name, text in leaky.shared.items():
        for secret in (*PROMPTS, *CANARIES):
            assert secret not in text, name


def test_two_processes_make_one_scan(leaky: Run, cache: Path) -> None:
    assert leaky.output.count("text-to-image: 0/") <= 3  # once for each kind of work
    images = leaky.checks["carlini"]["prompt_scan"]["images"]
    assert images["generated"] == images["valid"] == images["planned"]
    assert images["damaged"] == 0


def test_a_clean_checkpoint_passes(clean: Run) -> None:
    assert clean.code == OK, clean.output
    assert clean.report["verdict"] == "pass"
    expected = dict.fromkeys(IDS, "pass")
    del expected["duplicates"]  # there are no training images
    assert clean.verdicts == expected
    assert clean.checks["carlini"]["prompt_scan"]["num_confirmed"] is None
    assert clean.checks["extended_side"]["keys"]["metrics"]["extracted_canaries"]["value"] == 0


def test_a_scan_that_was_killed_goes_on_and_ends_the_same(leaky: Run, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = t2i.command("builtin:leaky-t2i", cache, *t2i.write_lists(tmp_path))
    for share in (0.2, 0.6):
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        enough = share * leaky.checks["carlini"]["prompt_scan"]["images"]["generated"]
        while run.poll() is None and len(list(cache.rglob("*.png"))) < enough:
            time.sleep(0.1)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
        assert Run(folder=tmp_path, code=1, output="").report["verdict"] == "not_run"
    resumed = t2i.scan(tmp_path, "builtin:leaky-t2i", cache, *arguments[-2:])
    assert resumed.code == FAILED
    assert resumed.report == leaky.report


@pytest.mark.parametrize(
    ("lines", "carlini"),
    [
        (("verbatim_prompts <= 0",), "fail"),
        (("verbatim_prompts <= 2", "prompt_leak_rate <= 0.9"), "pass"),
        (("memorised_prompts <= 3", "prompt_leak_rate <= 0.1"), "fail"),
    ],
)
def test_the_policy_says_how_much_is_too_much(
    again: Again, leaky: Run, lines: tuple[str, ...], carlini: str
) -> None:
    run = again("builtin:leaky-t2i", *(f"--memscan-fail={line}" for line in lines))
    assert run.verdicts["carlini"] == carlini
    # Nobody wrote about canaries, so their limit stays.
    assert run.verdicts["extended_side"] == "fail"
    assert run.code == FAILED


def test_one_scan_by_name(again: Again, clean: Run) -> None:
    run = again("builtin:clean-t2i", "--memscan-scans=carlini")
    assert tuple(run.verdicts) == ("integrity", "carlini", "status")
    assert run.code == OK
    assert run.checks["carlini"] == clean.checks["carlini"]


def test_a_budget_for_some_of_the_prompts_is_inconclusive_and_says_which(
    again: Again, clean: Run
) -> None:
    needed = again("builtin:clean-t2i", "--memscan-budget=500img")
    assert needed.verdicts["carlini"] == "error"
    words = needed.checks["carlini"]["sentence"]
    assert "--memscan-budget: 500 images are too few" in words
    smallest = int(words.split("at least ")[1].split()[0])
    run = again("builtin:clean-t2i", f"--memscan-budget={smallest + 100}img")
    assert run.code == FAILED
    assert run.report["verdict"] == run.verdicts["status"] == "inconclusive"
    prompts = run.checks["carlini"]["prompt_scan"]["prompts"]
    assert 1 <= prompts["num_planned"] < prompts["num_used"] == len(PROMPTS)
    assert f"reaches {prompts['num_planned']} of 6 prompts" in run.checks["status"]["sentence"]


def test_lines_that_are_no_prompts_are_counted_and_named(
    again: Again, pytester: pytest.Pytester
) -> None:
    """Empty and repeated lines lose nothing; the others might have been memorised."""
    t2i.write_lists(pytester.path)
    bad = b"\n".join([b"", PROMPTS[0].encode(), b"nul \x00", b"latin \xe9", b"x" * 10_001])
    with (pytester.path / "list.txt").open("ab") as file:
        file.write(b"\n" + bad + b"\n")
    options = ("--memscan-prompts=list.txt", "--memscan-canaries=keys.txt")
    run = again("builtin:clean-t2i", *options, lists=False)
    assert run.code == FAILED
    assert run.verdicts["carlini"] == "pass"
    assert run.verdicts["status"] == "inconclusive"
    prompts = run.checks["carlini"]["prompt_scan"]["prompts"]
    assert prompts["dropped"] == {"empty": 1, "duplicate": 1}
    places = {place for named in prompts["unusable"].values() for place in named}
    assert places == {"line 9", "line 10", "line 11"}
    assert "Mend or remove these lines" in run.checks["status"]["sentence"]


def test_without_prompts_the_probe_list_is_used_and_shows_little(
    again: Again, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    without = shutil.ignore_patterns("prompts.txt")
    shutil.copytree(FIXTURES / "clean-t2i", model, ignore=without)
    quick = ("--memscan-steps=2", "--memscan-fail=prompt_leak_rate <= 0.5")
    run = again(str(model), *quick, lists=False)
    assert run.code == FAILED
    assert run.verdicts["carlini"] == "inconclusive"
    sentence = run.checks["carlini"]["sentence"]
    assert "says nothing about the prompts this checkpoint was trained on" in sentence
    assert "--memscan-prompts" in sentence
    asked = again(str(model), *quick, "--memscan-prompts=builtin:probe", lists=False)
    assert asked.code == OK, asked.output
    assert asked.verdicts["carlini"] == "pass"


def test_a_safety_checker_is_left_out_and_blackens_nothing(again: Again, tmp_path: Path) -> None:
    model = Path(shutil.copytree(FIXTURES / "clean-t2i", tmp_path / "model"))
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (model / "model_index.json").write_text(json.dumps(index))
    run = again(str(model), "--memscan-steps=2", "--memscan-fail=prompt_leak_rate <= 0.5")
    images = run.checks["carlini"]["prompt_scan"]["images"]
    assert images["valid"] == images["generated"] > 0
    assert not images["invalid"]
