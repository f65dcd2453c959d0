"""Attention over one clip's tokens, in full or in local windows, on the kernels there are.

Legend: N query tokens, M key tokens, V video tokens, H query heads, G key/value heads, K head dim, S clips. Query head
h uses key/value head h // (H / G); scores are scaled by 1 / sqrt(K).
"""

from __future__ import annotations

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from model.packing import LocalWindow, PackedLayout

SdpaKernel = Literal["math", "flash", "efficient", "cudnn"]

_SDPA_KERNELS: dict[SdpaKernel, SDPBackend] = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
_FLASH_ATTENTION_3 = "flash_attn_interface"
"""The package; FlashAttention-2 has a module of this name too, but inside its package `flash_attn`."""
_HOPPER = (9, 0)


class AttentionBackend(ABC):
    """An attention implementation: a subclass says how queries attend to keys, local windows are built on that.

    Attributes:
        name: under which `available_backends` gives it.
    """

    name: str

    @abstractmethod
    def attend(self, q_NHK: Tensor, k_MGK: Tensor, v_MGK: Tensor) -> Tensor:
        """Let every query see every key.

        Args:
            q_NHK: queries (N, H, K).
            k_MGK: keys (M, G, K), same dtype; G divides H.
            v_MGK: values (M, G, K), same dtype.

        Returns:
            (N, H, K) in the inputs' dtype.
        """

    def __call__(self, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, window: LocalWindow | None) -> Tensor:
        """Attend within one clip.

        A local window is one call per latent frame: hidden keys cost nothing.

        Args:
            q_NHK: queries (N, H, K) of the clip's tokens in the order video, audio, text.
            k_NGK: keys (N, G, K), same dtype.
            v_NGK: values (N, G, K), same dtype.
            window: what a token sees; None: every token of the clip.

        Returns:
            (N, H, K) in the inputs' dtype.
        """
        if window is None or window.covers_everything:
            return self.attend(q_NHK, k_NGK, v_NGK)
        layout = window.layout
        per_frame, num_video = layout.tokens_per_frame, layout.num_video
        outputs = []
        for frame in range(layout.latent_frames):
            start, stop = window.frame_key_range(frame)
            keys = torch.cat([k_NGK[start:stop], k_NGK[num_video:]])
            values = torch.cat([v_NGK[start:stop], v_NGK[num_video:]])
            outputs.append(self.attend(q_NHK[frame * per_frame : (frame + 1) * per_frame], keys, values))
        outputs.append(self.attend(q_NHK[num_video:], k_NGK, v_NGK))
        return torch.cat(outputs)

    def attend_clips(self, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, clips_5S: Tensor, radius: int | None) -> Tensor:
        """Attend within each clip of a sequence; clips do not see each other.

        Args:
            q_NHK: queries (N, H, K) of all clips' tokens, as `PackedLayout` orders them.
            k_NGK: keys (N, G, K), same dtype.
            v_NGK: values (N, G, K), same dtype.
            clips_5S: what clips these are, from `PackedLayout.table`.
            radius: of the local windows, in latent frames; None: every token sees its whole clip.

        Returns:
            (N, H, K) in the inputs' dtype.
        """
        pack = PackedLayout.from_table(clips_5S)
        windows = [None if radius is None else LocalWindow(clip, radius) for clip in pack.clips]
        clips = zip(*(pack.split(x) for x in (q_NHK, k_NGK, v_NGK)), windows, strict=True)
        return pack.join([self(q, k, v, window) for q, k, v, window in clips])


class SdpaAttention(AttentionBackend):
    """PyTorch's scaled dot-product attention.

    Args:
        kernel: the one kernel to use; None lets torch choose. Naming one switches the others off in the whole process
            while a call runs, so two threads must not name different ones.

    Raises:
        ValueError: for an unknown kernel. A kernel that cannot run refuses when called, with a RuntimeError.
    """

    def __init__(self, kernel: SdpaKernel | None = None):
        if kernel is not None and kernel not in _SDPA_KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(_SDPA_KERNELS)} or None, got {kernel!r}")
        self.kernel = kernel
        self.name = "sdpa" if kernel is None else f"sdpa_{kernel}"

    def attend(self, q_NHK: Tensor, k_MGK: Tensor, v_MGK: Tensor) -> Tensor:
        """See `AttentionBackend.attend`."""
        q_1HNK, k_1GMK, v_1GMK = (x.transpose(0, 1).unsqueeze(0) for x in (q_NHK, k_MGK, v_MGK))
        if self.kernel is None:
            out_1HNK = F.scaled_dot_product_attention(q_1HNK, k_1GMK, v_1GMK, enable_gqa=True)
        else:
            with sdpa_kernel(_SDPA_KERNELS[self.kernel]):
                out_1HNK = F.scaled_dot_product_attention(q_1HNK, k_1GMK, v_1GMK, enable_gqa=True)
        return out_1HNK.squeeze(0).transpose(0, 1)


