"""What a base model is worth on clips it was not trained on: its loss, and how many of the words it says are right.

Legend: 1 one clip; A audio latents; L text tokens; C channels; S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from actors.media import resample
from actors.row import unpack
from actors.small_world.listening import SAMPLE_RATE_HZ, WordRecogniser
from actors.small_world.shards import read_shard, shard_urls
from actors.small_world.vocabulary import WORDS
from actors.training.steps import step_generator
from model.audio_vae import AudioDecoder
from model.denoiser import Conditions, Denoiser, Latents, initial_noise, noise_from
from model.geometry import MODEL_SAMPLE_RATE_HZ
from model.sampling import GuidedSampling, sample_guided
from model.training.clips import TrainingClip, noise_like, squared_errors
from model.training.flow_matching import flow_examples
from model.transformer import Transformer

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels at which the loss is taken."""


@dataclass(frozen=True)
class HeldOut:
    """Figures of one model.

    Attributes:
        num_clips: it was judged by.
        video_loss: mean squared error of the video's velocity over clips and `LEVELS`.
        audio_loss: likewise of the audio's.
        word_accuracy: share of clips whose sound is nearest to the word asked for.
        language_accuracy: share of clips whose sound is nearest to a word of the language asked for.
    """

    num_clips: int
    video_loss: float
    audio_loss: float
    word_accuracy: float
    language_accuracy: float


def held_out_figures(
    transformer: Transformer,
    folder_url: str,
    num_clips: int,
    negative_text_1LC: Tensor,
    sampling: GuidedSampling,
    decoder: AudioDecoder,
    recogniser: WordRecogniser,
) -> HeldOut:
    """Judge a base model.

    Args:
        transformer: on the CPU.
        folder_url: shards of latents of clips it was not trained on.
        num_clips: at most so many of them, the first ones.
        negative_text_1LC: features of the negative prompt (1, L, C) float32.
        sampling: how clips are made.
        decoder: of audio.
        recogniser: of words.
    """
    rows = list(islice((row for url in shard_urls(folder_url) for row in read_shard(url)), num_clips))
    clips = [_clip(row, negative_text_1LC) for row in rows]
    video_loss, audio_loss = _losses(transformer, clips)
    heard = [recogniser.hear(sound) for sound in _sounds(transformer, clips, sampling, decoder)]
    asked = [WORDS[int(row["id"].rpartition("-")[2]) % len(WORDS)] for row in rows]
    pairs = [(one.word if one else None, word) for one, word in zip(heard, asked, strict=True)]
    return HeldOut(
        len(rows),
        video_loss,
        audio_loss,
        sum(one == word for one, word in pairs) / len(pairs),
        sum(one is not None and one.language == word.language for one, word in pairs) / len(pairs),
    )


def _clip(row: dict[str, Any], negative_text_1LC: Tensor) -> TrainingClip:
    tensors = {name: tensor.float().unsqueeze(0) for name, tensor in unpack(row["tensors"]).items()}
    return TrainingClip(Latents(tensors["video"], tensors["audio"]), Conditions(tensors["text"], negative_text_1LC))


@torch.inference_mode()
def _losses(transformer: Transformer, clips: Sequence[TrainingClip]) -> tuple[float, float]:
    sums = torch.zeros(2)
    for number, clip in enumerate(clips):
        same = [clip] * len(LEVELS)
        noises = noise_like([one.clean for one in same], noise_from(step_generator(0, number, 0), transformer.device))
        examples = flow_examples(same, noises, torch.tensor(LEVELS))
        denoise = Denoiser(transformer, [one.text_1LC for one in examples.conditions], examples.noisy)
        predictions = denoise(examples.noisy, examples.levels_S)
        sums += torch.stack(squared_errors(predictions, examples.targets, examples.conditions))
    video, audio = (sums / len(clips)).tolist()
    return video, audio


def _sounds(
    transformer: Transformer, clips: Sequence[TrainingClip], sampling: GuidedSampling, decoder: AudioDecoder
) -> Iterator[Any]:
    for number, clip in enumerate(clips):
        _, num_channels, *size = clip.clean.video_1CTHW.shape
        _, num_audio, num_audio_channels = clip.clean.audio_1AC.shape
        noise = noise_from(step_generator(1, number, 0), transformer.device)
        start = initial_noise((size[0], size[1], size[2]), num_audio, (num_channels, num_audio_channels), noise)
        [made] = sample_guided(transformer, [start], [clip.conditions], sampling)
        waveform_2S = decoder.decode_at_model_rate(made.audio_1AC)
        yield resample(waveform_2S.mean(dim=0).numpy(), MODEL_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ)
