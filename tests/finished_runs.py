"""Finished runs of rendered clips: muxed, committed and booked by the project's own code, without a model."""

import numpy as np
import torch

from actors.fingerprint import LaneFingerprint
from actors.media import resample
from actors.muxing import ClipMuxer
from actors.request import ClipRequest
from actors.row import new_row, pack
from actors.small_world.clips import SmallWorldClip
from actors.stage import Compute
from actors.writing import Writing
from model.geometry import FRAMES_PER_SECOND, MODEL_SAMPLE_RATE_HZ, OUTPUT_SAMPLE_RATE_HZ
from tests.pictures import as_planes


def mux(frames_FYX3: np.ndarray, waveform_S: np.ndarray) -> tuple[bytes, bytes]:
    """MP4 and poster, the sound as long as the picture."""
    height, width = frames_FYX3.shape[1:3]
    num_samples = len(frames_FYX3) * OUTPUT_SAMPLE_RATE_HZ // FRAMES_PER_SECOND
    sound_S = resample(waveform_S, MODEL_SAMPLE_RATE_HZ, OUTPUT_SAMPLE_RATE_HZ)[:num_samples]
    sound_S = np.pad(sound_S, (0, num_samples - len(sound_S)))
    with ClipMuxer(width, height) as muxer:
        muxer.write_audio(np.stack([sound_S, sound_S]))
        muxer.write_frames(as_planes(frames_FYX3))
        return muxer.finish(), muxer.poster


def rendered(clip: SmallWorldClip, resolution: str = "256p") -> tuple[np.ndarray, np.ndarray]:
    """Picture (F, Y, X, 3) as long as asked for, and sound (S,) at 51.2 kHz."""
    return clip.frames(resolution)[: clip.length.num_frames], clip.waveform()


def commit(output_url: str, request: ClipRequest, frames_FYX3: np.ndarray, waveform_S: np.ndarray) -> None:
    """Write a finished clip and its commit marker, as jobs.generate does."""
    mp4, poster = (torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in mux(frames_FYX3, waveform_S))
    writing = Writing(Compute("cpu", "fp32"), output_url, LaneFingerprint("test"), {}, overwrites=True)
    row = {**new_row(request.id, request.model_dump_json()), "payload": pack({"mp4": mp4, "poster": poster})}
    failure = writing(row)["failure"]
    assert failure is None, failure
