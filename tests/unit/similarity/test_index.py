"""A descriptor index: made once, the same after any kill, and trusted only when every byte fits."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.errors import StoreError, TrainDataError
from pytest_memscan.results import SourceCoverage
from pytest_memscan.similarity import index_build, index_files
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.index import (
    DescriptorIndex,
    check_fits,
    copy_index,
    index_key,
    open_index,
)
from pytest_memscan.similarity.index_build import build_index, index_folder
from pytest_memscan.similarity.planted import altered, planted_rows

SHAPE = (4, 5, 3)
FINGERPRINT = "f" * 64
SOURCE = SourceCoverage(
    num_found=33, num_used=30, num_resized=4, unusable={"empty file": ("anna.png", "bob.png")}
)


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def tiny_descriptor(seed: int = 0, batch_size: int = 4) -> Descriptor:
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 7)).eval()
    return Descriptor(
        name="tiny",
        network=network,
        preprocess=lambda batch: torch.from_numpy(batch).permute(0, 3, 1, 2) / 255 - 0.5,
        dimension=7,
        levels=None,
        record={"preset": "tiny", "weights sha256": f"{seed:064x}"},
        batch_size=batch_size,
    )


def build(
    folder: Path,
    count: int = 30,
    descriptor: Descriptor | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DescriptorIndex:
    return build_index(
        images(count),
        descriptor or tiny_descriptor(),
        fingerprint=FINGERPRINT,
        folder=folder,
        source=SOURCE,
        progress=progress,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_build, "BLOCK_IMAGES", 9)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    build(tmp_path / "index")
    return tmp_path / "index"


def test_an_index_holds_what_the_descriptor_says(tmp_path: Path) -> None:
    descriptor = tiny_descriptor()
    index = build(tmp_path / "index")
    pixels = images(30)
    np.testing.assert_array_equal(index.descriptors, descriptor.describe(pixels))
    assert isinstance(index.descriptors, np.memmap)
    ids, described = index.planted["jpeg"]
    np.testing.assert_array_equal(ids, planted_rows(30))
    np.testing.assert_array_equal(described, descriptor.describe(altered("jpeg", pixels[ids])))
    assert (index.num_images, index.image_shape) == (30, SHAPE)
    assert (index.fingerprint, index.descriptor) == (FINGERPRINT, "tiny")
    assert index.record == descriptor.record
    check_fits(index, descriptor, SHAPE, fingerprint=FINGERPRINT)


def test_an_index_is_only_what_it_says_it_is(made: Path) -> None:
    """It may be passed on: no pixels, no names, nothing pickled."""
    names = ["descriptors.npy", "index.json", "planted_crop.npy", "planted_jpeg.npy"]
    assert [path.name for path in sorted(made.iterdir())] == names
    assert list(made.parent.glob("*.partial")) == list(made.parent.glob("*.progress")) == []
    np.testing.assert_array_equal(
        np.load(made / "descriptors.npy", allow_pickle=False), open_index(made).descriptors
    )
    everything = b"".join(contents(made).values())
    assert images(30)[0].tobytes()[:8] not in everything
    assert b"anna" not in everything


def test_an_index_tells_what_was_left_out_but_no_names(made: Path) -> None:
    source = open_index(made).source
    assert (source.num_found, source.num_used, source.num_resized) == (33, 30, 4)
    assert [len(names) for names in source.unusable.values()] == [2]
    assert "anna" not in str(source)


def test_a_finished_index_is_opened_not_made_again(made: Path) -> None:
    before = contents(made)

    def must_not_run(done: int, total: int) -> None:
        raise AssertionError

    assert build(made, progress=must_not_run).num_images == 30
    assert contents(made) == before


def test_progress_begins_with_what_is_kept(tmp_path: Path) -> None:
    seen: list[int] = []

    def stop_in_the_middle(done: int, total: int) -> None:
        seen.append(done)
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "index", progress=stop_in_the_middle)
    build(tmp_path / "index", progress=lambda done, total: seen.append(done))
    assert seen == [0, 8, 16, 16, 24, 30]


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_interruption_leaves_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Stopped somewhere, then every file cut or spoilt somewhere, as often as you like."""
    root = tmp_path_factory.mktemp("index")
    build(root / "whole")

    def stop_at(limit: int) -> Callable[[int, int], None]:
        def stop(done: int, total: int) -> None:
            if done >= limit:
                raise KeyboardInterrupt

        return stop

    for _ in range(data.draw(st.integers(1, 3))):
        with pytest.raises(KeyboardInterrupt):
            build(root / "cut", progress=stop_at(data.draw(st.integers(0, 30))))
        for path in (root / "cut.partial" / "descriptors.npy", root / "cut.progress"):
            content = bytearray(path.read_bytes())
            action = data.draw(st.sampled_from(["leave", "truncate", "spoil", "append", "delete"]))
            if action == "truncate":
                del content[data.draw(st.integers(0, len(content))) :]
            elif action == "spoil" and content:
                content[data.draw(st.integers(0, len(content) - 1))] ^= 255
            elif action == "append":
                content += b"[40, "
            path.write_bytes(content)
            if action == "delete":
                path.unlink()
    build(root / "cut")
    assert contents(root / "cut") == contents(root / "whole")


