"""Attention that a compiled graph calls as one operator and does not look into.

Legend: N tokens, H query heads, G key/value heads, K head dim, S clips.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.attention import AttentionBackend

_FULL = -1
"""Stands for no local window, where the operator takes a number."""

_backends: dict[str, AttentionBackend] = {}


@torch.library.custom_op("magihuman::attention", mutates_args=())
def _attention(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, clips_5S: Tensor, radius: int, backend: str) -> Tensor:
    window = None if radius == _FULL else radius
    return _backends[backend].attend_clips(q_NHK, k_NGK, v_NGK, clips_5S, window).contiguous()


@_attention.register_fake
def _(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, clips_5S: Tensor, radius: int, backend: str) -> Tensor:
    return q_NHK.new_empty(q_NHK.shape)


class OpaqueAttention(AttentionBackend):
    """A backend behind an operator of its own: the sequence's clips and windows can differ from call to call.

    Args:
        backend: what attends. Its name stands in compiled graphs, so one name must not mean two things in a process.
    """

    def __init__(self, backend: AttentionBackend):
        self.backend = backend
        self.name = backend.name
        _backends[self.name] = backend

    def attend(self, q_NHK: Tensor, k_MGK: Tensor, v_MGK: Tensor) -> Tensor:
        """See `AttentionBackend.attend`."""
        return self.backend.attend(q_NHK, k_MGK, v_MGK)

    def attend_clips(self, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, clips_5S: Tensor, radius: int | None) -> Tensor:
        """See `AttentionBackend.attend_clips`."""
        return _attention(q_NHK, k_NGK, v_NGK, clips_5S, _FULL if radius is None else radius, self.name)
