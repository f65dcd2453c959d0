import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from actors.limits import MAX_IMAGE_PIXELS, MAX_IMAGE_SIDE
from actors.pictures import FORMATS, read_image
from tests.media_files import png_of


def test_image_is_rgb_and_turned_as_its_exif_says():
    upright = Image.new("RGB", (40, 20), (250, 10, 10))
    upright.paste((10, 10, 250), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    upright.rotate(90, expand=True).save(turned, "JPEG", exif=exif, quality=95)
    image = read_image(turned.getvalue())
    assert (image.mode, image.size) == ("RGB", (40, 20))
    np.testing.assert_allclose(image.getpixel((5, 10)), (10, 10, 250), atol=12)
    np.testing.assert_allclose(image.getpixel((35, 10)), (250, 10, 10), atol=12)
    for mode in ("RGBA", "L", "P"):
        other = io.BytesIO()
        upright.convert(mode).save(other, "PNG")
        assert read_image(other.getvalue()).mode == "RGB"


def test_unreadable_and_oversized_images_are_refused():
    good = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(good, "PNG")
    for data in (b"", b"nothing to see", good.getvalue()[:2000]):
        with pytest.raises(ValueError, match=f"image of {len(data)} bytes cannot be decoded"):
            read_image(data)
    for side in (9_000, 20_000):
        # One bit per pixel: small as a file, 1.2 GB once it is RGB.
        bomb = io.BytesIO()
        Image.new("1", (side, side)).save(bomb, "PNG")
        with pytest.raises(ValueError, match=f"over {MAX_IMAGE_PIXELS} pixels"):
            read_image(bomb.getvalue())


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((100_000, 100_000), f"is over {MAX_IMAGE_PIXELS} pixels"),
        ((2**31 - 1, 2**31 - 1), f"is over {MAX_IMAGE_PIXELS} pixels"),
        ((100_000, 2), f"image of 100000x2 pixels has a side over {MAX_IMAGE_SIDE} pixels"),
        ((2, MAX_IMAGE_SIDE + 1), f"image of 2x{MAX_IMAGE_SIDE + 1} pixels has a side over {MAX_IMAGE_SIDE} pixels"),
        ((64, 64), "cannot be decoded"),
    ],
)
def test_a_size_is_judged_by_the_header_alone(size, reason):
    with pytest.raises(ValueError, match=reason):
        read_image(png_of(*size))


def test_the_largest_side_is_read():
    file = io.BytesIO()
    Image.new("L", (MAX_IMAGE_SIDE, 3)).save(file, "PNG")
    assert read_image(file.getvalue()).size == (MAX_IMAGE_SIDE, 3)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_and_of_moving_ones_the_first_picture(name):
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    red, blue = (Image.new("RGB", (32, 16), colour) for colour in ((220, 20, 20), (20, 20, 220)))
    more = {"save_all": True, "append_images": [blue]} if name in ("GIF", "PNG", "TIFF", "WEBP") else {}
    file = io.BytesIO()
    red.save(file, name, **more)
    image = read_image(file.getvalue())
    assert (image.mode, image.size) == ("RGB", (32, 16))
    np.testing.assert_allclose(image.getpixel((9, 9)), (220, 20, 20), atol=12)


OTHER_FORMATS = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/etc/passwd) (r) file\n",
    "ppm": b"P6 2 2 255\n" + bytes(12),
    "html": b"<html><img src=http://169.254.169.254/></html>",
}


@pytest.mark.parametrize("data", OTHER_FORMATS.values(), ids=OTHER_FORMATS.keys())
def test_other_formats_are_not_tried(data):
    with pytest.raises(ValueError, match="cannot be decoded: it is none of AVIF, BMP, GIF, JPEG, PNG, TIFF, WEBP"):
        read_image(data)


def test_a_text_that_unpacks_to_much_is_refused():
    text = zlib.compress(bytes(200_000_000))
    chunk = b"zTXtcomment\0\0" + text
    bomb = png_of(8, 8)
    position = bomb.index(b"IDAT") - 4
    bomb = (
        bomb[:position]
        + struct.pack(">I", len(chunk) - 4)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + bomb[position:]
    )
    assert len(bomb) < 250_000
    with pytest.raises(ValueError, match="cannot be decoded: Decompressed data too large"):
        read_image(bomb)
