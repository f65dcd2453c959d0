"""The clips that one training worker learns from, held in memory as they come from shards."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import zstandard

from actors.row import pack, unpack
from actors.small_world.shards import read_shard
from actors.storage import join, list_names
from model.training.task import Sample

_COMPRESSION_LEVEL = 1


class ClipStore:
    """Clips in memory, compressed: drawn pictures take a fiftieth of their size.

    Args:
        folder_url: of shards (see `actors.small_world.shards`).
        names: tensors that are kept of every clip.
        worker: number of this worker; it reads every `num_workers`-th shard.
        num_workers: of the run.
        max_clips: at most so many over all workers, the first ones; None reads all.

    Raises:
        ValueError: there are fewer shards than workers, or clips lack a tensor.
        StorageError: the folder cannot be read.
    """

    def __init__(
        self,
        folder_url: str,
        names: Collection[str],
        worker: int = 0,
        num_workers: int = 1,
        max_clips: int | None = None,
    ):
        shards = sorted(name for name in list_names(folder_url) if name.endswith(".parquet"))
        if len(shards) < num_workers:
            raise ValueError(
                f"num_workers must be at most {len(shards)}, the shards in {folder_url}, got {num_workers}"
            )
        limit = None if max_clips is None else -(-max_clips // num_workers)
        compressor = zstandard.ZstdCompressor(_COMPRESSION_LEVEL)
        self._blobs: list[bytes] = []
        for shard in shards[worker::num_workers]:
            for row in read_shard(join(folder_url, shard)):
                if limit is not None and len(self._blobs) == limit:
                    return
                tensors = unpack(row["tensors"])
                if missing := sorted(set(names) - tensors.keys()):
                    raise ValueError(f"{shard} in {folder_url} must hold {', '.join(names)}, it lacks {missing[0]}")
                self._blobs.append(compressor.compress(pack({name: tensors[name] for name in names})))

    def __len__(self) -> int:
        """How many clips this worker has."""
        return len(self._blobs)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """The clips of these numbers."""
        decompressor = zstandard.ZstdDecompressor()
        return [unpack(decompressor.decompress(self._blobs[index])) for index in indices]
