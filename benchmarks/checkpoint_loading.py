"""`python -m benchmarks.checkpoint_loading`: speed and peak memory of loading a Transformer, beside `cat` of its files.

A synthetic checkpoint of random weights is written, its files are read once so that the system has them in memory, and
then, three times each and the best counts: `cat` sends them to /dev/null, and a process of its own loads them with
`model.checkpoint`. Loading ends when every page of every weight is in the process's memory. Three kinds of files:

- bf16: stored as it is used, as the release's base model. On a CPU the weights are then the mapped files themselves.
- fp32: every number is read and rounded to bf16, as the release's distilled model needs it.
- zst: the bf16 files packed with Zstandard and unpacked on the fly.

"Beyond the weights" is the peak of resident memory above what the process had before and the weights it keeps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import zstandard
from safetensors.torch import save_file

from benchmarks.machine import describe_machine, process_memory_bytes
from model.checkpoint import Checkpoint
from model.transformer import Transformer
from model.transformer_config import TransformerConfig
from model.variants import release_config

NUM_REPEATS = 3
HIDDEN_SIZE = 2048
"""2.6 B parameters in the release's 40 layers: 5.2 GB in bf16."""

KINDS = {"bf16": torch.bfloat16, "fp32": torch.float32, "zst": torch.bfloat16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint_loading", description=__doc__)
    parser.add_argument("--layers", type=int, default=40, help="layers of the model, 130 MB each (default: 40)")
    parser.add_argument("--shards", type=int, default=6, help="files of the checkpoint (default: 6)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--folder", type=Path, help="where to write the checkpoints (default: a temporary folder)")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # the process that is measured
    options = parser.parse_args(arguments)
    if options.load:
        print(json.dumps(_load(options.load, torch.device(options.device))))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = {kind: _measure(Path(folder) / kind, kind, options) for kind in KINDS}
    report = {"machine": describe_machine(), "device": options.device, "results": results}
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _measure(folder: Path, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    files = _write(folder / "base", kind, options.layers, options.shards)
    num_bytes = sum(path.stat().st_size for path in files)
    largest = max(path.stat().st_size for path in files)
    cat_s = min(_cat(files) for _ in range(NUM_REPEATS + 1))  # the first one warms up
    loads = [_load_apart(folder, options.device) for _ in range(NUM_REPEATS)]
    best = min(loads, key=lambda load: load["seconds"])
    result = {
        "files_gb": num_bytes / 1e9,
        "largest_file_gb": largest / 1e9,
        "weights_gb": best["weights_gb"],
        "cat_gb_per_s": num_bytes / 1e9 / cat_s,
        "load_gb_per_s": num_bytes / 1e9 / best["seconds"],
        "ratio_to_cat": cat_s / best["seconds"],
        "load_s": best["seconds"],
        "peak_gb_beyond_weights": max(load["beyond_gb"] for load in loads),
    }
    for path in files:
        path.unlink()
    rounded = {name: float(f"{value:.3g}") for name, value in result.items()}
    print(f"{kind}: " + ", ".join(f"{name} {value}" for name, value in rounded.items()), flush=True)
    return rounded


def _write(folder: Path, kind: str, num_layers: int, num_shards: int) -> list[Path]:
    """Write the shards and their index; tensors in the order a published checkpoint has them."""
    folder.mkdir(parents=True)
    with torch.device("meta"):
        tensors = Transformer(_config(num_layers)).state_dict()
    names = sorted(tensors)
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    files: list[Path] = []
    for number in range(num_shards):
        chosen = names[len(names) * number // num_shards : len(names) * (number + 1) // num_shards]
        path = folder / f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        shard = {}
        for name in chosen:
            dtype = KINDS[kind] if tensors[name].dtype == torch.bfloat16 else torch.float32
            values = torch.randn(tensors[name].shape, generator=generator, dtype=torch.float32)
            shard[name] = (0.02 * values).to(dtype)
        save_file(shard, path)
        weight_map |= dict.fromkeys(chosen, path.name)
        files.append(_pack(path) if kind == "zst" else path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return files


def _config(num_layers: int) -> TransformerConfig:
    expert_layers = (*range(4), *range(num_layers - 4, num_layers)) if num_layers >= 8 else ()
    return replace(
        release_config("base"), num_layers=num_layers, hidden_size=HIDDEN_SIZE, expert_layers=expert_layers,
        gelu_layers=tuple(range(min(4, num_layers))),
    )  # fmt: skip


def _pack(path: Path) -> Path:
    packed = path.with_name(path.name + ".zst")
    with path.open("rb") as source, packed.open("wb") as target:
        zstandard.ZstdCompressor(level=1).copy_stream(source, target)
    path.unlink()
    return packed


def _cat(files: Sequence[Path]) -> float:
    with open("/dev/null", "wb") as nowhere:
        started = time.perf_counter()
        subprocess.run(["cat", *files], stdout=nowhere, check=True)
        return time.perf_counter() - started


def _load_apart(folder: Path, device: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.checkpoint_loading", "--load", str(folder), "--device", device]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _load(folder: Path, device: torch.device) -> dict[str, float]:
    torch.zeros(1, device=device)  # a GPU's context is no part of loading
    checkpoint = Checkpoint(folder)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = process_memory_bytes("VmRSS")
    started = time.perf_counter()
    model = checkpoint.transformer("base", torch.bfloat16, device)
    seconds = time.perf_counter() - started
    tensors = list(model.state_dict().values())
    weights = sum(tensor.nbytes for tensor in tensors)
    if device.type == "cpu" and process_memory_bytes("VmRSS") - before < 0.98 * weights:
        raise RuntimeError("loading ended before every page of the weights was in memory")
    kept = weights if device.type == "cpu" else 0
    return {
        "seconds": seconds,
        "weights_gb": weights / 1e9,
        "beyond_gb": (process_memory_bytes("VmHWM") - before - kept) / 1e9,
    }


if __name__ == "__main__":
    sys.exit(main())
