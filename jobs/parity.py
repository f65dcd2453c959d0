"""`python -m jobs.parity --golden DIR`: compare this code's numbers with recordings of the original."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from jobs.arguments import EXIT_USAGE, JobParser
from model.parity.report import PRECISIONS
from model.parity.suite import COMPARISONS, missing_files, run_all

PROG = "python -m jobs.parity"

EXIT_PASSED = 0
EXIT_FAILED = 1


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Compare with recordings of the original code, tensor group by tensor group.",
        ("--golden tests/golden", "--golden tests/golden --precision bf16 --device cuda"),
        {EXIT_PASSED: "all passed", EXIT_FAILED: "a group failed", EXIT_USAGE: "nothing could be compared"},
        "Recordings and limits: docs/parity.md.",
    )
    parser.ends.add_argument("--golden", metavar="DIR", type=Path, required=True, help="folder of recordings")
    parser.how.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    parser.how.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="fp32",
        help="of what the original runs in bfloat16 (default: fp32)",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the comparisons, print one line each; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    if complaint := _complaint(options.golden, options.device):
        print(f"error: {complaint}", file=sys.stderr)
        return EXIT_USAGE
    num_failed = num_passed = 0
    for result in run_all(options.golden, torch.device(options.device), options.precision):
        print(result, flush=True)
        num_passed += result.passed
        num_failed += not result.passed
    summary = f"{num_passed} passed, {num_failed} failed"
    if missing := missing_files(options.golden):
        listed = "; ".join(f"{name} ({', '.join(files)})" for name, files in missing.items())
        summary += f"; not compared, files not in DIR: {listed}"
    print(summary)
    return EXIT_FAILED if num_failed else EXIT_PASSED


def _complaint(folder: Path, device: str) -> str | None:
    if not folder.is_dir():
        return f"--golden must be a folder of recordings, got {folder}"
    if len(missing_files(folder)) == len(COMPARISONS):
        return f"--golden must hold the files of at least one comparison, {folder} holds none complete"
    if device == "cuda" and not torch.cuda.is_available():
        return "--device cuda needs a GPU that PyTorch can use, there is none"
    return None


if __name__ == "__main__":
    sys.exit(main())
