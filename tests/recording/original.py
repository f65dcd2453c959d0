"""Imports the original on a machine without a GPU and without the packages that need one.

Stand-ins replace what cannot be installed there: the compiler's decorators, flash attention, the state of a
distributed run, and packages for files that recording never touches. Attention computes in float32 with a softmax and
tells its log-sum-exp, by which the original itself joins the key ranges of a local window.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

# Not used here: imported first, since they look for the packages there are and must not find a stand-in.
import diffusers.models.modeling_utils
import diffusers.video_processor  # noqa: F401
import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.overrides import TorchFunctionMode


class OnCpu(TorchFunctionMode):
    """Sends to the CPU what the original sends to a GPU; with `widen`, every bf16 it asks for becomes float32."""

    def __init__(self, widen: bool) -> None:
        super().__init__()
        self.instead = {"cuda": "cpu"} | ({torch.bfloat16: torch.float32} if widen else {})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.cuda:
            return args[0]
        return func(*map(self._replace, args), **{name: self._replace(value) for name, value in (kwargs or {}).items()})

    def _replace(self, value):
        return self.instead.get(value, value) if isinstance(value, str | torch.dtype) else value


def attend(query: Tensor, key: Tensor, value: Tensor, return_attn_probs: bool = False):
    """flash_attn_func for one sequence: (1, N, heads, dim), in key and value with fewer heads.

    Returns:
        The output, or with `return_attn_probs` the output, the log-sum-exp (1, heads, N) and a third thing.
    """
    num_shared = query.shape[2] // key.shape[2]
    q, k, v = (rearrange(x.float(), "1 n h d -> h n d") for x in (query, key, value))
    k, v = (x.repeat_interleave(num_shared, dim=0) for x in (k, v))
    scores = q @ k.mT * query.shape[3] ** -0.5
    out = rearrange(scores.softmax(-1) @ v, "h n d -> 1 n h d").to(query.dtype)
    return (out, scores.logsumexp(-1)[None], None) if return_attn_probs else out


def register_op(name: str, **_options) -> Callable:
    """magi_register_custom_op: puts the bare function where torch.ops will find it."""
    namespace, op = name.split("::")

    def register(function):
        setattr(getattr(torch.ops, namespace), op, function)
        return function

    return register


class Unfold:
    """unfoldNd.UnfoldNd for patches that do not overlap: (N, C, T, H, W) to (N, C x patch, number of patches)."""

    def __init__(self, kernel_size: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        if kernel_size != stride:
            raise ValueError(f"stride must equal kernel_size {kernel_size}, got {stride}")
        self.sides = dict(zip(("a", "b", "c"), kernel_size, strict=True))

    def __call__(self, video: Tensor) -> Tensor:
        return rearrange(video, "n ch (t a) (h b) (w c) -> n (ch a b c) (t h w)", **self.sides)


def resample(signal: np.ndarray, num: int) -> np.ndarray:
    """scipy.signal.resample along axis 0 for fewer samples: the spectrum is cut, its ends folded where they meet."""
    num_given = len(signal)
    if not 0 < num <= num_given:
        raise ValueError(f"num must be between 1 and {num_given}, got {num}")
    spectrum = np.fft.fft(signal.astype(np.float64), axis=0)
    half = num // 2
    kept = np.concatenate([spectrum[: num - half], spectrum[num_given - half :]])
    if num % 2 == 0 and num < num_given:
        kept[half] += spectrum[half]
    return (np.fft.ifft(kept, axis=0).real * num / num_given).astype(signal.dtype)


def _stand_in(name: str, **attributes) -> None:
    module = sys.modules[name] = ModuleType(name)
    module.__dict__.update(attributes)
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], child, module)


def _install_stand_ins() -> None:
    _stand_in("magi_compiler", magi_compile=lambda **_options: lambda decorated: decorated)
    _stand_in("magi_compiler.api", magi_register_custom_op=register_op)
    _stand_in("magi_compiler.config", CompileConfig=object)
    _stand_in("flash_attn")
    _stand_in("flash_attn.flash_attn_interface", flash_attn_func=attend)
    if importlib.util.find_spec("scipy") is None:
        _stand_in("scipy")
        _stand_in("scipy.signal", resample=resample)
    for name, attributes in (("unfoldNd", {"UnfoldNd": Unfold}), ("imageio", {}), ("soundfile", {}), ("whisper", {})):
        if importlib.util.find_spec(name) is None:
            _stand_in(name, **attributes)
    nothing = dict.fromkeys(("get_cp_group", "initialize_distributed"), lambda *_args: None)
    ranks = dict.fromkeys([f"get_{kind}_rank" for kind in ("cp", "dp", "pp", "tp")], lambda: 0)
    _stand_in("inference.infra.distributed", get_cp_world_size=lambda: 1, **nothing, **ranks)
    _stand_in("inference.model.t5_gemma", get_t5_gemma_embedding=None)


def import_original(directory: str) -> SimpleNamespace:
    """Import the original's modules that recordings need.

    Args:
        directory: a checkout of the original's repository.

    Raises:
        ValueError: the directory holds no package `inference`.
    """
    if not (Path(directory) / "inference").is_dir():
        raise ValueError(f"original must be a checkout that holds the folder inference, got {directory}")
    sys.path.insert(0, directory)
    _install_stand_ins()
    with mock.patch.object(torch, "compile", lambda function: function):
        original = SimpleNamespace(
            config=importlib.import_module("inference.common.config"),
            dit=importlib.import_module("inference.model.dit.dit_module"),
            packing=importlib.import_module("inference.pipeline.data_proxy"),
            scheduler=importlib.import_module("inference.pipeline.scheduler_unipc"),
            generate=importlib.import_module("inference.pipeline.video_generate"),
            process=importlib.import_module("inference.pipeline.video_process"),
            turbo=importlib.import_module("inference.model.turbo_vaed.turbo_vaed_module"),
            wan=importlib.import_module("inference.model.vae2_2.vae2_2_module"),
            oobleck=importlib.import_module("inference.model.sa_audio.sa_audio_module"),
        )
    original.dit.HAS_FA3 = original.dit.HAS_MAGI_ATTENTION = False  # the other branch leads to the stand-in
    return original


@contextmanager
def replayed_noise(original: SimpleNamespace, draws: list[Tensor]) -> Iterator[None]:
    """Let the original's samplers draw the given noise, in order, and all of it."""
    left = list(draws)

    def draw(shape, **_options):
        if tuple(left[0].shape) != tuple(shape):
            raise ValueError(f"the next draw must be {tuple(shape)}, got {tuple(left[0].shape)}")
        return left.pop(0)

    one_rank = {"get_rank": lambda: 0, "get_world_size": lambda: 1}
    with (
        mock.patch.object(original.scheduler, "randn_tensor", draw),
        mock.patch.object(original.generate, "tqdm", lambda steps, **_options: steps),
        mock.patch.multiple("torch.distributed", **one_rank),
    ):
        yield
    if left:
        raise ValueError(f"{len(left)} of {len(draws)} draws were left over")
