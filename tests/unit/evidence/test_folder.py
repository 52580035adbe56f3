"""Clear pictures of findings, what is written of them, and who can read it."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from unit.reports import (
    finetune_samples,
    prompt_samples,
    prompt_scans,
    samples,
    side_scans,
    splitting_scans,
)

from pytest_memscan.errors import OptionError
from pytest_memscan.evidence.folder import side_by_side, write_evidence
from pytest_memscan.evidence.names import (
    Names,
    load_names,
    save_texts,
    save_train_names,
    shown_texts,
)
from pytest_memscan.evidence.shown import seed_of
from pytest_memscan.generation import plan_rows
from pytest_memscan.reports.html import Group
from pytest_memscan.reports.leaks import leaks_of
from pytest_memscan.reports.picture_files import Pictures
from pytest_memscan.results import CheckOutcome, Duplicates, RunResult, Verdict

NAMES = Names(
    train={place: [f"alice-{number}.png" for number in range(200)] for place in range(4)},
    texts={
        f"{kind}#{number:05d}": f"{kind} {number} of somebody"
        for kind in ("prompt", "canary")
        for number in range(1000)
    },
)
SPLIT, SIDE, SETS = splitting_scans.leaky(), side_scans.leaky(), finetune_samples.several()
GROUP = Group(train_ids=(3, 4), images=np.stack([samples.picture(3)] * 2), size=5)
DUPLICATES = CheckOutcome(
    name="duplicates",
    verdict=Verdict.PASS,
    sentence="",
    duplicates=Duplicates(
        num_images=150,
        num_groups=1,
        num_redundant=4,
        num_identical=0,
        largest=((3, 4, 5, 6, 7),),
        num_searched=150,
        measure="normalised L2",
    ),
)
RUNS: dict[str, tuple[RunResult, Pictures]] = {
    "images": (
        replace(samples.failed(), checks=(*samples.failed().checks, DUPLICATES)),
        Pictures(pairs=samples.pairs(samples.failed()), groups=[GROUP]),
    ),
    "prompts": (
        prompt_samples.leaky(),
        Pictures(prompts=prompt_samples.prompt_pictures(), keys=prompt_samples.key_pictures()),
    ),
    "repeats": (
        prompt_samples.repeating(),
        Pictures(repeats=prompt_samples.repeat_pictures()),
    ),
    "splitting": (SPLIT, Pictures(splitting=splitting_scans.pictures(SPLIT))),
    "side": (SIDE, Pictures(side=side_scans.pictures(SIDE))),
    "finetunes": (SETS, Pictures(finetunes=finetune_samples.pictures(SETS))),
}


def written(folder: Path, kind: str, session_id: str = "0123456789") -> tuple[Path, dict[str, Any]]:
    result, pictures = RUNS[kind]
    own = write_evidence(folder, result, pictures, NAMES, session_id=session_id)
    assert own is not None
    return own, json.loads((own / "manifest.json").read_text())


def kept(pictures: Pictures) -> int:
    kinds = ("pairs", "groups", "prompts", "keys", "repeats", "finetunes", "splitting", "side")
    return sum(len(getattr(pictures, kind)) for kind in kinds)


@pytest.mark.parametrize("kind", RUNS)
def test_everything_that_is_drawn_has_a_file_and_an_entry(tmp_path: Path, kind: str) -> None:
    own, manifest = written(tmp_path, kind)
    entries = manifest["findings"]
    files = [entry["file"] for entry in entries]
    assert len(set(files)) == len(files) == kept(RUNS[kind][1]) > 0
    assert sorted(file.name for file in own.iterdir()) == sorted([*files, "manifest.json"])
    for file in own.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    for entry in entries:
        if entry.get("train_file") is not None:
            assert entry["train_file"] == f"alice-{int(entry['train'].partition('#')[2])}.png"


@pytest.mark.parametrize("kind", ["images", "prompts", "splitting", "side", "finetunes"])
def test_findings_have_the_ids_that_reports_and_waivers_use(tmp_path: Path, kind: str) -> None:
    _, manifest = written(tmp_path, kind)
    named = {entry["finding"] for entry in manifest["findings"]}
    leaked = {leak.id for check in RUNS[kind][0].checks for leak in leaks_of(check)}
    assert named & leaked
    counted = {e["finding"] for e in manifest["findings"] if e.get("confirmed", False)}
    assert counted <= leaked


def test_a_picture_is_clear_with_the_generated_image_first(tmp_path: Path) -> None:
    own, manifest = written(tmp_path, "images")
    pair = RUNS["images"][1].pairs[0]
    entry = manifest["findings"][0]
    row = np.asarray(Image.open(own / entry["file"]))
    width = pair.generated.shape[1]
    np.testing.assert_array_equal(row[:, :width], pair.generated)
    np.testing.assert_array_equal(row[:, -width:], pair.train)
    assert entry["generated"] == f"generated#{pair.finding.sample_id:05d}"


def test_texts_of_prompts_are_told(tmp_path: Path) -> None:
    _, manifest = written(tmp_path, "prompts")
    for entry in manifest["findings"]:
        kind, _, number = entry["prompt"].partition("#")
        assert entry["text"] == f"{kind} {int(number)} of somebody"
        assert entry["is_planted"] == (kind == "canary")


def test_a_seed_is_that_of_the_plan() -> None:
    for row in plan_rows(5, seed=2**32 - 3):
        assert seed_of(row.sample_id, {"seed": str(2**32 - 3)}) == row.seed
    assert seed_of(1, {}) is None


def test_keys_are_told_with_the_seed_of_their_first_image(tmp_path: Path) -> None:
    result, pictures = RUNS["prompts"]
    provenance = {"seed": "5", "rows per prompt": "500"}
    checks = [
        check
        if check.keys is None
        else replace(check, keys=replace(check.keys, provenance=provenance))
        for check in result.checks
    ]
    result = replace(result, checks=tuple(checks))
    own = write_evidence(tmp_path, result, pictures, NAMES, session_id="0")
    assert own is not None
    entries = json.loads((own / "manifest.json").read_text())["findings"]
    seeds = {each["prompt"]: each["first_seed"] for each in entries if "first_seed" in each}
    assert seeds
    for name, seed in seeds.items():
        kind, _, number = name.partition("#")
        text = int(number) + (1000 if kind == "canary" else 0)  # NAMES knows 1,000 prompts
        assert seed == 5 + 500 * text


def test_two_runs_do_not_mix(tmp_path: Path) -> None:
    first, _ = written(tmp_path, "images", "aaaaaaaa")
    second, _ = written(tmp_path, "images", "bbbbbbbb")
    assert first != second
    assert {first, second} == set(tmp_path.iterdir())


def test_nothing_found_leaves_nothing(tmp_path: Path) -> None:
    assert write_evidence(tmp_path, samples.passed(), Pictures(), NAMES, session_id="x") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_went_is_said(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be written"):
        write_evidence(tmp_path / "gone", *RUNS["images"], NAMES, session_id="x")


def test_pictures_of_any_size_and_colour_stand_in_a_row() -> None:
    grey, colour = np.zeros((4, 6, 1), np.uint8), np.full((8, 2, 4), 9, np.uint8)
    row = np.asarray(side_by_side([grey, colour]))
    assert row.shape == (8, 6 + 4 + 2, 3)
    assert (row[:4, :6] == 0).all()
    assert (row[4:, :6] == 255).all()
    assert (row[:, -2:] == 9).all()


def test_names_come_back_from_a_folder_of_its_owner(tmp_path: Path) -> None:
    save_train_names(tmp_path, ["a.png", "caf\udce9.png"])
    save_train_names(tmp_path, ["b.png"], concept=1)
    save_texts(tmp_path, ["one", "two"], ["planted"])
    names = load_names(tmp_path)
    assert names.train == {0: ["a.png", "caf\udce9.png"], 1: ["b.png"]}
    assert names.texts == {"prompt#00000": "one", "prompt#00001": "two", "canary#00000": "planted"}
    assert names.train_name(1) == "caf\udce9.png"
    assert names.train_name(0, concept=1) == "b.png"
    assert names.train_name(9) is names.train_name(None) is names.train_name(0, concept=7) is None
    for file in (tmp_path / "names").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "names").stat().st_mode) == 0o700
    assert load_names(tmp_path / "none") == Names()
    assert "planted" not in repr(names)


def test_only_prompts_that_came_out_are_shown_and_no_planted_string() -> None:
    shown = shown_texts(prompt_samples.leaky().checks, NAMES)
    memorised = {
        f"prompt#{each.prompt_id:05d}"
        for each in prompt_scans.prompt_findings()
        if each.kind and each.route != "canary"
    }
    flagged = {
        f"prompt#{each.prompt_id:05d}"
        for each in prompt_scans.key_scan().findings
        if each.flagged and not each.is_canary
    }
    assert memorised
    assert set(shown) == memorised | flagged
    assert shown_texts(prompt_samples.leaky().checks, Names()) == {}
