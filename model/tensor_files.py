"""Names, shapes and contents of tensors in files: safetensors, the same packed with Zstandard, and PyTorch files.

Tensors come one by one from the memory-mapped file to where they stay, in the dtype they stay in. On a CPU a tensor
that needs no change is a view of the mapped file: actors of one machine share its memory.
"""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import zip_longest
from math import prod
from typing import IO, Any, TypeVar, cast

import torch
import zstandard
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoint_files import GIT_LFS_HINT, GIT_LFS_POINTER, CheckpointError, CheckpointFiles, LocalFiles
from model.safetensors_header import read_header, read_into

Kept = TypeVar("Kept")

NUM_READERS = 4
"""Threads that read at once. Chosen, not tuned: `benchmarks.checkpoint_loading` tells what they give."""

PIECE_BYTES = 256 * 2**20
"""Tensors that one reader maps at a time, unless a single one is larger: what is mapped counts as the process's."""

MAX_IN_FLIGHT_BYTES = 2**31
"""Of all readers together, beside what stays: an expert layer's weight in float32 alone is 1.7 GB."""

PAGE_BYTES = 4096

_FORBIDDEN_GLOBAL = re.compile(r"GLOBAL (\S+)")
"""How PyTorch's safe loader names what a pickle wants to call."""


@dataclass(frozen=True)
class TensorHeader:
    """What a file says about a tensor.

    Attributes:
        shape: of the tensor.
        dtype: as stored.
        file: which file holds it, relative to the checkpoint.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: str

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Size of the contents."""
        return self.num_elements * self.dtype.itemsize


def safetensors_headers(files: CheckpointFiles, names: Sequence[str]) -> dict[str, TensorHeader]:
    """Read the headers of several shards, packed or not.

    Raises:
        CheckpointError: a file is damaged or cut short, or two hold a tensor of the same name.
    """

    def read(name: str) -> dict[str, TensorHeader]:
        with files.open(name) as file, _naming(name):
            if name.endswith(".zst"):
                header, _ = read_header(_unpack(file))
            else:
                header, start = read_header(file)
                needed = start + max((entry.end for entry in header.values()), default=0)
                if files.sizes[name] != needed:
                    found = f"it has {files.sizes[name]:,} bytes, its header asks for {needed:,}"
                    raise CheckpointError(f"{name} is cut short or damaged: {found}")
            return {tensor: TensorHeader(entry.shape, entry.dtype, name) for tensor, entry in header.items()}

    headers: dict[str, TensorHeader] = {}
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for name, found in zip(names, pool.map(read, names), strict=True):
            if twice := sorted(headers.keys() & found.keys()):
                raise CheckpointError(f"tensor {twice[0]} is both in {headers[twice[0]].file} and in {name}")
            headers |= found
    return headers


def read_safetensors(
    files: LocalFiles,
    headers: Mapping[str, TensorHeader],
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
    convert: Callable[[str, Tensor], Kept],
) -> dict[str, Kept]:
    """Read tensors, several shards at once.

    Args:
        files: the checkpoint.
        headers: of all tensors of the shards, from `safetensors_headers`.
        dtypes: the tensors wanted and the dtype each shall have.
        device: where they shall be.
        convert: makes what is kept of a tensor, given its name, as soon as it is on the device.

    Returns:
        What is kept, by the tensor's name.

    Raises:
        CheckpointError: a file is damaged.
    """

    def keep(name: str, tensor: Tensor) -> Kept:
        if tensor.shape != headers[name].shape:
            raise CheckpointError(
                f"{headers[name].file} was replaced while it was read: tensor {name} changed its shape"
            )
        return convert(name, tensor)

    # What is kept as it is may hold its mapping for good, so nothing that is converted shares one with it.
    groups: dict[tuple[str, bool], list[str]] = {}
    for name, dtype in dtypes.items():
        is_kept = headers[name].dtype == dtype or headers[name].file.endswith(".zst")
        groups.setdefault((headers[name].file, is_kept), []).append(name)

    in_flight = _InFlight(MAX_IN_FLIGHT_BYTES)

    def read(piece: tuple[str, list[str]]) -> dict[str, Kept]:
        shard, names = piece
        if shard.endswith(".zst"):
            with _naming(shard):
                return _read_packed(files, shard, {name: dtypes[name] for name in names}, device, in_flight, keep)
        is_kept = device.type == "cpu" and headers[names[0]].dtype == dtypes[names[0]]
        num_bytes = 0 if is_kept else sum(headers[name].num_bytes for name in names)
        with _naming(shard), in_flight.hold(num_bytes):
            with safe_open(files.path(shard), "pt", device=str(device)) as file:
                found = {name: file.get_tensor(name).to(dtypes[name]) for name in names}
            for tensor in found.values() if device.type == "cpu" else ():
                _bring_in(tensor)
            return {name: keep(name, found.pop(name)) for name in names}

    tensors: dict[str, Kept] = {}
    with ThreadPoolExecutor(NUM_READERS) as pool:
        for found in pool.map(read, _pieces(groups, headers)):
            tensors |= found
    return {name: tensors[name] for name in dtypes}


