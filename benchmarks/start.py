"""`python -m benchmarks.start`: how long an actor's process needs before its first clip, alone and after another one.

A whole process each: Python, PyTorch, random weights, and the Transformer's graph, compiled by the first and found by
the second. On a CPU the Transformer is narrow, and as deep as the release: compiling goes by the number of layers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.networks import random_transformer
from benchmarks.scale import RELEASE, SMALL
from model.attention import choose_attention
from model.compilation import compile_transformer
from model.graph_cache import LocalCompileCache
from model.packed_linear import choose_format


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print, or be what is measured; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--graphs", type=Path, help=argparse.SUPPRESS)  # of the process that is measured
    options = parser.parse_args(arguments)
    if options.graphs:
        _start(torch.device(options.device), options.graphs)
    else:
        first_s, second_s = measure_starts(options.device)
        print(f"first process {first_s:.1f} s, second {second_s:.1f} s, {first_s / second_s:.1f} times as fast")
    return 0


def measure_starts(device: str) -> tuple[float, float]:
    """Seconds of a process that compiles and of one that finds the graph."""
    seconds = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as graphs:
        for _ in range(2):
            started = time.perf_counter()
            command = [sys.executable, "-m", "benchmarks.start", "--device", device, "--graphs", graphs]
            subprocess.run(command, check=True)
            seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]


def _start(device: torch.device, graphs: Path) -> None:
    config, dtype = RELEASE.full, torch.bfloat16
    if device.type == "cpu":
        deep = {name: getattr(config, name) for name in ("num_layers", "expert_layers", "gelu_layers")}
        config, dtype = replace(SMALL.full, hidden_size=256, **deep), torch.float32
    form, attention = choose_format(device, is_fp8=False), choose_attention(device, dtype)
    model = random_transformer(config, dtype, device, form, attention)
    example = (RELEASE if device.type == "cuda" else SMALL).layout("256p")
    compile_transformer(model, example, "torch", LocalCompileCache(graphs))


if __name__ == "__main__":
    sys.exit(main())
