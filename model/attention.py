"""Attention over one clip's token sequence, in full or in local windows.

Legend: N tokens, V of them video, H query heads, G key/value heads, K head dim.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model.packing import LocalWindow


class AttentionBackend(Protocol):
    """What the Transformer asks of an attention implementation."""

    def __call__(self, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, window: LocalWindow | None) -> Tensor:
        """Return (N, H, K) in the inputs' dtype; `window` None means that every token sees every token."""
        ...


class SdpaAttention:
    """PyTorch's scaled dot-product attention; a local window is one call per frame: hidden keys cost nothing."""

    def __call__(self, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, window: LocalWindow | None) -> Tensor:
        """See `AttentionBackend`."""
        if window is None or window.covers_everything:
            return self._attend(q_NHK, k_NGK, v_NGK)
        layout = window.layout
        per_frame, num_video = layout.tokens_per_frame, layout.num_video
        outputs = []
        for frame in range(layout.latent_frames):
            start, stop = window.frame_key_range(frame)
            keys = torch.cat([k_NGK[start:stop], k_NGK[num_video:]])
            values = torch.cat([v_NGK[start:stop], v_NGK[num_video:]])
            outputs.append(self._attend(q_NHK[frame * per_frame : (frame + 1) * per_frame], keys, values))
        outputs.append(self._attend(q_NHK[num_video:], k_NGK, v_NGK))
        return torch.cat(outputs)

    @staticmethod
    def _attend(q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor) -> Tensor:
        q_1HNK, k_1GNK, v_1GNK = (x.transpose(0, 1).unsqueeze(0) for x in (q_NHK, k_NGK, v_NGK))
        out_1HNK = F.scaled_dot_product_attention(q_1HNK, k_1GNK, v_1GNK, enable_gqa=True)
        return out_1HNK.squeeze(0).transpose(0, 1)