SLOW_BUILD = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from test_index import build, index_build
index_build.BLOCK_IMAGES = 9
def progress(done, total):
    print(done, flush=True)
    time.sleep(0.05)
build(Path(sys.argv[1]), 400, progress=progress)
"""


def test_killed_for_good_it_goes_on(tmp_path: Path) -> None:
    program = SLOW_BUILD.format(paths=[str(Path(__file__).parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "index")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        while int(process.stdout.readline()) < 24:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "index").exists()
    started: list[int] = []
    build(tmp_path / "index", 400, progress=lambda done, total: started.append(done))
    assert 24 <= started[0] < 400
    build(tmp_path / "whole", 400)
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")


def test_two_at_once_make_one(tmp_path: Path) -> None:
    described: list[int] = []
    threads = [
        threading.Thread(
            target=build,
            args=(tmp_path / "index",),
            kwargs={"progress": lambda done, total: described.append(done)},
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert described == [0, 8, 16, 24, 30]
    assert open_index(tmp_path / "index").num_images == 30


def test_other_weights_or_batches_do_not_go_on_from_these(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    for other in (tiny_descriptor(seed=1), tiny_descriptor(batch_size=3)):
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "index", progress=stop)
        seen: list[int] = []
        index = build(
            tmp_path / "index",
            descriptor=other,
            progress=lambda done, total: seen.append(done),  # noqa: B023
        )
        assert seen[0] == 0
        np.testing.assert_array_equal(index.descriptors, other.describe(images(30)))
        shutil.rmtree(tmp_path / "index")


def test_a_damaged_index_in_the_cache_is_made_again(made: Path) -> None:
    whole = contents(made)
    spoil(made / "descriptors.npy", 200)
    build(made)
    assert contents(made) == whole


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainDataError, match=r"index\.json is missing"):
        build(tmp_path / "index")
    assert (tmp_path / "index" / "thesis.txt").exists()


def test_an_index_of_another_descriptor_is_not_overwritten(made: Path) -> None:
    with pytest.raises(TrainDataError, match="weights sha256"):
        build(made, descriptor=tiny_descriptor(seed=3))
    assert open_index(made).num_images == 30


def test_a_descriptor_that_gives_no_vector_is_an_error_that_names_it(tmp_path: Path) -> None:
    broken = replace(
        tiny_descriptor(), preprocess=lambda batch: torch.full((len(batch), 60), np.nan)
    )
    with pytest.raises(TrainDataError, match=r"tiny .*choose another descriptor"):
        build(tmp_path / "index", descriptor=broken)


def test_a_full_disk_is_seen_before_hours_of_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(
        StoreError, match=r"30 training images needs .* MB in .*--memscan-cache-dir"
    ):
        build(tmp_path / "index")


def test_a_disk_that_fills_up_keeps_what_was_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(100))

    def full(descriptor: int) -> None:
        if next(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device.*what was described is kept"):
        build(tmp_path / "index")
    monkeypatch.undo()
    monkeypatch.setattr(index_build, "BLOCK_IMAGES", 9)
    seen: list[int] = []
    build(tmp_path / "index", progress=lambda done, total: seen.append(done))
    assert seen[0] == 16


def test_the_folder_is_named_after_what_is_in_it(tmp_path: Path) -> None:
    descriptor = tiny_descriptor()
    folder = index_folder(tmp_path, images(30), descriptor, FINGERPRINT)
    assert folder == tmp_path / index_key(FINGERPRINT, SHAPE, descriptor.record)


def test_a_name_per_images_shape_and_descriptor() -> None:
    record = {"preset": "a", "weights": "b"}
    key = index_key("f", SHAPE, record)
    assert key == index_key("f", SHAPE, dict(reversed(record.items())))
    others = {
        index_key("g", SHAPE, record),
        index_key("f", (5, 4, 3), record),
        index_key("f", SHAPE, {**record, "preset": "b"}),
        index_key("f", SHAPE, {**record, "weights": "a"}),
    }
    assert len(others | {key}) == 5


def test_an_index_of_something_else_is_refused_by_name(made: Path) -> None:
    index = open_index(made)
    with pytest.raises(TrainDataError, match=r"weights sha256 is 000000000000\.\.\. in the index"):
        check_fits(index, tiny_descriptor(seed=2), SHAPE)
    with pytest.raises(TrainDataError, match="image size is 4x5x3 in the index, 8x8x3 in this"):
        check_fits(index, tiny_descriptor(), (8, 8, 3))
    with pytest.raises(TrainDataError, match="training images is ffffffffffff"):
        check_fits(index, tiny_descriptor(), SHAPE, fingerprint="0" * 64)
    other = replace(tiny_descriptor(), record={"preset": "tiny"})
    with pytest.raises(TrainDataError, match="missing in this scan"):
        check_fits(index, other, SHAPE)


def spoil(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(folder: Path, **changes: object) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no such folder"),
    "no manifest": (lambda f: (f / "index.json").unlink(), r"index\.json is missing"),
    "no vectors": (lambda f: (f / "descriptors.npy").unlink(), r"descriptors\.npy is missing"),
    "no planted": (lambda f: (f / "planted_crop.npy").unlink(), r"planted_crop\.npy is missing"),
    "one bit of a vector": (lambda f: spoil(f / "descriptors.npy", 150), "sha256 differs"),
    "one bit of the header": (lambda f: spoil(f / "descriptors.npy", 20), "sha256 differs"),
    "one bit of a planted": (lambda f: spoil(f / "planted_jpeg.npy", 140), "sha256 differs"),
    "truncated": (
        lambda f: os.truncate(f / "descriptors.npy", 500),
        "has 500 bytes instead of 968",
    ),
    "empty": (lambda f: os.truncate(f / "descriptors.npy", 0), "has 0 bytes"),
    "empty manifest": (lambda f: os.truncate(f / "index.json", 0), "is not JSON"),
    "cut manifest": (lambda f: os.truncate(f / "index.json", 100), "is not JSON"),
    "deep manifest": (lambda f: (f / "index.json").write_text("[" * 10**5), "is not JSON"),
    "huge manifest": (lambda f: (f / "index.json").write_text(" " * 2**21), "at most 1,048,576"),
    "other JSON": (lambda f: (f / "index.json").write_text("[1]"), "not a descriptor index"),
    "newer": (lambda f: edit(f, version=2), "version 2; this memscan reads version 1: update"),
    "hostile version": (lambda f: edit(f, version="\x1b[31m"), r"version \\x1b"),
    "wrong type": (lambda f: edit(f, num_images="30"), "num_images: Input should be a valid int"),
    "negative": (lambda f: edit(f, dimension=-1), "dimension: "),
    "huge": (lambda f: edit(f, num_images=2**40), "instead of 30,786,325,577,856"),
    "more in it": (lambda f: edit(f, command="rm"), "command: "),
    "no hash": (lambda f: edit(f, sha256={}), "must list descriptors.npy, planted_crop.npy"),
    "elsewhere": (lambda f: edit(f, planted={"../x": [1]}), "must name the copies crop, jpeg"),
    "beyond the end": (lambda f: edit(f, planted={"jpeg": [1, 30], "crop": [1]}), "image 30"),
    "fewer planted": (
        lambda f: edit(f, planted={"jpeg": [1], "crop": [1]}),
        "968 bytes instead of 156",
    ),
    "no alteration": (lambda f: edit(f, planted={"jpeg": [], "crop": [1]}), "planted"),
    "a pipe": (
        lambda f: (f / "descriptors.npy").unlink() or os.mkfifo(f / "descriptors.npy"),
        "not a regular file",
    ),
    "a folder": (
        lambda f: (f / "descriptors.npy").unlink() or (f / "descriptors.npy").mkdir(),
        "not a regular file",
    ),
    "a link to itself": (
        lambda f: (f / "index.json").unlink() or (f / "index.json").symlink_to("index.json"),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_refused_with_what_is_wrong(made: Path, damage: str) -> None:
    act, words = DAMAGE[damage]
    act(made)
    with pytest.raises(TrainDataError, match=words) as raised:
        open_index(made)
    message = str(raised.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert str(made.parent) not in message


def test_what_an_index_says_of_itself_cannot_steer_a_terminal(made: Path) -> None:
    edit(made, descriptor="a\x1b[2Jb", unusable={"\u202egnp": 2}, record={"x\n": "\r::error::"})
    index = open_index(made)
    shown = f"{index.descriptor}{list(index.source.unusable)}"
    with pytest.raises(TrainDataError) as raised:
        check_fits(index, tiny_descriptor(), SHAPE)
    for text in (shown, str(raised.value)):
        assert text.isprintable()
        assert "\u202e" not in text


def rewrite(folder: Path, vectors: NDArray[np.generic], **options: bool) -> None:
    """Replace the vectors by others and put the right hash beside them."""
    np.save(folder / "descriptors.npy", vectors, **options)  # type: ignore[arg-type]
    sha256 = json.loads((folder / "index.json").read_text())["sha256"]
    sha256["descriptors.npy"] = index_files.file_sha256(folder / "descriptors.npy")
    edit(folder, sha256=sha256)


def test_hostile_vectors_with_the_right_hash_are_refused(made: Path) -> None:
    good = np.array(open_index(made).descriptors)
    for value, words in ((np.nan, "the vector 17 is not finite"), (3.0, "17 has length")):
        bad = good.copy()
        bad[17, 2] = value
        rewrite(made, bad)
        with pytest.raises(TrainDataError, match=words):
            open_index(made)
    for other in (good.astype(np.float64), np.asfortranarray(good), good.view(np.int32), good.T):
        rewrite(made, other)
        with pytest.raises(TrainDataError, match=r"does not hold float32|instead of"):
            open_index(made)
    rewrite(made, np.array([{}] * 30, dtype=object), allow_pickle=True)
    with pytest.raises(TrainDataError, match="bytes instead of"):
        open_index(made)
    rewrite(made, good)
    assert open_index(made).num_images == 30


def test_a_copy_is_an_index_and_nothing_more(made: Path, tmp_path: Path) -> None:
    (made / "notes.txt").write_text("private")
    copy_index(made, tmp_path / "given" / "away")
    names = {"descriptors.npy", "index.json", "planted_crop.npy", "planted_jpeg.npy"}
    assert set(contents(tmp_path / "given" / "away")) == names
    assert os.listdir(tmp_path / "given") == ["away"]
    with pytest.raises(TrainDataError, match="exists already"):
        copy_index(made, tmp_path / "given" / "away")
    spoil(made / "descriptors.npy", 300)
    with pytest.raises(TrainDataError, match="sha256 differs"):
        copy_index(made, tmp_path / "other")
    assert not (tmp_path / "other").exists()
