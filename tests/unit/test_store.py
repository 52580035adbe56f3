"""What is committed survives any kill, belongs to one recipe, and is never trusted when changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from unprivileged import readable_folder, unprivileged

from pytest_memscan.errors import StoreError
from pytest_memscan.store import ImageStore, StoredImage, canonical_hash, exclusive

SPEC = {"steps": 20, "dtype": "float32"}
KIND = "planned"


def image(sample_id: int, *, channels: int = 3, invalid: str = "") -> StoredImage:
    """An image that only its id decides, so that any process can say what it must be."""
    rng = np.random.default_rng(sample_id)
    pixels = rng.integers(0, 256, (4, 6, channels), dtype=np.uint8)
    return StoredImage(sample_id=sample_id, seed=sample_id + 7, invalid=invalid, pixels=pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "generated" / "abc"


@pytest.fixture
def store(folder: Path) -> Iterator[ImageStore]:
    """Holds images 0 to 4."""
    store = ImageStore(folder, spec=SPEC)
    store.add(KIND, [image(sample_id) for sample_id in range(5)])
    yield store
    store.close()


def file_of(store: ImageStore, sample_id: int) -> Path:
    """The picture of an image, found by its name."""
    (file,) = store.folder.rglob(f"*{sample_id:010d}.png")
    return file


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_as_they_went_in(folder: Path, channels: int) -> None:
    originals = [
        image(0, channels=channels),
        image(1, channels=channels, invalid="constant"),
        image(2**32 - 1, channels=channels),
    ]
    store = ImageStore(folder, spec=SPEC)
    store.add(KIND, originals)
    store.close()
    store = ImageStore(folder, spec=SPEC)
    for original, kept in zip(originals, store.read(KIND, [0, 1, 2**32 - 1]), strict=True):
        np.testing.assert_array_equal(kept.pixels, original.pixels)
        assert (kept.sample_id, kept.seed) == (original.sample_id, original.seed)
        assert kept.invalid == original.invalid
    store.close()


def test_images_are_read_in_the_order_asked_for(store: ImageStore) -> None:
    assert [kept.sample_id for kept in store.read(KIND, [3, 9, 0, 3])] == [3, 0, 3]
    assert store.damaged == 0


def test_kinds_do_not_mix(store: ImageStore) -> None:
    store.add("alone", [image(9)])
    assert store.ids(KIND) == {0, 1, 2, 3, 4}
    assert store.ids("alone") == {9}
    assert not list(store.read("alone", [0]))


@pytest.mark.parametrize("damage", ["changed", "missing", "truncated", "a folder", "another image"])
def test_an_image_that_is_not_what_was_committed_is_forgotten_and_counted(
    store: ImageStore, damage: str
) -> None:
    file = file_of(store, 2)
    content = file.read_bytes()
    if damage in ("missing", "a folder"):
        file.unlink()
    if damage == "a folder":
        file.mkdir()
    if damage == "changed":
        file.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    if damage == "truncated":
        file.write_bytes(content[:20])
    if damage == "another image":
        file.write_bytes(file_of(store, 3).read_bytes())
    assert [kept.sample_id for kept in store.read(KIND, range(5))] == [0, 1, 3, 4]
    assert store.damaged == 1
    assert store.ids(KIND) == {0, 1, 3, 4}


def test_a_forgotten_image_can_be_added_again(store: ImageStore) -> None:
    file_of(store, 2).write_bytes(b"")
    assert len(list(store.read(KIND, range(5)))) == 4
    store.add(KIND, [image(2)])
    np.testing.assert_array_equal(next(store.read(KIND, [2])).pixels, image(2).pixels)


def test_a_row_is_only_committed_with_all_images_of_its_batch(store: ImageStore) -> None:
    (store.folder / KIND / "0000009").write_text("in the way of images 9000 and up")
    with pytest.raises(StoreError, match="goes on from there"):
        store.add(KIND, [image(5), image(9000)])
    assert store.ids(KIND) == {0, 1, 2, 3, 4}


def test_notes_are_remembered(folder: Path) -> None:
    store = ImageStore(folder, spec=SPEC)
    assert store.note("images in 60 s") is None
    store.set_note("images in 60 s", "100")
    store.set_note("images in 60 s", "200")
    store.close()
    store = ImageStore(folder, spec=SPEC)
    assert store.note("images in 60 s") == "200"
    store.close()


def test_a_folder_of_another_recipe_is_refused(store: ImageStore) -> None:
    with pytest.raises(StoreError, match="another recipe; delete that folder"):
        ImageStore(store.folder, spec={**SPEC, "steps": 21})
    store.close()
    reordered = ImageStore(store.folder, spec=dict(reversed(SPEC.items())))
    assert reordered.ids(KIND) == {0, 1, 2, 3, 4}
    reordered.close()


def test_every_part_of_a_recipe_decides_its_folder() -> None:
    assert canonical_hash(SPEC) == canonical_hash(dict(reversed(SPEC.items())))
    others = [{**SPEC, "steps": 21}, {**SPEC, "eta": 0.0}, {"steps": 20}, {}]
    assert len({canonical_hash(each) for each in [SPEC, *others]}) == 5


@pytest.mark.parametrize("damage", ["no database", "truncated", "middle", "one page"])
def test_a_damaged_database_is_refused_in_a_sentence(store: ImageStore, damage: str) -> None:
    store.add(KIND, [image(sample_id) for sample_id in range(5, 150)])
    store.close()
    file = store.folder / "images.sqlite"
    content = bytearray(file.read_bytes())
    if damage == "no database":
        content[:] = b"this is no database, but long enough to look at" * 20
    if damage == "truncated":
        del content[len(content) // 2 :]
    if damage == "middle":
        content[len(content) // 3 : len(content) * 2 // 3] = os.urandom(len(content) // 3)
    if damage == "one page":
        content[4096 * 2 : 4096 * 2 + 8] = bytes(8)
    file.write_bytes(content)
    with pytest.raises(
        StoreError, match=r"cannot be used \(.*\); delete that folder, or"
    ) as caught:
        ImageStore(store.folder, spec=SPEC)
    assert str(store.folder.parent) not in str(caught.value)


def test_a_flipped_byte_never_makes_a_wrong_image(store: ImageStore) -> None:
    store.close()
    file = store.folder / "images.sqlite"
    original = file.read_bytes()
    rng = np.random.default_rng(0)
    for position, bit in rng.integers(0, (len(original), 8), (60, 2)):
        flipped = bytearray(original)
        flipped[position] ^= 1 << bit
        file.write_bytes(flipped)
        try:
            opened = ImageStore(store.folder, spec=SPEC)
        except StoreError:
            continue
        try:
            for kept in opened.read(KIND, sorted(opened.ids(KIND))):
                np.testing.assert_array_equal(kept.pixels, image(kept.sample_id).pixels)
        except StoreError:
            pass
        finally:
            opened.close()


def test_a_folder_that_cannot_be_written_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for use in (
        lambda folder: ImageStore(folder, spec=SPEC),
        lambda folder: exclusive(folder, session="a").__enter__(),
    ):
        with pytest.raises(StoreError, match=r"cannot be used \(Not a directory\)"):
            use(tmp_path / "file" / "store")
    with readable_folder() as folder, unprivileged():
        with pytest.raises(StoreError, match=r"cannot be used \(Permission denied\)"):
            ImageStore(folder / "store", spec=SPEC)
        with pytest.raises(StoreError, match="cannot be used"):
            ImageStore(folder, spec=SPEC)
        with pytest.raises(StoreError, match="cannot be used"), exclusive(folder, session="a"):
            raise AssertionError("entered")


def test_a_full_disk_is_an_error_and_keeps_what_was_committed(store: ImageStore) -> None:
    resource = pytest.importorskip("resource", reason="file size limits of POSIX are needed")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(StoreError, match="what was committed is kept"):
            store.add(KIND, [image(5)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(list(store.read(KIND, range(6)))) == 5
    store.add(KIND, [image(5)])
    assert len(list(store.read(KIND, range(6)))) == 6


def test_two_sessions_cannot_use_one_folder_at_the_same_time(folder: Path) -> None:
    with (
        exclusive(folder, session="a"),
        pytest.raises(StoreError, match="another memscan run is using"),
        exclusive(folder, session="b"),
    ):
        raise AssertionError("entered")
    with exclusive(folder, session="b"):
        pass
    assert {file.name for file in folder.glob("*.lock")} == {"b.lock"}


def test_an_error_inside_is_not_taken_for_one_of_the_folder(folder: Path) -> None:
    with pytest.raises(TimeoutError, match="mine"), exclusive(folder, session="a"):
        raise TimeoutError("mine")


def test_workers_of_one_session_take_turns(folder: Path) -> None:
    inside, most, errors = 0, 0, []
    together = threading.Barrier(6)

    def work(session: str) -> None:
        nonlocal inside, most
        together.wait()
        try:
            with exclusive(folder, session=session):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1
        except StoreError as error:
            errors.append(error)

    # Another session each time: what the last one left behind must not decide who we are.
    for session in range(10):
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(work, [f"session{session}"] * 6))
    assert not errors
    assert most == 1


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from unit.test_store import KIND, SPEC, ImageStore, exclusive, image
with exclusive(Path(sys.argv[1]), session=sys.argv[3]):
    store = ImageStore(Path(sys.argv[1]), spec=SPEC)
    print("ready", flush=True)
    while True:
        start = len(store.ids(KIND))
        store.add(KIND, [image(sample_id) for sample_id in range(start, start + 4)])
"""


def test_a_killed_writer_leaves_no_row_without_its_image(folder: Path) -> None:
    rng = np.random.default_rng(1)
    tests = str(Path(__file__).parents[1])
    seen = 0
    for attempt in range(10):
        command = [sys.executable, "-c", WRITER, str(folder), tests, f"session{attempt}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.1))
            writer.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        with exclusive(folder, session="reader"):
            store = ImageStore(folder, spec=SPEC)
            ids = store.ids(KIND)
            assert ids == set(range(len(ids)))
            assert len(ids) % 4 == 0
            for kept in store.read(KIND, sorted(ids)):
                np.testing.assert_array_equal(kept.pixels, image(kept.sample_id).pixels)
            assert store.damaged == 0
            assert len(ids) >= seen
            seen = len(ids)
            store.close()
    assert seen > 0
