"""The table of contents of a safetensors file, read as strictly as the format's reference implementation does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from math import prod
from typing import Any

import torch
import zstandard

from model.checkpoint_files import GIT_LFS_HINT, GIT_LFS_POINTER

MAX_HEADER_BYTES = 100 * 2**20
"""Longest header of a safetensors file (source: the format's reference implementation)."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}

Stream = BufferedIOBase | zstandard.ZstdDecompressionReader


@dataclass(frozen=True)
class HeaderEntry:
    """What a header says about one tensor.

    Attributes:
        dtype: as stored.
        shape: of the tensor.
        start: where its bytes begin, counted from the header's end.
        end: where they end.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(stream: Stream) -> tuple[dict[str, HeaderEntry], int]:
    """Read tensors' entries in the order of their bytes, and how many bytes the header takes.

    Raises:
        EOFError: the stream is shorter than its header.
        ValueError: the header is none, or its tensors do not lie one behind another.
    """
    length_bytes = bytearray(8)
    read_into(stream, memoryview(length_bytes))
    if length_bytes == GIT_LFS_POINTER:
        raise ValueError(GIT_LFS_HINT)
    length = int.from_bytes(length_bytes, "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"this is no safetensors file, its header would be {length:,} bytes long")
    text = bytearray(length)
    read_into(stream, memoryview(text))
    try:
        header = json.loads(bytes(text), object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError(f"its header must be a JSON object, got {type(header).__name__}")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not _is_text(metadata):
        raise ValueError("__metadata__ of its header must be an object of texts")
    entries = {name: _entry(name, raw) for name, raw in header.items()}
    position = 0
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    for name, entry in ordered.items():
        if entry.start != position:
            raise ValueError(f"tensor {name} starts at byte {entry.start:,}, expected {position:,}")
        position = entry.end
    return ordered, 8 + length


def read_into(stream: Stream, target: memoryview) -> None:
    """Fill `target`.

    Raises:
        EOFError: the stream ends before.
    """
    position = 0
    while position < len(target):
        num_read = stream.readinto(target[position:])
        if not num_read:
            raise EOFError(f"it ends early, {len(target) - position:,} bytes are missing")
        position += num_read


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"its header names {next(name for name in names if names.count(name) > 1)} twice")
    return found


def _is_text(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())


def _entry(name: str, raw: Any) -> HeaderEntry:
    values: Mapping[str, Any] = raw if isinstance(raw, dict) else {}
    shape: Any = values.get("shape")
    offsets: Any = values.get("data_offsets")
    dtype = values.get("dtype")
    if not (_are_sizes(shape) and _are_sizes(offsets) and len(offsets) == 2 and isinstance(dtype, str)):
        raise ValueError(f"tensor {name} must have dtype, shape and two data_offsets, got {raw!r:.200}")
    if dtype not in _DTYPES:
        raise ValueError(f"dtype {dtype} of tensor {name} is not known here, only {', '.join(_DTYPES)}")
    start, end = offsets
    if prod(shape) * _DTYPES[dtype].itemsize != end - start:
        raise ValueError(f"tensor {name} of dtype {dtype} and shape {shape} cannot have {end - start:,} bytes")
    return HeaderEntry(_DTYPES[dtype], tuple(shape), start, end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
