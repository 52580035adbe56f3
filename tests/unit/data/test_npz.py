"""Arrays of images: read row by row, never unpickled, and damage is noticed."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from unit.data.pictures import noise

from pytest_memscan.data.conversion import ImageShape, decode
from pytest_memscan.data.images import ImageSet, load_images
from pytest_memscan.data.records import open_source
from pytest_memscan.data.sources import parse_source
from pytest_memscan.errors import TrainDataError

SHAPE = ImageShape(height=8, width=8, channels=3)
GREY = ImageShape(height=8, width=8, channels=1)
IMAGES = np.stack([noise(seed=seed) for seed in range(5)])


def load(path: Path, shape: ImageShape = SHAPE) -> ImageSet:
    return load_images(parse_source(str(path), path), shape, cache_dir=path.parent / "cache")


def save(path: Path, save: Callable[..., None] = np.savez, **arrays: object) -> Path:
    save(path, **arrays)
    return path


def why(path: Path) -> str:
    with pytest.raises(TrainDataError) as caught:
        load(path)
    assert "pytest-of" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("how", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["images", "x_train"])
def test_the_array_of_images_is_found(tmp_path: Path, how: Callable[..., None], key: str) -> None:
    path = save(tmp_path / "a.npz", how, **{key: IMAGES, "labels": np.arange(5)})
    images = load(path)
    np.testing.assert_array_equal(images.pixels, IMAGES)
    assert images.names == tuple(f"{key}[{row}]" for row in range(5))
    assert images.captions == (None,) * 5
    assert images.labels == ("0", "1", "2", "3", "4")
    assert images.num_resized == 0


@pytest.mark.parametrize("how", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["labels", "label", "y"])
@pytest.mark.parametrize(
    ("array", "labels"),
    [
        (np.array([3, 0, 2, 2, 1], dtype=">i4"), ("3", "0", "2", "2", "1")),
        (np.array([[3], [0], [2], [2], [1]], dtype=np.uint8), ("3", "0", "2", "2", "1")),
        (np.array(["3", "b", "", "é", "a"], dtype=">U1"), ("3", "b", None, "é", "a")),
        (np.array(["é", "cat ", "", "a\nb", "x" * 9]), ("é", "cat", None, "a\nb", "x" * 9)),
        (np.array([b"a", b"b", b"", "é".encode(), b"a"]), ("a", "b", None, "é", "a")),
    ],
    ids=["numbers", "a column", "big-endian texts", "texts", "bytes"],
)
def test_labels_stand_in_an_array_beside_the_images(
    tmp_path: Path,
    how: Callable[..., None],
    key: str,
    array: np.ndarray,
    labels: tuple[str | None, ...],
) -> None:
    images = load(save(tmp_path / "a.npz", how, **{key: array, "images": IMAGES}))
    assert images.labels == labels
    assert images.fingerprint == load(save(tmp_path / "b.npz", images=IMAGES)).fingerprint


def test_labels_follow_their_images_past_unusable_ones(tmp_path: Path) -> None:
    with_flat = IMAGES.copy()
    with_flat[3] = 7
    numbers = np.arange(5)
    images = load(save(tmp_path / "a.npz", images=with_flat, y=numbers, label=numbers + 5))
    assert images.labels == ("5", "6", "7", "9")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4),
        np.arange(5.0),
        np.eye(5, dtype=int),
        np.array(0),
        np.array([True, False] * 2 + [True]),
        np.array(["x" * 5000] * 5),
        np.array([None] * 5),
    ],
    ids=lambda array: f"{array.shape} {array.dtype}",
)
def test_an_array_that_is_not_one_label_an_image_is_none(tmp_path: Path, array: np.ndarray) -> None:
    assert load(save(tmp_path / "a.npz", images=IMAGES, labels=array)).labels == (None,) * 5
    both = save(tmp_path / "b.npz", images=IMAGES, labels=array, y=np.arange(5))
    assert load(both).labels == ("0", "1", "2", "3", "4")


def test_labels_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images=IMAGES, labels=np.array([b"a", b"\xff", b"", b"", b""]))
    assert ".../a.npz: labels[1] is not UTF-8 text, so the class label" in why(path)
    # Not a character: NumPy itself fails on it with a SystemError.
    for order in "<>":
        beyond = np.full(5, 0x110000, dtype=f"{order}u4").view(f"{order}U1")
        path = save(tmp_path / "b.npz", images=IMAGES, labels=beyond)
        assert ".../b.npz: labels[0] is not UTF-32-" in why(path)


@pytest.mark.parametrize("last", [True, False])
def test_damaged_labels_are_found_by_their_checksum(tmp_path: Path, last: bool) -> None:
    numbers = np.arange(2_000)
    images = np.repeat(IMAGES, 400, axis=0)
    path = save(tmp_path / "a.npz", images=images, labels=numbers)
    content = bytearray(path.read_bytes())
    row = 1_999 if last else 1_000
    content[content.index(numbers[row - 1 : row + 1].tobytes()) + 8] ^= 1
    path.write_bytes(content)
    assert "a.npz is damaged or truncated" in why(path)


def test_labels_whose_header_lies_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images=IMAGES)
    with zipfile.ZipFile(path, "a") as archive:
        header = _header("(5,)", "'<i8'")
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        archive.writestr("labels.npy", start + bytes(39))
    assert "labels (5,) int64 is damaged: its size is not what its header says" in why(path)


def test_images_beats_any_other_array_of_images(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", images=IMAGES, x_test=IMAGES[:2])
    assert load(path).num_found == 5


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.stack([noise(channels=1, seed=seed) for seed in range(3)])[..., 0], GREY),
        (np.stack([noise(channels=1, seed=seed) for seed in range(3)]), GREY),
        (np.stack([noise(channels=1, seed=seed) for seed in range(3)])[..., 0], SHAPE),
        (np.stack([noise(channels=4, seed=seed) for seed in range(3)]), SHAPE),
        (np.stack([noise(12, 20, seed=seed) for seed in range(3)]), SHAPE),
    ],
    ids=["grey without channels", "grey", "grey for RGB", "alpha", "larger"],
)
def test_arrays_are_converted_by_the_rule_for_files(
    tmp_path: Path, array: np.ndarray, shape: ImageShape
) -> None:
    """Against the same pixels as PNG files, through the decoder."""
    from PIL import Image

    images = load(save(tmp_path / "a.npz", images=array), shape)
    for pixels, found in zip(array, images.pixels, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(buffer, "PNG")
        np.testing.assert_array_equal(found, decode(buffer.getvalue(), shape)[0])


def test_bad_rows_are_counted_and_named(tmp_path: Path) -> None:
    with_flat = IMAGES.copy()
    with_flat[3] = 7
    assert load(save(tmp_path / "a.npz", images=with_flat)).unusable == {
        "one flat colour": ("images[3]",)
    }
    assert "none of the 5 images" in why(save(tmp_path / "b.npz", images=IMAGES[:, :4]))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": IMAGES.astype(np.float32)}, "found images (5, 8, 8, 3) float32"),
        ({"images": IMAGES[0, 0]}, "found images (8, 3) uint8"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, "found images (5, 3, 8, 8) uint8"),
        ({"images": IMAGES[:0]}, "images (0, 8, 8, 3) uint8 holds no images"),
        ({"images": np.asfortranarray(IMAGES)}, "is in Fortran order; save it with numpy.asc"),
        ({"a": IMAGES, "b": IMAGES}, "its arrays are a (5, 8, 8, 3) uint8, b (5, 8, 8, 3) uint8"),
        ({"labels": np.arange(3)}, "its arrays are labels (3,) int64"),
        ({}, "its arrays are none"),
    ],
)
def test_what_is_no_stack_of_images_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    message = why(save(tmp_path / "a.npz", **arrays))
    assert words in message
    assert ".../a.npz: " in message


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return canary.touch, ()

    path = save(tmp_path / "a.npz", images=np.array([Evil()], dtype=object))
    assert "found images (1,) object" in why(path)
    assert not canary.exists()


def _write(path: Path, header: bytes, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data
        )
    return path


def _header(shape: str, descr: str = "'|u1'") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (_header("(1000000000000, 8, 8, 3)"), "is damaged: its size is not what its header says"),
        (_header("(2, 8, 8, 3)"), "is damaged: its size is not"),
        (_header("(-1, -1, 8, 3)"), "its size is not"),
        (_header("(1, 192, 1, 9**9)"), "images.npy in it cannot be read"),
        (b"__import__('os').system('touch canary')\n", "images.npy in it cannot be read"),
        (b"{" * 5000, "images.npy in it cannot be read"),
        (b"\xff\xfe", "images.npy in it cannot be read"),
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(tmp_path: Path, header: bytes, words: str) -> None:
    assert words in why(_write(tmp_path / "a.npz", header, bytes(192)))


def test_rows_of_too_many_pixels_are_refused_unread(tmp_path: Path) -> None:
    data = bytes(8001 * 8001)
    path = _write(tmp_path / "a.npz", _header("(1, 8001, 8001, 1)"), data)
    assert "holds images of more than 64 million pixels" in why(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "a.npz", np.savez_compressed, images=IMAGES)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert ".../a.npz " in why(path)


@pytest.mark.parametrize("how", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("count", [5, 2000])
def test_damage_is_found_by_the_checksum(
    tmp_path: Path, how: Callable[..., None], count: int
) -> None:
    images = np.stack([noise(seed=seed) for seed in range(count)])
    path = save(tmp_path / "a.npz", how, images=images, x_test=IMAGES)
    content = bytearray(path.read_bytes())
    content[192 * count // 2] ^= 1
    path.write_bytes(content)
    expected = "images.npy in it cannot be read" if count == 5 else "is damaged or truncated"
    assert expected in why(path)


def test_the_array_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    images = np.repeat(IMAGES, 4000, axis=0)  # 3.8 MB
    path = save(tmp_path / "a.npz", np.savez_compressed, images=images)
    reading = open_source(parse_source(str(path), path), offline=True)
    assert reading.total == 20_000
    tracemalloc.start()
    num_read = sum(1 for _ in reading.records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_read == 20_000
    assert peak < images.nbytes / 4
