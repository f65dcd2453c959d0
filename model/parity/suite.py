"""All comparisons, each run where the files it needs are there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from model.parity import decoders, release, sampling, transformer
from model.parity.report import GoldenSet, Group, Result, compare, failure


@dataclass(frozen=True)
class Comparison:
    """Groups that are read from the same files.

    Attributes:
        name: what its groups' names begin with.
        files: what must be there.
        groups: reads the recording and lists what is in it; may raise.
    """

    name: str
    files: tuple[str, ...]
    groups: Callable[[GoldenSet], Iterable[Group]]


COMPARISONS = (
    Comparison("release", release.FILES, release.release_groups),
    Comparison("schedule", sampling.SCHEDULE_FILES, sampling.schedule_groups),
    Comparison("transformer", transformer.FILES, transformer.transformer_groups),
    Comparison("sampling", sampling.FILES, sampling.sampling_groups),
    Comparison("turbo_vae", decoders.TURBO_FILES, decoders.turbo_vae_groups),
    Comparison("wan_vae", decoders.WAN_FILES, decoders.wan_vae_groups),
    Comparison("audio_vae", decoders.OOBLECK_FILES, decoders.audio_vae_groups),
)


def missing_files(folder: Path) -> dict[str, list[str]]:
    """Comparisons that cannot run, and the files each of them lacks."""
    missing = {
        comparison.name: [name for name in comparison.files if not (folder / name).is_file()]
        for comparison in COMPARISONS
    }
    return {name: files for name, files in missing.items() if files}


def run_all(folder: Path, device: torch.device, precision: str) -> Iterator[Result]:
    """Run every comparison whose files are in the folder, group by group.

    Args:
        folder: recordings, in files and structure like `tests/golden`.
        device: where everything is computed.
        precision: `fp32`, `bf16` or `fp8`, of what the original runs in bfloat16; the rest is float32 in each.
    """
    golden = GoldenSet(folder, device, precision)
    absent = missing_files(folder)
    for comparison in COMPARISONS:
        if comparison.name not in absent:
            yield from _results(comparison, golden)


def _results(comparison: Comparison, golden: GoldenSet) -> Iterator[Result]:
    try:
        groups = list(comparison.groups(golden))
    except Exception as error:  # an unreadable recording fails its comparison, and the others go on
        yield failure(comparison.name, error)
        return
    if not groups:
        yield failure(comparison.name, ValueError(f"nothing is recorded in {comparison.files[-1]}"))
    for group in groups:
        with _true_float32():
            result = compare(group)
        yield result


@contextmanager
def _true_float32() -> Iterator[None]:
    """Without TF32, which convolutions on a GPU use by default: it has ten bits where the limit asks for thirteen."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
