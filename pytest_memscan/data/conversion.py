"""One rule that turns an image, encoded or not, into the pixels a checkpoint was trained on.

1. PNG, JPEG or WebP by content; the first frame of an animation.
2. Turned upright by its EXIF orientation, when there is one that can be read.
3. 16-bit grey to 8 bits by dropping the low byte; palette, CMYK and alpha to RGB, transparency
   dropped, as ``convert("RGB")`` in diffusers' training scripts does.
4. For a 1-channel checkpoint a colour image is unusable; a grey one saved as RGB is used.
5. Cropped at the centre to the checkpoint's aspect and resized (bilinear, antialiased) when
   larger; an image smaller than the checkpoint's on either side is unusable.
6. An image of one flat colour cannot be told from any other and is left out of matching.
"""

from __future__ import annotations

import io
import stat
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from pytest_memscan.results import FLAT_IMAGE

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_FILE_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
_pillow_flag = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class ImageShape:
    """What the checkpoint makes: pixels and 1 (grey) or 3 (RGB) channels."""

    height: int
    width: int
    channels: int

    @property
    def as_tuple(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {'RGB' if self.channels == 3 else 'grey'}"


class UnusableImageError(Exception):
    """One file cannot be used; ``str()`` is the reason it is counted under."""


def read_file(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        UnusableImageError: Not a regular file, too large, or not readable.
    """
    try:
        # A pipe or device would block for ever, so look before opening.
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnusableImageError("link to another folder, which is not followed")
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImageError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise UnusableImageError("larger than 64 MB")
        return path.read_bytes()
    except OSError:
        raise UnusableImageError("cannot be opened") from None


def decode(content: bytes | NDArray[np.uint8], shape: ImageShape) -> tuple[NDArray[np.uint8], bool]:
    """Pixels ``(height, width, channels)`` uint8, and whether the image had to be resized.

    Args:
        content: An encoded image, or pixels ``(height, width[, 1, 3 or 4])`` uint8.
        shape: What the checkpoint makes.

    Raises:
        UnusableImageError: The content is not an image this rule can use.
    """
    if isinstance(content, np.ndarray):
        plain = content[..., 0] if content.shape[2:] == (1,) else content
        return _fit(_to_channels(Image.fromarray(plain), shape.channels), shape)
    if not content:
        raise UnusableImageError("empty file")
    if content.startswith(b"version https://git-lfs"):
        raise UnusableImageError("git-lfs pointer, not the image")
    with _pillow_flag, warnings.catch_warnings():
        # What is usable must not depend on the warning filters of whoever runs the scan.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        # Another library may have asked Pillow to pad truncated files with grey.
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UnusableImageError("more than 64 million pixels")
                image.load()
                upright = _upright(image)
        except UnusableImageError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise UnusableImageError("more than 64 million pixels") from None
        except Exception:  # decoders raise anything on hostile bytes
            raise UnusableImageError("not a readable PNG, JPEG or WebP image") from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
    return _fit(_to_channels(upright, shape.channels), shape)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # metadata that nobody can read says nothing about the pixels
        return image.copy()


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if channels == 3:
        return image.convert("RGB")
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("L")
    rgb = np.asarray(image.convert("RGB"))
    if (rgb != rgb[..., :1]).any():
        raise UnusableImageError("colour image, but the checkpoint makes grey ones")
    return Image.fromarray(rgb[..., 0])


def _fit(image: Image.Image, shape: ImageShape) -> tuple[NDArray[np.uint8], bool]:
    if image.width < shape.width or image.height < shape.height:
        raise UnusableImageError(f"smaller than the checkpoint's {shape.width}x{shape.height}")
    size = (shape.width, shape.height)
    resized = image.size != size
    if resized:
        image = ImageOps.fit(image, size, method=Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8).reshape(shape.height, shape.width, shape.channels)
    if (pixels == pixels[0, 0]).all():
        raise UnusableImageError(FLAT_IMAGE)
    return pixels, resized
