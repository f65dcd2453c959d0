"""Every attention backend this machine has, against softmax written out in float64."""

import re
import sys

import pytest
import torch

from model.attention import FlashAttention3Attention, SdpaAttention, available_backends, choose_attention
from model.packing import LocalWindow, SequenceLayout
from model.parity.report import relative_error

DEVICES = [torch.device(name) for name in ("cpu", "cuda") if name == "cpu" or torch.cuda.is_available()]
FP32, BF16 = torch.float32, torch.bfloat16
LIMITS = {FP32: 1e-5, BF16: 2**-8}
"""Largest relative error (norm over norm) by dtype. The inputs are exact in the dtype, so a bfloat16 kernel rounds
twice, the softmax weights and the result: each time by at most 2**-8 of a value, about evenly spread, which is at most
2**-8 / sqrt(3) in the root mean square; two independent roundings make 0.82 * 2**-8."""

BACKENDS = [
    pytest.param(device, dtype, name, id=f"{device}-{str(dtype).removeprefix('torch.')}-{name}")
    for device in DEVICES
    for dtype in (FP32, BF16)
    for name in available_backends(device, dtype)
]
HEADS = [(4, 4, 16), (8, 2, 24), (5, 1, 128), (10, 2, 64)]
"""(H, G, K); the release has groups of five."""


def random_qkv(num_queries, num_keys, heads, dtype, device, seed=1):
    num_heads, num_kv_heads, head_dim = heads
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(num_queries, num_heads, head_dim, generator=generator)
    k, v = torch.randn(2, num_keys, num_kv_heads, head_dim, generator=generator)
    return [x.to(device, dtype) for x in (q, k, v)]


def reference(q_NHK, k_MGK, v_MGK, visible_NM=None):
    """Plain attention in float64 on the CPU."""
    q, k, v = (x.double().cpu() for x in (q_NHK, k_MGK, v_MGK))
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores_HNM = torch.einsum("nhk,mhk->hnm", q, k) / q.shape[2] ** 0.5
    if visible_NM is not None:
        scores_HNM = scores_HNM.masked_fill(~visible_NM, float("-inf"))
    weights_HNM = (scores_HNM - scores_HNM.amax(-1, keepdim=True)).exp()
    weights_HNM = weights_HNM / weights_HNM.sum(-1, keepdim=True)
    return torch.einsum("hnm,mhk->nhk", weights_HNM, v)


def visibility(window):
    """Dense mask built from the release's range form."""
    num_tokens = window.layout.num_tokens
    visible_NM = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for (q_start, q_stop), (k_start, k_stop) in zip(*(r.tolist() for r in window.ranges()), strict=True):
        visible_NM[q_start:q_stop, k_start:k_stop] = True
    return visible_NM


def test_the_cpu_has_at_least_torchs_choice_math_and_flash():
    for dtype in (FP32, BF16):
        assert {"sdpa", "sdpa_math", "sdpa_flash"} <= set(available_backends(torch.device("cpu"), dtype))


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 3), (77, 77), (131, 257)])
@pytest.mark.parametrize(("device", "dtype", "name"), BACKENDS)
def test_full_attention_equals_the_reference(device, dtype, name, num_queries, num_keys, heads):
    backend = available_backends(device, dtype)[name]
    q, k, v = random_qkv(num_queries, num_keys, heads, dtype, device)
    out = backend.attend(q, k, v)
    assert (out.shape, out.dtype, out.device.type) == (q.shape, dtype, device.type)
    expected = reference(q, k, v)
    assert relative_error(out.cpu(), expected) < LIMITS[dtype]
    assert relative_error(reference(q, k[1:], v[1:]), expected) > 3 * LIMITS[dtype], "a lost key must show"


@pytest.mark.parametrize("radius", [0, 1, 3, 11])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize(("device", "dtype", "name"), BACKENDS)
def test_local_windows_equal_the_reference(device, dtype, name, heads, radius):
    layout = SequenceLayout(latent_frames=6, latent_height=4, latent_width=6, num_audio=5, num_text=7)
    backend, window = available_backends(device, dtype)[name], LocalWindow(layout, radius)
    q, k, v = random_qkv(layout.num_tokens, layout.num_tokens, heads, dtype, device)
    expected = reference(q, k, v, visibility(window))
    assert relative_error(backend(q, k, v, window).cpu(), expected) < LIMITS[dtype]
    differs = relative_error(backend(q, k, v, None).cpu(), expected) > 3 * LIMITS[dtype]
    assert differs == (radius < 5), "a window narrower than the clip must change the result, a wider one must not"


