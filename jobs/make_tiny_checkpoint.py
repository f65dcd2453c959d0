"""`python -m jobs.make_tiny_checkpoint DIR`: write a tiny checkpoint in the release's folder layout."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from model.tiny import write_tiny_checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the checkpoint; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.make_tiny_checkpoint",
        description="Write a complete tiny checkpoint (random weights: noise, not people) in the release's layout.",
    )
    parser.add_argument("folder", metavar="DIR", help="made if absent")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same weights (default: 0)")
    options = parser.parse_args(arguments)
    try:
        write_tiny_checkpoint(options.folder, options.seed)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"tiny checkpoint in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
