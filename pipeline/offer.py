"""Which requests a checkpoint cannot fulfil, told before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

from actors.request import ClipRequest
from actors.row import Failure
from model.capabilities import BASE_RESOLUTION, Capabilities
from model.layout import Layout


def find_impossible(request: ClipRequest, capabilities: Capabilities, layout: Layout) -> Failure | None:
    """Hold a request against what a checkpoint can be asked for.

    How long a recording is shows only when it is read, so an audio-driven clip without `seconds` passes.

    Args:
        request: valid for the release.
        capabilities: of the checkpoint.
        layout: its components. Where its labels mean what they do in the release, none of them is looked for here: one
            that is absent is a fault of the checkpoint and not of the row.

    Returns:
        The first field at fault with the reason, or None.
    """
    resolutions = offered_resolutions(capabilities, layout)
    aspects = capabilities.aspects(request.resolution)
    longest = capabilities.max_clip_seconds(request.resolution, has_audio=request.audio is not None)
    if request.resolution not in resolutions:
        return _failure("resolution", request.resolution, _one_of(resolutions))
    if request.aspect not in aspects:
        return _failure("aspect", request.aspect, _one_of(aspects, f" at {request.resolution}"))
    for name in ("image", "audio"):
        if (value := getattr(request, name)) is not None and name not in capabilities.conditions:
            steering = " and ".join(["text", *capabilities.conditions])
            return _failure(name, value, f"must not be given for this checkpoint, which takes {steering} alone")
    if request.seconds is not None and not capabilities.min_seconds <= request.seconds <= longest:
        limits = f"{capabilities.min_seconds:g} and {longest:g}"
        return _failure("seconds", request.seconds, f"must be between {limits} for this checkpoint")
    return None


def offered_resolutions(capabilities: Capabilities, layout: Layout) -> tuple[str, ...]:
    """Labels with a size; where they are the checkpoint's own, only those whose super-resolution is there."""
    if not capabilities.restricts_sizes:
        return capabilities.resolutions
    return tuple(
        resolution
        for resolution in capabilities.resolutions
        if resolution == BASE_RESOLUTION or not layout.is_absent(f"sr_{resolution}")
    )


def _one_of(allowed: Sequence[str], where: str = "") -> str:
    choice = f"one of {', '.join(allowed)}" if len(allowed) > 1 else allowed[0]
    return f"must be {choice}{where} for this checkpoint"


def _failure(name: str, value: str | float, reason: str) -> Failure:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as people write it: 5, not 5.0
    return Failure("manifest", name, value, reason)
