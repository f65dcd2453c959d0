"""bfloat16 by way of float32 is bfloat16."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from model.widened_products import WidenedProducts, fast_bfloat16


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


PRODUCTS = {
    "linear": (F.linear, [draw(4, 16, 8), draw(24, 8, seed=1), draw(24, seed=2)]),
    "convolution in time": (F.conv1d, [draw(4, 16, 8), draw(6, 16, 3, seed=1)]),
    "convolution in space": (F.conv2d, [draw(1, 4, 16, 8), draw(6, 4, 3, 3, seed=1)]),
    "convolution in both": (F.conv3d, [draw(1, 4, 3, 8, 8), draw(6, 4, 2, 3, 3, seed=1), draw(6, seed=2)]),
    "matrices": (lambda one, other: one @ other, [draw(4, 16, 8), draw(4, 8, 5, seed=1)]),
    "matrices by name": (torch.matmul, [draw(4, 16, 8), draw(4, 8, 5, seed=1)]),
    "matrices by method": (lambda one, other: one.matmul(other), [draw(4, 16, 8), draw(4, 8, 5, seed=1)]),
    "batches of matrices": (torch.bmm, [draw(4, 16, 8), draw(4, 8, 5, seed=1)]),
    "attention": (F.scaled_dot_product_attention, [draw(4, 16, 8), draw(4, 16, 8, seed=1), draw(4, 16, 8, seed=2)]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_the_exact_one_rounded_once(name):
    product, tensors = PRODUCTS[name]
    with WidenedProducts():
        made = product(*tensors)
    assert made.dtype == torch.bfloat16
    exact = product(*(tensor.double() for tensor in tensors))
    # bfloat16 keeps 8 bits: rounding moves a number by 2**-9 to 2**-8 of itself.
    assert ((made.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"padding": 1, "stride": 2},
        {"padding": (0, 1, 1), "dilation": (1, 2, 1)},
        {"padding": "same"},
        {"groups": 2},
    ],
    ids=str,
)
def test_a_convolution_in_both_takes_what_pytorch_takes(arguments):
    x, weight = draw(1, 4, 21, 8, 8), draw(6, 4 // arguments.get("groups", 1), 3, 3, 3, seed=1)
    with WidenedProducts():
        made, made_of_one = F.conv3d(x, weight, **arguments), F.conv3d(x[0], weight, **arguments)
    exact = F.conv3d(x.double(), weight.double(), **arguments)
    assert made.shape == exact.shape
    assert ((made.double() - exact).abs() <= 2**-8 * exact.abs() + 1e-5).all()
    assert ((made_of_one.double() - exact[0]).abs() <= 2**-8 * exact[0].abs() + 1e-5).all()


def test_other_dtypes_and_functions_are_left_alone():
    wide, narrow = draw(4, 8).float(), draw(4, 8)
    with WidenedProducts():
        assert F.linear(wide, wide).equal(wide @ wide.T)
        assert (narrow + narrow).dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match="dtype"):
            F.linear(wide, wide.double())


def test_a_gpu_and_a_processor_that_can_are_left_alone():
    assert not isinstance(fast_bfloat16(torch.device("cuda")), WidenedProducts)
    flags = Path("/proc/cpuinfo").read_text().split() if sys.platform == "linux" else []
    can = "avx512_bf16" in flags if "avx512f" in flags else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert isinstance(fast_bfloat16(torch.device("cpu")), WidenedProducts) != can
