"""Reference images: files of unknown origin become RGB pixels, or one line that says why not."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps

from actors.limits import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What is tried, by Pillow's names. Others hand the file to programs (EPS), or are written by nobody today."""

# Our limit is below the one that it warns of.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(data: bytes) -> Image.Image:
    """Decode an image file to RGB, turned the way its EXIF orientation says, as diffusers' `load_image` does.

    Of a moving image the first frame is taken.

    Raises:
        ValueError: not an image of `FORMATS`, a damaged one, or a larger one than `actors.limits` says.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _require_size(*image.size)
            return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"image is over {MAX_IMAGE_PIXELS} pixels: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"image of {len(data)} bytes cannot be decoded: it is none of {', '.join(FORMATS)}") from error
    except _WrongSizeError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # a damaged file makes the decoders stumble in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"image of {len(data)} bytes cannot be decoded: {reason}") from error


class _WrongSizeError(ValueError):
    """Told as it is, unlike what a decoder says."""


def _require_size(width: int, height: int) -> None:
    if width * height > MAX_IMAGE_PIXELS:
        raise _WrongSizeError(f"image of {width}x{height} pixels is over {MAX_IMAGE_PIXELS} pixels")
    if max(width, height) > MAX_IMAGE_SIDE:
        raise _WrongSizeError(f"image of {width}x{height} pixels has a side over {MAX_IMAGE_SIDE} pixels")
