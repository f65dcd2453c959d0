"""What the command lines of several jobs have in common."""

from __future__ import annotations

import argparse
import os


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: it is less.
        ValueError: it is no whole number.
    """
    return _at_least(1, text)


def natural(text: str) -> int:
    """A whole number from 0; raises like `positive`."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def add_report_every(parser: argparse.ArgumentParser) -> None:
    """Add `--report-every`, which becomes `report_every_s`."""
    parser.add_argument(
        "--report-every",
        type=_duration,
        default=20.0,
        metavar="S",
        dest="report_every_s",
        help="seconds between two lines of progress and of figures; 0 writes every step (default: 20)",
    )


def _duration(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value


def absolute(url: str) -> str:
    """A URL as it is, a path as workers understand it, which have another working directory."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))