def as_it_is(name: str, tensor: Tensor) -> Tensor:
    """Keep a tensor unchanged, see `read_safetensors`."""
    return tensor


class _InFlight:
    """Bytes held that do not stay: what is mapped to be converted, or to be copied to another device."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = self.free_bytes = limit_bytes
        self.changed = threading.Condition()

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Wait until there is room; a tensor larger than all of it comes alone."""
        num_bytes = min(num_bytes, self.limit_bytes)
        with self.changed:
            self.changed.wait_for(lambda: self.free_bytes >= num_bytes)
            self.free_bytes -= num_bytes
        try:
            yield
        finally:
            with self.changed:
                self.free_bytes += num_bytes
                self.changed.notify_all()


def _bring_in(tensor: Tensor) -> None:
    """Touch every page, so that the disk is read now and by several readers, not by the first clip."""
    tensor.flatten()[:: PAGE_BYTES // tensor.itemsize].sum()


def _pieces(
    groups: Mapping[tuple[str, bool], list[str]], headers: Mapping[str, TensorHeader]
) -> list[tuple[str, list[str]]]:
    """Cut every shard's tensors into pieces and take one of each shard in turn; a packed shard is read as a whole."""

    def cut(shard: str, names: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
        piece: list[str] = []
        num_bytes = 0
        for name in names:
            if piece and num_bytes + headers[name].num_bytes > PIECE_BYTES and not shard.endswith(".zst"):
                yield shard, piece
                piece, num_bytes = [], 0
            piece.append(name)
            num_bytes += headers[name].num_bytes
        yield shard, piece

    cuts = [cut(shard, names) for (shard, _), names in groups.items()]
    return [piece for turn in zip_longest(*cuts) for piece in turn if piece is not None]


def _read_packed(
    files: LocalFiles,
    shard: str,
    dtypes: Mapping[str, torch.dtype],
    device: torch.device,
    in_flight: _InFlight,
    keep: Callable[[str, Tensor], Kept],
) -> dict[str, Kept]:
    """Unpack a shard on the fly: nothing is written to the disk, and one tensor at a time is held."""
    tensors = {}
    with files.open(shard) as packed:
        stream = _unpack(packed)
        header, _ = read_header(stream)
        for name, entry in header.items():
            if name not in dtypes:
                _skip(stream, entry.end - entry.start)
                continue
            is_kept = device.type == "cpu" and entry.dtype == dtypes[name]
            with in_flight.hold(0 if is_kept else entry.end - entry.start):
                held = torch.empty(entry.shape, dtype=entry.dtype)
                read_into(stream, held.flatten().view(torch.uint8).numpy().data)
                tensors[name] = keep(name, held.to(device, dtypes[name]))
                del held
        if stream.read(1):
            raise CheckpointError(f"{shard} is damaged: it goes on behind its last tensor")
    return tensors


def _unpack(packed: BufferedIOBase) -> zstandard.ZstdDecompressionReader:
    # pzstd, and whoever packs in parts, writes frame behind frame.
    return zstandard.ZstdDecompressor().stream_reader(cast("IO[bytes]", packed), read_across_frames=True)


def _skip(stream: zstandard.ZstdDecompressionReader, num_bytes: int) -> None:
    scratch = memoryview(bytearray(min(num_bytes, 2**20)))
    while num_bytes:
        read_into(stream, scratch[: min(num_bytes, len(scratch))])
        num_bytes -= min(num_bytes, len(scratch))


def torch_file_shapes(files: CheckpointFiles, name: str) -> Any:
    """Contents of a PyTorch file with every tensor on the meta device: only its table of contents is read.

    Raises:
        CheckpointError: the file is damaged, or holds more than tensors and plain values (no code of it is ever run).
    """
    with files.open(name) as file:
        if file.read(len(GIT_LFS_POINTER)) == GIT_LFS_POINTER:
            raise CheckpointError(f"{name} is damaged: {GIT_LFS_HINT}")
        file.seek(0)
        return _load_torch(name, file, map_location="meta")


def read_torch_file(files: LocalFiles, name: str) -> Any:
    """Contents of a PyTorch file; its tensors are views of the mapped file, but for files older than PyTorch 1.6.

    Raises:
        CheckpointError: as for `torch_file_shapes`.
    """
    with files.open(name) as file:
        is_zip = file.read(2) == b"PK"
    return _load_torch(name, str(files.path(name)), map_location="cpu", mmap=is_zip)


def _load_torch(name: str, source: Any, **options: Any) -> Any:
    try:
        return torch.load(source, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        if found := _FORBIDDEN_GLOBAL.search(str(error)):
            raise CheckpointError(f"{name} holds code ({found[1]}) beside tensors and is not loaded") from error
        raise CheckpointError(f"{name} is damaged or no PyTorch file") from error
    except Exception as error:  # a damaged pickle makes the loader stumble in many ways
        raise CheckpointError(f"{name} is damaged: {_first_sentence(error)}") from error


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turn whatever reading a file raises into one line that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {error.strerror or _first_sentence(error)}") from error
    except (SafetensorError, zstandard.ZstdError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{name} is damaged: {_first_sentence(error)}") from error


def _first_sentence(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0].split(". ")[0].rstrip(".")
    return text or type(error).__name__
