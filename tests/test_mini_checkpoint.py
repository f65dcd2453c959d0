"""What the shipped small checkpoint is worth, on clips it has not been trained with.

Its autoencoders alone are judged for `-m soak`: words and colours of whole clips, which pass both, are those of
`tests/jobs/test_demo.py`.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from actors.small_world.clips import SmallWorldClip
from actors.small_world.listening import SAMPLE_RATE_HZ, WordRecogniser
from actors.small_world.vocabulary import WORDS
from model.audio_vae import resample_fourier
from model.checkpoint import Checkpoint
from model.geometry import MODEL_SAMPLE_RATE_HZ

SEED = 3_000_000
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint():
    return Checkpoint("checkpoints/mini")


def test_all_of_it_is_small():
    num_bytes = sum(path.stat().st_size for path in Path("checkpoints/mini").rglob("*") if path.is_file())
    assert 0 < num_bytes < 32_000_000


@pytest.mark.soak
@pytest.mark.parametrize(("resolution", "least_db"), [("256p", 27.5), ("540p", 28.5)])
def test_pictures_survive_the_video_autoencoder(checkpoint, espeak, resolution, least_db):
    encoder = checkpoint.image_encoder(torch.float32, CPU)
    decoder = checkpoint.video_decoder(torch.float32, CPU)
    errors = []
    for index in range(6):
        frames_FYX3 = SmallWorldClip.sample(SEED, 7 * index).frames(resolution)
        pixels_3FYX = torch.from_numpy(frames_FYX3).permute(3, 0, 1, 2) / 127.5 - 1
        made_3FYX = torch.cat(list(decoder.decode_chunks(encoder.encode_pixels(pixels_3FYX.unsqueeze(0)))), dim=1)
        errors.append(F.mse_loss(made_3FYX.clamp(-1, 1), pixels_3FYX))
    psnr_db = 10 * torch.log10(4 / torch.stack(errors)).mean()
    assert psnr_db > least_db


@pytest.mark.soak
def test_words_survive_the_audio_codec(checkpoint, espeak):
    encoder, decoder = checkpoint.audio_encoder(CPU), checkpoint.audio_decoder(CPU)
    recogniser = WordRecogniser.of_small_world(num_threads=2)
    right = 0
    for index in range(0, len(WORDS), 4):
        clip = SmallWorldClip.sample(SEED, index)
        mean_1CA = encoder.encode_mean_and_scale(torch.from_numpy(clip.waveform()).expand(2, -1)).chunk(2, dim=1)[0]
        made_S = decoder.decode_at_model_rate(mean_1CA.transpose(1, 2)).mean(dim=0)
        num_samples = len(made_S) * SAMPLE_RATE_HZ // MODEL_SAMPLE_RATE_HZ
        heard = recogniser.hear(resample_fourier(made_S.unsqueeze(0), num_samples)[0].numpy())
        right += heard is not None and heard.word == clip.word
    assert right >= 24, "of 25"
