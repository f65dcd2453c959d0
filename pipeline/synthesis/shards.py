"""Clips as WebDataset shards: tar files of samples, written by the library that reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from actors.storage import join, list_names, read_bytes, remove, write_atomically

SHARDS_FOLDER = "shards"
MAX_SHARD_MB = 4000

_READERS = 16
_AT_ONCE = 64
_NOT_IN_SAMPLES = ("media", "shard")
_OWNER = {"user": "", "group": "", "mtime": 0.0}
"""Of the files inside: the same clips give the same shards."""


def write_shards(dataset_url: str, partition: str, table: pa.Table, shard_bytes: int) -> list[str]:
    """Write a partition's clips as shards, one split after the other, in the order of the table.

    A sample is the clip (`mp4`), what is said (`txt`) and its row of the index (`json`). Of a shard no more than itself
    is on the disk of this machine, and in its memory, at a time.

    Shards that the partition had before and has not any more are removed.

    Args:
        dataset_url: folder of the dataset.
        partition: its name.
        table: its index; `media` is relative to the dataset's folder.
        shard_bytes: a shard is closed when it holds so much.

    Returns:
        The shard of each row of the table, relative to the dataset's folder.

    Raises:
        StorageError: a clip cannot be read, or a shard not be written.
    """
    rows = table.to_pylist()
    places = sorted(range(len(rows)), key=lambda place: (rows[place]["split"], place))
    shards = [""] * len(rows)
    for split, of_split in groupby(places, key=lambda place: rows[place]["split"]):
        for place, name in _write_split(dataset_url, partition, split, rows, list(of_split), shard_bytes):
            shards[place] = name
    folder = join(dataset_url, SHARDS_FOLDER, partition)
    for name in list_names(folder):  # of an earlier size
        if f"{SHARDS_FOLDER}/{partition}/{name}" not in shards:
            remove(join(folder, name))
    return shards


def _write_split(
    dataset_url: str, partition: str, split: str, rows: list[dict[str, Any]], places: Sequence[int], shard_bytes: int
) -> Iterator[tuple[int, str]]:
    from webdataset import ShardWriter

    with TemporaryDirectory() as folder, ThreadPoolExecutor(_READERS) as pool:
        pattern = os.path.join(folder, f"{split}-%06d.tar")

        def store(path: str) -> None:
            shard = Path(path)
            write_atomically(join(dataset_url, _name(partition, path)), shard.read_bytes(), "application/x-tar")
            shard.unlink()

        with ShardWriter(pattern, maxcount=len(places), maxsize=shard_bytes, post=store, verbose=0, **_OWNER) as writer:
            for start in range(0, len(places), _AT_ONCE):
                some = places[start : start + _AT_ONCE]
                clips = pool.map(read_bytes, [join(dataset_url, rows[place]["media"]) for place in some])
                for place, clip in zip(some, clips, strict=True):
                    writer.write(_sample(rows[place], clip))
                    yield place, _name(partition, writer.fname)


def _name(partition: str, path: str) -> str:
    return f"{SHARDS_FOLDER}/{partition}/{os.path.basename(path)}"


def _sample(row: dict[str, Any], clip: bytes) -> dict[str, Any]:
    told = {name: value for name, value in row.items() if name not in _NOT_IN_SAMPLES}
    return {
        "__key__": row["id"],
        "mp4": clip,
        "txt": row["transcript"],
        "json": json.dumps(told, ensure_ascii=False).encode(),
    }
