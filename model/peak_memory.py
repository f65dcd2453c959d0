"""How much memory a computation needs at once, found by running it on the meta device, where tensors have no numbers.

Legend: N query tokens, M key tokens, H query heads, G key/value heads, K head dim.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from model.attention import AttentionBackend


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of tensors that live at the same time while it is entered.

    Args:
        without: tensors that are there anyway and do not count, such as parameters.

    Attributes:
        live_bytes: at the moment.
        peak_bytes: the highest so far.
    """

    def __init__(self, without: Iterable[Tensor] = ()):
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known = WeakIdKeyDictionary()
        for tensor in without:
            self._known[tensor.untyped_storage()] = True

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known[storage] = True
            self.live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel makes and keeps: its inputs, its output and a number per query and head."""

    @staticmethod
    def forward(ctx: Any, q_NHK: Tensor, k_MGK: Tensor, v_MGK: Tensor) -> Tensor:
        out_NHK = torch.empty_like(q_NHK)
        ctx.save_for_backward(q_NHK, k_MGK, v_MGK, out_NHK, q_NHK.new_empty(q_NHK.shape[:2], dtype=torch.float32))
        return out_NHK

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_NHK, k_MGK, v_MGK, _, _ = ctx.saved_tensors
        return torch.empty_like(q_NHK), torch.empty_like(k_MGK), torch.empty_like(v_MGK)


class AttentionWithoutNumbers(AttentionBackend):
    """Attention for the meta device: it takes the memory of a fused kernel, which keeps no matrix of scores."""

    def attend(self, q_NHK: Tensor, k_MGK: Tensor, v_MGK: Tensor) -> Tensor:
        """See `AttentionBackend.attend`; the result has no meaning."""
        return _FusedAttention.apply(q_NHK, k_MGK, v_MGK)
