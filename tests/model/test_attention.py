import pytest
import torch

from model.attention import SdpaAttention
from model.packing import LocalWindow, SequenceLayout


def masked_reference(q_NHK, k_NGK, v_NGK, window):
    """Dense mask built from the release's range form, float64 softmax."""
    num_tokens, num_heads, head_dim = q_NHK.shape
    visible = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for (q_start, q_stop), (k_start, k_stop) in zip(*(r.tolist() for r in window.ranges()), strict=True):
        visible[q_start:q_stop, k_start:k_stop] = True
    repeats = num_heads // k_NGK.shape[1]
    k, v = (x.double().repeat_interleave(repeats, dim=1) for x in (k_NGK, v_NGK))
    scores = torch.einsum("nhk,mhk->hnm", q_NHK.double(), k) / head_dim**0.5
    return torch.einsum("hnm,mhk->nhk", scores.masked_fill(~visible, float("-inf")).softmax(-1), v)


@pytest.mark.parametrize("radius", [0, 1, 3, 11])
def test_local_window_equals_dense_mask(radius):
    layout = SequenceLayout(latent_frames=6, latent_height=4, latent_width=6, num_audio=5, num_text=7)
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(layout.num_tokens, 4, 16, generator=generator)
    k, v = torch.randn(2, layout.num_tokens, 2, 16, generator=generator)
    window = LocalWindow(layout, radius)
    expected = masked_reference(q, k, v, window)
    torch.testing.assert_close(SdpaAttention()(q, k, v, window).double(), expected, atol=1e-5, rtol=1e-5)
    differs = not torch.allclose(SdpaAttention()(q, k, v, None).double(), expected, atol=1e-3)
    assert differs == (radius < 5), "a window narrower than the clip must change the result, a wider one must not"


def test_local_window_rejects_a_negative_radius():
    layout = SequenceLayout(2, 2, 2, 1, 2)
    with pytest.raises(ValueError, match="radius must be at least 0 latent frames, got -1"):
        LocalWindow(layout, -1)
