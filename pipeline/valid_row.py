"""A valid row of a manifest, as little of it as a driver keeps of each of a million."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from actors.request import ClipRequest

if TYPE_CHECKING:
    from actors.fingerprint import LaneFingerprint


class ClipKind(NamedTuple):
    """What decides how long a clip takes, and whether a checkpoint can make it.

    Attributes:
        resolution: "256p", "540p" or "1080p".
        aspect: "16:9", "9:16" or "1:1".
        seconds: as asked for; None where a recording or the checkpoint decides.
        has_image: whether there is a reference image.
        has_audio: whether a recording drives it.
    """

    resolution: str
    aspect: str
    seconds: float | None
    has_image: bool
    has_audio: bool

    @classmethod
    def of(cls, request: ClipRequest) -> ClipKind:
        """The kind of a request."""
        has_image, has_audio = request.image is not None, request.audio is not None
        return cls(request.resolution, request.aspect, request.seconds, has_image, has_audio)


class ValidRow(NamedTuple):
    """A row whose request is valid.

    Attributes:
        line: where it ends in the manifest, counted from 1.
        id: of the request.
        kind: of the request.
        request: the whole of it (JSON).
        fingerprint: what its clip would be made from, where that is known already; else empty.
    """

    line: int
    id: str
    kind: ClipKind
    request: str
    fingerprint: str = ""

    @classmethod
    def of(cls, line: int, request: ClipRequest, lane: LaneFingerprint | None = None) -> ValidRow:
        """The row of a request; with the fingerprint if that of its lane is given."""
        fingerprint = "" if lane is None else lane.of_clip(request)
        return cls(line, request.id, ClipKind.of(request), request.model_dump_json(exclude_unset=True), fingerprint)

    def parsed(self) -> ClipRequest:
        """The request itself."""
        return ClipRequest.model_validate_json(self.request)
