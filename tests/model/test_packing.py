import pytest
import torch

from model.packing import PackedLayout, SequenceLayout, token_coordinates

SMALL = SequenceLayout(latent_frames=1, latent_height=2, latent_width=4, num_audio=1, num_text=3)
LARGE = SequenceLayout(latent_frames=2, latent_height=2, latent_width=2, num_audio=2, num_text=2)


def test_a_pack_holds_all_video_then_all_audio_then_all_text():
    small = torch.tensor([10, 11, 20, 30, 31, 32])
    large = torch.tensor([110, 111, 120, 121, 130, 131])
    pack = PackedLayout((SMALL, LARGE))
    packed = pack.join([small, large])
    assert packed.tolist() == [10, 11, 110, 111, 20, 120, 121, 30, 31, 32, 130, 131]
    assert pack.token_counts == (4, 3, 5)
    assert [clip.tolist() for clip in pack.split(packed)] == [small.tolist(), large.tolist()]


@pytest.mark.parametrize("clips", [(LARGE, SMALL), (SMALL, SMALL, SMALL), (LARGE, SMALL, LARGE, SMALL)])
def test_splitting_undoes_joining(clips):
    parts = [torch.randn(clip.num_tokens, 3, 2) for clip in clips]
    pack = PackedLayout(clips)
    packed = pack.join(parts)
    assert packed.shape == (sum(pack.token_counts), 3, 2)
    for part, again in zip(parts, pack.split(packed), strict=True):
        assert torch.equal(part, again)


def test_a_single_clip_is_not_copied():
    pack, tokens = PackedLayout((LARGE,)), torch.randn(LARGE.num_tokens, 3)
    assert pack.split(tokens)[0] is tokens
    assert pack.join([tokens]) is tokens
    assert pack.token_counts == LARGE.token_counts


def test_a_pack_of_nothing_is_refused():
    with pytest.raises(ValueError, match="clips must hold at least one layout, got none"):
        PackedLayout(())


@pytest.mark.parametrize(("num_audio", "reference"), [(1, 1), (4, 1), (5, 2), (8, 2), (20, 5), (21, 6)])
def test_four_audio_latents_are_one_latent_frame(num_audio, reference):
    """Recordings are of 4n + 1 audio latents, a driving recording may give any number."""
    layout = SequenceLayout(latent_frames=3, latent_height=2, latent_width=2, num_audio=num_audio, num_text=4)
    for style, expected in (("base", reference), ("sr", 3)):
        if style == "sr" and num_audio == 1:
            continue  # has no scale
        audio_A9 = token_coordinates(layout, style)[3 : 3 + num_audio]
        assert audio_A9[:, 0].tolist() == list(range(num_audio))
        assert audio_A9[:, 3:].unique(dim=0).tolist() == [[num_audio, 1, 1, expected, 1, 1]]