@pytest.mark.parametrize(("device", "dtype", "name"), BACKENDS)
def test_a_frame_of_one_token_sees_its_window(device, dtype, name):
    layout = SequenceLayout(latent_frames=3, latent_height=2, latent_width=2, num_audio=1, num_text=2)
    backend, window = available_backends(device, dtype)[name], LocalWindow(layout, 0)
    q, k, v = random_qkv(layout.num_tokens, layout.num_tokens, (8, 2, 16), dtype, device)
    expected = reference(q, k, v, visibility(window))
    assert relative_error(backend(q, k, v, window).cpu(), expected) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", [FP32, BF16], ids=str)
def test_a_token_alone_is_its_own_value(dtype):
    q, k, v = random_qkv(1, 1, (8, 2, 16), dtype, torch.device("cpu"))
    assert torch.equal(SdpaAttention().attend(q, k, v), v.repeat_interleave(4, dim=1))


def test_named_kernels_are_the_ones_that_run():
    inputs = random_qkv(131, 257, (8, 2, 24), FP32, torch.device("cpu"))
    math, flash, free = (SdpaAttention(kernel).attend(*inputs) for kernel in ("math", "flash", None))
    assert not torch.equal(math, flash)
    assert torch.equal(flash, free), "on the CPU torch chooses its flash kernel"
    with pytest.raises(RuntimeError, match="No viable backend"):
        SdpaAttention("cudnn").attend(*inputs)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel must be one of math, flash, efficient, cudnn or None, got 'fast'"):
        SdpaAttention("fast")


FLASH_ATTENTION_3_STAND_IN = """
import torch.nn.functional as F

def flash_attn_func(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2)
    return {result}
"""
"""The package's interface: (batch, tokens, heads, head dim) in and out, fewer key than query heads allowed."""


@pytest.fixture
def install_stand_in(tmp_path, monkeypatch):
    def install(result):
        (tmp_path / "flash_attn_interface.py").write_text(FLASH_ATTENTION_3_STAND_IN.format(result=result))
        monkeypatch.setitem(sys.modules, "flash_attn_interface", None)  # so that afterwards all is as before
        monkeypatch.delitem(sys.modules, "flash_attn_interface")
        monkeypatch.syspath_prepend(tmp_path)

    return install


@pytest.mark.parametrize("result", ["out", "(out, None)"])
def test_flash_attention_3_is_called_by_its_interface(install_stand_in, result):
    install_stand_in(result)
    q, k, v = random_qkv(77, 131, (10, 2, 128), BF16, torch.device("cpu"))
    assert relative_error(FlashAttention3Attention().attend(q, k, v), reference(q, k, v)) < LIMITS[BF16]


def test_flash_attention_3_is_chosen_on_hopper_in_bf16_where_it_is_installed(install_stand_in, monkeypatch):
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)  # as if it were not installed
    assert isinstance(choose_attention(cuda, BF16), SdpaAttention)
    install_stand_in("out")
    assert isinstance(choose_attention(cuda, BF16), FlashAttention3Attention)
    assert isinstance(choose_attention(cuda, FP32), SdpaAttention)
    assert isinstance(choose_attention(torch.device("cpu"), BF16), SdpaAttention)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert isinstance(choose_attention(cuda, BF16), SdpaAttention)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "ModuleNotFoundError: "),
        ("raise ImportError('undefined symbol:\\n foo')", "ImportError: undefined symbol: foo"),
        ("raise OSError('libcudart.so.12: no such file')", "OSError: libcudart.so.12: no such file"),
        ("raise RuntimeError('built for another torch')", "RuntimeError: built for another torch"),
        ("", "AttributeError: module 'flash_attn_interface' has no attribute 'flash_attn_func'"),
    ],
)
def test_a_flash_attention_3_that_does_not_load_is_told_of(install_stand_in, tmp_path, monkeypatch, content, reason):
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    install_stand_in("out")
    path = tmp_path / "flash_attn_interface.py"
    path.unlink() if content is None else path.write_text(content)
    message = f"flash_attn_interface does not load, install a build for this torch: {reason}"
    with pytest.raises(ImportError, match=re.escape(message)):
        FlashAttention3Attention()
    if content is None:
        assert isinstance(choose_attention(cuda, BF16), SdpaAttention)
    else:
        with pytest.raises(ImportError, match=re.escape(message)):
            choose_attention(cuda, BF16)
    monkeypatch.setattr("model.attention._is_hopper", lambda device: True)
    assert available_backends(torch.device("cpu"), BF16).keys() >= {"sdpa", "sdpa_math", "sdpa_flash"}


def test_local_window_rejects_a_negative_radius():
    layout = SequenceLayout(2, 2, 2, 1, 2)
    with pytest.raises(ValueError, match="radius must be at least 0 latent frames, got -1"):
        LocalWindow(layout, -1)
