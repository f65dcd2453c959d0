"""`python -m benchmarks.inference`: every stage of inference, the plain way and the fast ones, beside its floor.

Needs torch, safetensors, einops and numpy; diffusers for sound and transformers for text, which are left out without.
With `--device cuda` networks have random weights of the release's size, with `--device cpu` small ones. Seconds are
medians, after warming up: base generation with all that its sampler does, the forward passes of super-resolution, a
clip's pixels, its sound, one prompt. Floors come from the copy bandwidth and the rate of matrix products, measured
first (`benchmarks.floors`). `--baseline` measures the plain way too, in the same run, into a file of the same shape.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.machine import describe_machine
from benchmarks.report import Report
from benchmarks.scale import RELEASE, SMALL
from benchmarks.stages import Stages
from model.graph_cache import LocalCompileCache


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the fast ways")
    parser.add_argument("--baseline", type=Path, help="JSON file for the plain way, which is left out without it")
    parser.add_argument("--graphs", type=Path, help="folder that keeps compiled graphs (default: none is kept)")
    parser.add_argument("--limit-s", type=float, default=480, help="begin nothing after so many seconds (default: 480)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda needs a GPU that PyTorch can use, there is none", file=sys.stderr)
        return 2
    device, scale = torch.device(options.device), RELEASE if options.device == "cuda" else SMALL
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        stages = Stages(device, scale, LocalCompileCache(options.graphs or folder), options.limit_s)
        print(f"rates: {stages.rates}", flush=True)
        try:
            if options.baseline:
                stages.measure_baseline()
                _write(options.baseline, stages, stages.baseline)
            stages.measure_fast()
        finally:
            for path, report in ((options.output, stages.fast), (options.baseline, stages.baseline)):
                _write(path, stages, report)
    _print_ratios(stages.baseline, stages.fast)
    return 0


def _write(path: Path | None, stages: Stages, report: Report) -> None:
    if path:
        about = {"machine": describe_machine(), "scale": stages.scale.name, "rates": stages.rates.describe()}
        path.write_text(json.dumps({**about, "results": report.rows, "skipped": report.skipped}, indent=1) + "\n")


def _print_ratios(baseline: Report, fast: Report) -> None:
    print("\ntimes as fast as the baseline")
    for row in fast.rows:
        before = baseline.seconds(row["stage"], "baseline")
        if before is not None:
            print(f"{row['stage']:24} {row['way']:14} {before / row['seconds']:.2f}")


if __name__ == "__main__":
    sys.exit(main())
