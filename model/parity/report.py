"""What a comparison with a recording is, and when it passes.

Relative error: norm of the difference over the norm of the recording, in float64 on the CPU. Source of the limits: the
conditions under which the recordings were made; a limit is never widened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

EXACT = 0.0
FP32_LIMIT = 1e-4
BF16_FLOOR = 2e-2
BF16_FACTOR = 1.5
FP8_COARSENESS = 16
"""8-bit floats have three bits behind the leading one where bfloat16 has seven."""
FP8_CEILING = 0.6
"""Of any 8-bit run: beyond it a result would have little to do with the recording, whatever bfloat16 does there."""

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}


def relative_error(ours: Tensor, recorded: Tensor) -> float:
    """Norm of the difference over the norm of what was recorded; where that is zero, 0 if equal and infinite if not.

    Raises:
        ValueError: the shapes differ.
    """
    if ours.shape != recorded.shape:
        raise ValueError(f"shape {tuple(ours.shape)} instead of the recorded {tuple(recorded.shape)}")
    a, b = ours.detach().cpu().double(), recorded.detach().cpu().double()
    difference, norm = (a - b).norm().item(), b.norm().item()
    if norm == 0:
        return 0.0 if difference == 0 else (difference if math.isnan(difference) else math.inf)
    return difference / norm


@dataclass(frozen=True)
class Pair:
    """One tensor of ours beside the recorded one, see `GoldenSet.pair` for what is computed in either precision.

    Attributes:
        ours: any dtype and device.
        recorded: of the same shape; whole numbers must be equal.
        recorded_bf16: what the original's own bf16 run gave; ours is a bf16 or fp8 run then.
        is_fp8: whether ours is an fp8 run.
        unjudged_bf16: what our bf16 run gave where the original has no recorded one to judge it by.
    """

    ours: Tensor
    recorded: Tensor
    recorded_bf16: Tensor | None = None
    unjudged_bf16: Tensor | None = None
    is_fp8: bool = False


@dataclass(frozen=True)
class Group:
    """Tensors that are reported in one line.

    Attributes:
        name: where they belong, e.g. `transformer.base.rotary`.
        pairs: computes them; may raise.
    """

    name: str
    pairs: Callable[[], Iterable[Pair]]


@dataclass(frozen=True)
class Result:
    """One line of the report.

    Attributes:
        name: the group's.
        error: what was judged; NaN where there is none.
        limit: the largest error that passes.
        num_tensors: how many were compared.
        note: more to know; where nothing could be compared, why.
    """

    name: str
    error: float
    limit: float
    num_tensors: int
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within its limit; NaN never is."""
        return self.error <= self.limit

    def __str__(self) -> str:
        line = f"{'PASS' if self.passed else 'FAIL'}  {self.name:<40} "
        if self.num_tensors == 0:
            return line + self.note
        limit = f"limit {self.limit:.1e}" if self.limit else "exact        "
        line += f"{self.error:.2e}  {limit}  {self.num_tensors} tensor{'s' if self.num_tensors != 1 else ''}"
        return f"{line}  {self.note}".rstrip()


def compare(group: Group) -> Result:
    """Compute and judge one group; whatever goes wrong inside becomes a failed result.

    Float32 results are judged tensor by tensor. bfloat16 results are judged as one: what rounding does to a tensor of
    a single token is chance, what it does to a group is not. The worst is reported.
    """
    try:
        pairs = list(group.pairs())
        if not pairs:
            raise ValueError("the recording holds no tensor of this group")
        bf16_pairs = [pair for pair in pairs if pair.recorded_bf16 is not None]
        judged = [_judge(pair) for pair in pairs if pair.recorded_bf16 is None]
        error, limit = max([*judged, *([_judge_together(bf16_pairs)] if bf16_pairs else [])], key=_excess)
        unjudged = [relative_error(p.unjudged_bf16, p.recorded) for p in pairs if p.unjudged_bf16 is not None]
    except Exception as reason:  # a broken recording or a broken model fails its own group, not the others
        return failure(group.name, reason)
    if any(math.isnan(bf16_error) for bf16_error in unjudged):
        error = math.nan
    note = f"(bf16 run, not recorded: {max(unjudged):.2e})" if unjudged else ""
    return Result(group.name, error, limit, len(pairs), note)


