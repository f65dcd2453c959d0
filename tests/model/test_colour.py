"""Conversion to planes against the definition, written out in float64, and against FFmpeg's."""

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from torch.nn import functional as F

from model.colour import to_yuv420p
from tests.pictures import as_planes

HEIGHT, WIDTH = 128, 192


def moving_pictures(num_frames=4):
    """Pixels (3, F, Y, X): smooth shapes, fine grain, and what exceeds [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, num_frames, 8, 12, generator=generator)
    smooth = F.interpolate(coarse, size=(num_frames, HEIGHT, WIDTH), mode="trilinear")[0]
    return 0.7 * smooth + 0.02 * torch.randn(smooth.shape, generator=generator)


def levels(pixels_3FYX):
    return (pixels_3FYX.double() * 127.5 + 127.5).clamp(0, 255).floor()


def as_defined(pixels_3FYX):
    """E'Y, E'PB and E'PR of BT.709 and their quantisation, each as the recommendation writes it."""
    red, green, blue = levels(pixels_3FYX) / 255
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    planes = [219 * luma + 16]
    for difference in ((blue - luma) / 1.8556, (red - luma) / 1.5748):
        rows = (difference[:, 0::2] + difference[:, 1::2]) / 2
        padded = F.pad(rows, (1, 0), mode="replicate")
        planes.append(224 * (padded[..., 0:-1:2] + 2 * rows[..., 0::2] + rows[..., 1::2]) / 4 + 128)
    return torch.cat([plane.flatten(1) for plane in planes], dim=1).view(pixels_3FYX.shape[1], -1, WIDTH)


def by_swscale(pixels_3FYX):
    planes = []
    for picture_YX3 in levels(pixels_3FYX).to(torch.uint8).permute(1, 2, 3, 0).numpy():
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_YX3), format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
        )
        planes.append(frame.to_ndarray())
    return np.stack(planes).astype(int)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_planes_are_what_bt709_defines(dtype):
    pixels_3FYX = moving_pictures().to(dtype)
    planes_FPX = to_yuv420p(pixels_3FYX)
    assert planes_FPX.shape == (4, HEIGHT * 3 // 2, WIDTH)
    assert planes_FPX.dtype == torch.uint8
    off = (planes_FPX.double() - as_defined(pixels_3FYX)).abs()
    assert off.max() < 0.501
    assert torch.equal(pixels_3FYX, moving_pictures().to(dtype)), "the input is left alone"


def test_planes_are_near_ffmpegs():
    """FFmpeg averages two columns for a colour difference, a quarter of a sample to the right of where it is tagged."""
    pixels_3FYX = moving_pictures()
    off_FPX = np.abs(to_yuv420p(pixels_3FYX).numpy().astype(int) - by_swscale(pixels_3FYX))
    assert off_FPX[:, :HEIGHT].max() <= 1
    assert off_FPX[:, :HEIGHT].mean() < 0.02
    assert off_FPX[:, HEIGHT:].max() <= 12
    assert off_FPX[:, HEIGHT:].mean() < 1.5


def test_flat_colours_are_ffmpegs_to_a_level():
    colours = torch.cartesian_prod(*[torch.linspace(-1, 1, 6)] * 3)
    pixels_3FYX = colours.T[:, :, None, None].expand(-1, -1, HEIGHT, WIDTH)[:, ::9]
    assert np.abs(to_yuv420p(pixels_3FYX).numpy().astype(int) - by_swscale(pixels_3FYX)).max() <= 1


def test_black_white_and_grey_have_the_levels_of_limited_range():
    pixels_3FYX = torch.tensor([-1.0, 1.0, 0.0, -3.0, 3.0])[None, :, None, None].expand(3, -1, 2, 2)
    planes_FPX = to_yuv420p(pixels_3FYX)
    assert planes_FPX[:, 0, 0].tolist() == [16, 235, 125, 16, 235]
    assert (planes_FPX[:, 2] == 128).all()


def test_levels_of_eight_bits_come_through_unchanged():
    grey_FYX3 = np.repeat(np.arange(256, dtype=np.uint8), 12).reshape(256, 2, 2, 3)
    expected = (np.arange(256) * 219 / 255 + 16).round()
    assert as_planes(grey_FYX3)[:, 0, 0].tolist() == expected.tolist()


def test_colours_stand_on_the_left_column_of_their_two():
    """A red line on an even column colours its own sample most; on an odd one, both neighbours alike."""
    for column, red_differences in ((4, [0, 0, 2, 0]), (5, [0, 0, 1, 1])):
        pixels_3FYX = torch.full((3, 1, 2, 8), -1.0)
        pixels_3FYX[0, :, :, column] = 1
        difference_X = to_yuv420p(pixels_3FYX)[0, 2, 4:].int() - 128
        assert (difference_X / 28).round().int().tolist() == red_differences


@pytest.mark.parametrize("shape", [(3, 1, 3, 2), (3, 1, 2, 3), (1, 3, 2, 2), (3, 2, 2)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"pixels must be \(3, F, Y, X\), Y and X even, got"):
        to_yuv420p(torch.zeros(shape))
