"""Training data of the small world, made by Ray Data: one task per shard, and shards that are there are left alone."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
from PIL import Image
from ray.data import ActorPoolStrategy, DataContext

from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.small_world.clips import SmallWorldClip
from actors.small_world.shards import ENCODERS, ClipShards, LatentShards, missing_shards, read_column
from actors.storage import join, list_names, read_bytes, write_atomically, write_folder
from model.checkpoint_writer import TEXT_ENCODER_FOLDER
from model.inspection import check_components
from model.small_text_encoder import phrase_tokenizer, write_text_encoder
from pipeline.provenance import MADE_FROM_NAME, claim, component_fingerprints, read_made_from

MANIFEST_NAME = "manifest.jsonl"


def make_clips(shards: ClipShards, num_cpus: int) -> Iterator[int]:
    """Render the shards that are missing.

    Args:
        shards: what to render.
        num_cpus: tasks at a time.

    Yields:
        How many clips each finished shard holds.

    Raises:
        ValueError: the folder holds other clips.
        SpeechError: espeak-ng cannot be run.
        StorageError: the store refuses or is out of reach.
    """
    SmallWorldClip.sample(shards.seed, 0).waveform()  # what fails in a task comes back as a page of Ray's
    facts = {name: value for name, value in asdict(shards).items() if name != "folder_url"}
    claim(shards.folder_url, facts)
    yield from _run(missing_shards(shards.folder_url, shards.num_shards), _Rendering, {"shards": shards}, num_cpus)


def make_latents(
    clips_url: str,
    folder_url: str,
    source: CheckpointSource,
    negative_prompt: str,
    num_cpus: int,
    num_large_shards: int | None = None,
) -> Iterator[int]:
    """Encode the shards that are missing; arguments as of `LatentShards`, and the text for prompts that are dropped.

    Yields:
        How many clips each finished shard holds.

    Raises:
        ValueError: there are no clips, they are not finished, or the folder holds latents of other clips or encoders.
        CheckpointError: an encoder is absent or not sound.
        StorageError: the store refuses or is out of reach.
    """
    facts = read_made_from(clips_url)
    if facts is None:
        raise ValueError(f"{clips_url} must hold clips that jobs.small_world made, found no {MADE_FROM_NAME}")
    num_shards = ClipShards(clips_url, **facts).num_shards
    if missing := missing_shards(clips_url, num_shards):
        raise ValueError(f"{clips_url} must hold {num_shards} shards of clips, {len(missing)} are not made yet")
    check_components(open_checkpoint(source.url), ENCODERS)
    made_from = {
        "clips": facts,
        "checkpoint": component_fingerprints(source.url, *ENCODERS),
        "negative_prompt": negative_prompt,
        "num_large_shards": num_large_shards,
    }
    claim(folder_url, made_from)
    arguments = {
        "clips_url": clips_url,
        "folder_url": folder_url,
        "source": source,
        "negative_prompt": negative_prompt,
        "num_large_shards": num_large_shards,
    }
    yield from _run(missing_shards(folder_url, num_shards), _Encoding, arguments, num_cpus)


def write_small_text_encoder(
    clips_url: str,
    checkpoint_url: str,
    negative_prompt: str,
    vocabulary_size: int,
    min_frequency: int,
    width: int,
    seed: int,
) -> None:
    """Add a text encoder to a checkpoint: tokens learnt from the prompts of clips, weights drawn and left as they are.

    The same clips and numbers give the same files; what is there of them is left alone.

    Args:
        clips_url: folder of clip shards.
        checkpoint_url: where it goes.
        negative_prompt: its phrases become tokens, too.
        vocabulary_size: at most so many tokens.
        min_frequency: a phrase of the clips' prompts is a token if it stands there at least so often.
        width: of the features, a multiple of 16.
        seed: of the weights.

    Raises:
        ValueError: a number is not allowed, there are no clips, or the checkpoint has another text encoder.
        StorageError: the store refuses or is out of reach.
    """
    with TemporaryDirectory() as folder:
        tokenizer = phrase_tokenizer(
            read_column(clips_url, "prompt"), vocabulary_size, min_frequency, [negative_prompt]
        )
        write_text_encoder(Path(folder) / TEXT_ENCODER_FOLDER, tokenizer, width, seed, is_encoder_only=True)
        there = join(checkpoint_url, TEXT_ENCODER_FOLDER)
        for name in list_names(there):
            made = Path(folder, TEXT_ENCODER_FOLDER, name)
            if not made.is_file() or read_bytes(join(there, name)) != made.read_bytes():
                raise ValueError(f"{there} holds another text encoder: name another checkpoint, or remove it")
            made.unlink()
        write_folder(checkpoint_url, Path(folder))


class _Rendering:
    def __init__(self, shards: ClipShards):
        self.shards = shards

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"num_clips": self.shards.write(int(row["number"]))}


class _Encoding:
    def __init__(self, negative_prompt: str, **arguments: Any):
        self.shards = LatentShards(**arguments)
        self.shards.write_negative_prompt(negative_prompt)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"num_clips": self.shards.write(int(row["number"]))}


def _run(numbers: list[int], actor: Callable[..., Any], arguments: dict[str, Any], num_cpus: int) -> Iterator[int]:
    if not numbers:
        return
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Cut here, not by `repartition`, whose tasks would wait for a CPU beside the actors'.
    dataset = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    pool = ActorPoolStrategy(size=min(num_cpus, len(numbers)))
    for row in dataset.map(actor, fn_constructor_kwargs=arguments, compute=pool, num_cpus=1).iter_rows():
        yield int(row["num_clips"])


def write_manifest(folder_url: str, seed: int, num_clips: int, resolution: str, conditions: str) -> str:
    """Write a manifest that asks for clips of the small world, to judge a model by.

    Args:
        folder_url: where it goes, with the images beside it.
        seed: of the world; another one than the training data's gives other looks.
        num_clips: rows; every word comes equally often.
        resolution: of every row.
        conditions: "text", or "image": rows refer to a picture of the first frame, and their prompt tells no look.

    Returns:
        URL of the manifest.
    """
    lines = []
    for index in range(num_clips):
        clip = SmallWorldClip.sample(seed, index)
        if conditions == "image":
            image_name = f"images/{clip.id}.png"
            write_atomically(join(folder_url, image_name), _png(clip.frames()[0]))
            clip = clip.without_look()
            request = clip.request(resolution, image=image_name)
        else:
            request = clip.with_look().request(resolution)
        lines.append(request.model_dump_json(exclude_none=True) + "\n")
    url = join(folder_url, MANIFEST_NAME)
    write_atomically(url, "".join(lines).encode())
    return url


def _png(frame_YX3: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame_YX3).save(buffer, "PNG")
    return buffer.getvalue()
