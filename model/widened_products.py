"""bfloat16 on processors that have no instructions for it.

There PyTorch's kernels take four times (AVX-512) to fifteen times (AVX2) as long in bfloat16 as in float32. A product
of bfloat16 numbers is exact in float32, sums are kept in float32 either way, and the result is rounded: so the same
products in float32, rounded afterwards, are what bfloat16 means, to within the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

_PRODUCTS = frozenset(
    (
        F.linear,
        F.conv1d,
        F.conv2d,
        F.conv3d,
        F.scaled_dot_product_attention,
        torch.matmul,
        torch.bmm,
        Tensor.matmul,
        Tensor.__matmul__,
    )
)


class WidenedProducts(TorchFunctionMode):
    """While it is entered, products of bfloat16 tensors on the CPU are computed in float32 and rounded."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function, in float32 if it is a product."""
        kwargs = kwargs or {}
        if func in _PRODUCTS and any(_is_narrow(leaf) for leaf in tree_leaves((args, kwargs))):
            args, kwargs = tree_map(_widen, (args, kwargs))
            return (_conv3d if func is F.conv3d else func)(*args, **kwargs).bfloat16()
        return func(*args, **kwargs)


def fast_bfloat16(device: torch.device) -> AbstractContextManager[Any]:
    """What computing in bfloat16 is to be put into on a device: nothing where it has instructions for that."""
    return WidenedProducts() if device.type == "cpu" and not has_bfloat16_instructions() else nullcontext()


def has_bfloat16_instructions() -> bool:
    """Whether this processor multiplies bfloat16 itself, by what PyTorch and oneDNN know of it."""
    if torch.cpu._is_avx512_supported():
        # For oneDNN that is enough, but without AVX512_BF16 it took four times as long as in float32.
        return torch.cpu._is_avx512_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv3d` of float32 by oneDNN, whatever the size.

    With one thread PyTorch takes small inputs to a loop of its own, which was seven times as slow for four channels.
    """
    if x.ndim != 5 or isinstance(padding, str) or not torch.backends.mkldnn.is_available():
        return F.conv3d(x, weight, bias, stride, padding, dilation, groups)
    padding_THW, stride_THW, dilation_THW = (
        (value,) * 3 if isinstance(value, int) else tuple(value) for value in (padding, stride, dilation)
    )
    return torch.mkldnn_convolution(x, weight, bias, padding_THW, stride_THW, dilation_THW, groups)


def _is_narrow(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16 and value.device.type == "cpu"


def _widen(value: Any) -> Any:
    return value.float() if _is_narrow(value) else value
