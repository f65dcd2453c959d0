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
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def absolute(url: str) -> str:
    """A URL as it is, a path as workers understand it, which have another working directory."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))
