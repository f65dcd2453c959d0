"""Durations as people say them."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Seconds to "42 s", "3 min 20 s" or "5 h 02 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"