def failure(name: str, error: Exception) -> Result:
    """The result of a group that could not be computed."""
    reason = " ".join(str(error).split()) or "no message"
    return Result(name, math.nan, EXACT, 0, f"{type(error).__name__}: {reason[:300]}")


def _judge(pair: Pair) -> tuple[float, float]:
    """Error and limit of one float32 or whole-number tensor."""
    limit = FP32_LIMIT if pair.recorded.dtype.is_floating_point else EXACT
    return relative_error(pair.ours, pair.recorded), limit


def _judge_together(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Error and limit of a bfloat16 group: at most 1.5 times as far from fp32 as the original's own bf16 run.

    An fp8 run may be as much further away as its numbers are coarser.
    """
    for pair in pairs:
        relative_error(pair.ours, pair.recorded)  # names a shape that differs
    recorded = _flat(pair.recorded for pair in pairs)
    theirs = _flat(pair.recorded_bf16 for pair in pairs if pair.recorded_bf16 is not None)
    limit = max(BF16_FACTOR * relative_error(theirs, recorded), BF16_FLOOR)
    if any(pair.is_fp8 for pair in pairs):
        limit = min(FP8_COARSENESS * limit, FP8_CEILING)
    return relative_error(_flat(pair.ours for pair in pairs), recorded), limit


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().cpu().double().flatten() for tensor in tensors])


def _excess(judged: tuple[float, float]) -> float:
    error, limit = judged
    if math.isnan(error):
        return math.inf
    return error / limit if limit else (math.inf if error else 0.0)


class GoldenSet:
    """A folder of recordings, and how it is to be compared.

    Args:
        folder: holds the files; any of them may be absent.
        device: where everything is computed.
        precision: `fp32`, `bf16` or `fp8`, of what the original runs in bfloat16; fp8 is for Transformers, and bf16 for
            what else there is.
    """

    def __init__(self, folder: Path, device: torch.device, precision: str):
        self.folder, self.device, self.precision = folder, device, precision
        self.dtype = PRECISIONS[precision]
        # One copy of each file; on the instance, so that it goes when the comparisons are done.
        self.tensors: Callable[[str], Mapping[str, Tensor]] = cache(self._load)

    @cached_property
    def files(self) -> frozenset[str]:
        """Names of the files there are."""
        return frozenset(path.name for path in self.folder.iterdir() if path.is_file())

    def config(self, name: str) -> dict[str, Any]:
        """Read a JSON file."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def _load(self, name: str) -> Mapping[str, Tensor]:
        """Read a safetensors file onto the device."""
        return load_file(self.folder / name, device=str(self.device))

    @property
    def is_bf16(self) -> bool:
        """Whether the precision is bf16, or fp8, which is bf16 but for some products."""
        return self.dtype == torch.bfloat16

    @property
    def is_fp8(self) -> bool:
        """Whether the precision is fp8."""
        return self.precision == "fp8"

    def pair(self, compute: Callable[[torch.dtype], Tensor], recorded: Tensor, recorded_bf16: Tensor | None) -> Pair:
        """What the precision asks for: a bf16 run is judged where the original's own was recorded, else told only.

        Args:
            compute: gives ours; takes the dtype to compute in.
            recorded: the original's float32 run.
            recorded_bf16: its bf16 run, or None.
        """
        if not self.is_bf16:
            return Pair(compute(torch.float32), recorded)
        if recorded_bf16 is None:
            return Pair(compute(torch.float32), recorded, unjudged_bf16=compute(torch.bfloat16))
        return Pair(compute(torch.bfloat16), recorded, recorded_bf16, is_fp8=self.is_fp8)

    def bf16_recording(self, stem: str) -> Mapping[str, Tensor]:
        """`<stem>_bf16.safetensors`, empty where the precision is fp32 or the file is absent."""
        name = f"{stem}_bf16.safetensors"
        return self.tensors(name) if self.is_bf16 and name in self.files else {}


def prefixes(tensors: Mapping[str, Tensor], *suffixes: str) -> list[str]:
    """What stands before `.<suffix>` in the names that end so, sorted by length, then by name."""
    found = {name.removesuffix(f".{end}") for name in tensors for end in suffixes if name.endswith(f".{end}")}
    return sorted(found, key=lambda name: (len(name), name))
