"""Each line of the conversion rule, with an image made for it."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps
from unit.data.pictures import encode, noise, with_orientation

from pytest_memscan.data import conversion
from pytest_memscan.data.conversion import ImageShape, UnusableImageError, decode, read_file

RGB = ImageShape(height=8, width=8, channels=3)
GREY = ImageShape(height=8, width=8, channels=1)
WIDE = ImageShape(height=4, width=8, channels=3)

# Marks one corner, so that every way of turning it can be told from the others.
TURNED = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}


def why(content: bytes, shape: ImageShape = RGB) -> str:
    """The reason under which an image is counted as unusable."""
    with pytest.raises(UnusableImageError) as caught:
        decode(content, shape)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("shape", [RGB, GREY], ids=str)
def test_lossless_images_of_the_right_size_are_kept_bit_by_bit(
    kind: str, shape: ImageShape
) -> None:
    original = noise(channels=shape.channels)
    content = encode(original, kind, **({"lossless": True} if kind == "WEBP" else {}))
    pixels, resized = decode(content, shape)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, original)
    assert not resized


def test_a_jpeg_is_read_as_pillow_reads_it() -> None:
    content = encode(noise(), "JPEG", quality=90)
    np.testing.assert_array_equal(
        decode(content, RGB)[0], np.asarray(Image.open(io.BytesIO(content)))
    )


@pytest.mark.parametrize("orientation", TURNED)
def test_an_image_is_turned_upright_by_its_exif_orientation(orientation: int) -> None:
    original = noise()
    content = encode(original, exif=with_orientation(orientation))
    np.testing.assert_array_equal(decode(content, RGB)[0], TURNED[orientation](original))


def test_an_image_is_turned_before_it_is_measured() -> None:
    content = encode(noise(8, 4), exif=with_orientation(6))
    assert decode(content, WIDE)[0].shape == (4, 8, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_data_that_nobody_can_read_does_not_cost_the_image(kind: str) -> None:
    assert decode(encode(noise(), kind, exif=b"Exif\0\0garbage garbage"), RGB)[0].shape == (8, 8, 3)


def test_16_bit_grey_keeps_its_high_byte() -> None:
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024 + 255
    for shape in (GREY, RGB):
        pixels, _ = decode(encode(Image.fromarray(deep)), shape)
        np.testing.assert_array_equal(pixels[..., 0], (deep >> 8).astype(np.uint8))


def test_a_palette_image_with_transparency_keeps_the_colours_under_it() -> None:
    picture = Image.new("P", (8, 8))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([index % 2 for index in range(64)])
    pixels, _ = decode(encode(picture, transparency=bytes([0, 255])), RGB)
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 1].tolist() == [200, 100, 50]


def test_alpha_is_dropped_and_the_colours_under_it_stay() -> None:
    original = noise(channels=4)
    np.testing.assert_array_equal(decode(encode(original), RGB)[0], original[..., :3])


def test_cmyk_becomes_rgb() -> None:
    content = encode(Image.fromarray(noise()).convert("CMYK"), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_array_equal(decode(content, RGB)[0], expected)


def test_a_black_and_white_image_becomes_0_and_255() -> None:
    picture = Image.fromarray(noise(channels=1)[..., 0]).convert("1")
    assert set(np.unique(decode(encode(picture), GREY)[0])) == {0, 255}


def test_the_first_frame_of_an_animation_is_used() -> None:
    first, second = noise(seed=1), noise(seed=2)
    content = encode(
        first, "WEBP", lossless=True, save_all=True, append_images=[Image.fromarray(second)]
    )
    np.testing.assert_array_equal(decode(content, RGB)[0], first)


def test_the_main_picture_of_a_phones_multi_picture_jpeg_is_used() -> None:
    content = encode(noise(), "MPO", save_all=True, append_images=[Image.fromarray(noise(seed=2))])
    assert decode(content, RGB)[0].shape == (8, 8, 3)


def test_a_colour_profile_is_ignored_as_training_scripts_do() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    original = noise()
    np.testing.assert_array_equal(decode(encode(original, icc_profile=profile), RGB)[0], original)


def test_a_grey_checkpoint_uses_a_grey_image_that_was_saved_as_rgb() -> None:
    grey = noise(channels=1)
    for content in (
        encode(grey.repeat(3, axis=2)),
        encode(Image.fromarray(grey[..., 0]).convert("LA")),
    ):
        np.testing.assert_array_equal(decode(content, GREY)[0], grey)


def test_a_grey_checkpoint_cannot_use_a_colour_image() -> None:
    almost_grey = noise(channels=1).repeat(3, axis=2)
    almost_grey[3, 3, 0] ^= 1
    for content in (encode(noise()), encode(almost_grey)):
        assert why(content, GREY) == "colour image, but the checkpoint makes grey ones"


def test_a_colour_checkpoint_uses_a_grey_image() -> None:
    grey = noise(channels=1)
    np.testing.assert_array_equal(decode(encode(grey), RGB)[0], grey.repeat(3, axis=2))


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (16, 16), (30, 11)], ids=str)
@pytest.mark.parametrize("shape", [RGB, WIDE], ids=str)
def test_a_larger_image_is_cropped_at_the_centre_and_resized(
    shape: ImageShape, size: tuple[int, int]
) -> None:
    picture = Image.fromarray(noise(*size))
    pixels, resized = decode(encode(picture), shape)
    expected = ImageOps.fit(picture, (shape.width, shape.height), method=Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels, np.asarray(expected))
    assert resized == (size != (shape.height, shape.width))


def test_the_crop_keeps_the_middle() -> None:
    wide = noise(8, 24)
    np.testing.assert_array_equal(decode(encode(wide), RGB)[0], wide[:, 8:16])


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (7, 100)], ids=str)
def test_an_image_smaller_on_either_side_is_unusable(size: tuple[int, int]) -> None:
    assert why(encode(noise(*size))) == "smaller than the checkpoint's 8x8"


@pytest.mark.parametrize("size", [8, 16])
def test_one_flat_colour_is_unusable(size: int) -> None:
    assert why(encode(Image.new("RGB", (size, size), (10, 20, 30)))) == "one flat colour"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_a_truncated_image_is_unusable(kind: str, share: float) -> None:
    content = encode(noise(64, 64), kind)
    expected = "not a readable PNG, JPEG or WebP image"
    assert why(content[: int(share * len(content))]) == expected


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_is_unusable_too_where_another_library_asked_pillow_to_pad(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    content = encode(noise(64, 64), kind)
    assert why(content[: len(content) // 2]) == "not a readable PNG, JPEG or WebP image"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer, not the image"),
        (b"<!DOCTYPE html><title>404</title>", "not a readable PNG, JPEG or WebP image"),
        (encode(noise(), "GIF"), "not a readable PNG, JPEG or WebP image"),
        (encode(noise(), "EPS"), "not a readable PNG, JPEG or WebP image"),
        (b"8BPS\0\1" + bytes(100), "not a readable PNG, JPEG or WebP image"),
        (encode(noise(), "TIFF"), "not a readable PNG, JPEG or WebP image"),
        (encode(noise())[:-20] + bytes(20), "not a readable PNG, JPEG or WebP image"),
    ],
    ids=["empty", "git-lfs", "html", "gif", "eps", "psd", "tiff", "damaged"],
)
def test_what_is_no_image_of_a_known_kind_is_unusable_whatever_its_name(
    content: bytes, reason: str
) -> None:
    assert why(content) == reason


@pytest.mark.parametrize("side", [8100, 10_000, 14_000])
def test_a_decompression_bomb_is_never_unpacked(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.new("1", (side, side)))
    assert len(content) < 100_000

    def unpack(_: object) -> None:
        raise AssertionError("unpacked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", unpack)
    assert why(content) == "more than 64 million pixels"


def test_a_bomb_is_found_where_another_library_switched_pillows_limit_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert why(encode(Image.new("1", (10_000, 10_000)))) == "more than 64 million pixels"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "a.png"
    os.mkfifo(pipe)
    # Were the pipe opened, this would feed it after 3 seconds and the reason would be another.
    rescue = threading.Timer(3, lambda: os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
    rescue.daemon = True
    rescue.start()
    try:
        with pytest.raises(UnusableImageError, match=r"^not a regular file$"):
            read_file(pipe)
        assert rescue.is_alive()
    finally:
        rescue.cancel()


def test_links_that_lead_nowhere_are_unusable(tmp_path: Path) -> None:
    dangling, loop = tmp_path / "dangling.png", tmp_path / "loop.png"
    dangling.symlink_to(tmp_path / "gone.png")
    loop.symlink_to(loop)
    for link in (dangling, loop):
        with pytest.raises(UnusableImageError, match=r"^cannot be opened$"):
            read_file(link)


def test_a_link_to_an_image_is_read(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link.png"
    target.write_bytes(b"content")
    link.symlink_to(target)
    assert read_file(link) == b"content"


def test_a_file_too_large_for_an_image_is_not_read(tmp_path: Path) -> None:
    sparse = tmp_path / "a.png"
    with sparse.open("wb") as file:
        file.truncate(conversion.MAX_FILE_BYTES + 1)
    with pytest.raises(UnusableImageError, match=r"^larger than 64 MB$"):
        read_file(sparse)