class FlashAttention3Attention(AttentionBackend):
    """FlashAttention-3, for Hopper GPUs, in bfloat16 or float16.

    Written from the interface of the package `flash_attn_interface` (Dao-AILab/flash-attention, folder `hopper`) and
    tested with a stand-in for it only: it has not run on a GPU yet.

    Raises:
        ImportError: if the package is not installed or does not load.
    """

    name = "flash_attention_3"

    def __init__(self) -> None:
        try:
            module = importlib.import_module(_FLASH_ATTENTION_3)
            self._flash_attn_func: Callable[..., Tensor | tuple[Tensor, ...]] = module.flash_attn_func
        except Exception as error:  # a build for another torch or CUDA fails in whatever way its loader does
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ImportError(
                f"{_FLASH_ATTENTION_3} does not load, install a build for this torch: {reason}"
            ) from error

    def attend(self, q_NHK: Tensor, k_MGK: Tensor, v_MGK: Tensor) -> Tensor:
        """See `AttentionBackend.attend`."""
        out = self._flash_attn_func(q_NHK.unsqueeze(0), k_MGK.unsqueeze(0), v_MGK.unsqueeze(0))
        # Older builds give the log-sum-exp of the scores beside the result.
        out_1NHK = out if isinstance(out, Tensor) else out[0]
        return out_1NHK.squeeze(0)


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == _HOPPER


def choose_attention(device: torch.device, dtype: torch.dtype) -> AttentionBackend:
    """The backend to run a Transformer with: FlashAttention-3 where it is installed and can run, else torch's choice.

    Args:
        device: where the Transformer runs.
        dtype: its compute dtype.

    Raises:
        ImportError: if FlashAttention-3 is installed for this GPU and does not load; slower kernels would hide that.
    """
    if dtype == torch.bfloat16 and _is_hopper(device) and find_spec(_FLASH_ATTENTION_3) is not None:
        return FlashAttention3Attention()
    return SdpaAttention()


def available_backends(device: torch.device, dtype: torch.dtype) -> dict[str, AttentionBackend]:
    """Every backend that runs on a device, found by trying each on the smallest clip: one token of each modality.

    Args:
        device: where to try.
        dtype: of queries, keys and values.

    Returns:
        Backends by name: `sdpa` (torch's choice), `sdpa_math`, `sdpa_flash`, `sdpa_efficient`, `sdpa_cudnn`,
        `flash_attention_3`.
    """
    candidates: dict[str, Callable[[], AttentionBackend]] = {"sdpa": SdpaAttention}
    candidates |= {f"sdpa_{kernel}": partial(SdpaAttention, kernel) for kernel in _SDPA_KERNELS}
    if _is_hopper(device):
        candidates["flash_attention_3"] = FlashAttention3Attention
    probed = {name: _probe(make, device, dtype) for name, make in candidates.items()}
    return {name: backend for name, backend in probed.items() if backend is not None}


def _probe(make: Callable[[], AttentionBackend], device: torch.device, dtype: torch.dtype) -> AttentionBackend | None:
    q_NHK = torch.zeros(3, 4, 64, device=device, dtype=dtype)
    k_NGK = torch.zeros(3, 2, 64, device=device, dtype=dtype)
    try:
        backend = make()
        with warnings.catch_warnings():  # torch warns at length why a kernel refuses
            warnings.simplefilter("ignore")
            backend.attend(q_NHK, k_NGK, k_NGK)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # RuntimeErrors too, but of a device that is full or broken
    except (ImportError, RuntimeError):
        return None
    return backend
