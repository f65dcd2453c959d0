"""The clips that one training worker learns from, held in memory as they come from shards."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import zstandard

from actors.row import pack, unpack
from actors.small_world.shards import read_shard, shard_urls
from model.training.task import Sample

_COMPRESSION_LEVEL = 1


def require_tensors(found: Collection[str], names: Collection[str], where: str) -> None:
    """See that clips have what a stage learns from.

    Raises:
        ValueError: a name is not among those found.
    """
    if missing := sorted(set(names) - set(found)):
        raise ValueError(f"{where} must hold {', '.join(names)}, it lacks {missing[0]}")


class ClipStore:
    """Clips in memory, compressed: drawn pictures take a fiftieth of their size.

    Args:
        folder_url: of shards (see `actors.small_world.shards`).
        names: tensors that are kept of every clip.
        worker: number of this worker, which has every `num_workers`-th shard.
        num_workers: of the run.
        max_clips: the first so many clips are shared out, whichever shards they lie in; None takes all shards.

    Raises:
        ValueError: there are fewer shards or clips than workers, or clips lack a tensor.
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
        shards = shard_urls(folder_url)
        if len(shards) < num_workers:
            raise ValueError(
                f"num_workers must be at most {len(shards)}, the shards in {folder_url}, got {num_workers}"
            )
        own = shards[worker::num_workers] if max_clips is None else shards
        rows: Iterator[tuple[str, dict[str, Any]]] = ((shard, row) for shard in own for row in read_shard(shard))
        if max_clips is not None:
            rows = islice(rows, worker, max_clips, num_workers)
        compressor = zstandard.ZstdCompressor(_COMPRESSION_LEVEL)
        self._blobs: list[bytes] = []
        for shard, row in rows:
            tensors = unpack(row["tensors"])
            require_tensors(tensors, names, shard)
            self._blobs.append(compressor.compress(pack({name: tensors[name] for name in names})))
        if not self._blobs:
            raise ValueError(f"{folder_url} must hold a clip for each of {num_workers} workers, it has fewer")

    def __len__(self) -> int:
        """How many clips this worker has."""
        return len(self._blobs)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """The clips of these numbers."""
        decompressor = zstandard.ZstdDecompressor()
        return [unpack(decompressor.decompress(self._blobs[index])) for index in indices]
