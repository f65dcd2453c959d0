"""The row that travels through the pipeline: one clip, self-describing, a few megabytes.

Columns: `id`; `request` (the validated request, JSON); `payload` (what the next stage needs, a safetensors blob);
`failure` (null while healthy, else JSON); `stage_seconds` (JSON object: how long each stage was busy with it, waiting
for other clips not counted); `notes` (JSON list of warnings for the user).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from torch import Tensor

STAGES = ("conditioning", "base_generation", "super_resolution", "decoding", "writing")
"""Every stage a clip can pass, in order; `super_resolution` only where a resolution above 256p is asked for."""


ACTOR_START = "start of the actor"
"""Stands as a failure's field where no row is at fault, but the stage could not be loaded."""


OUTPUT = "output"
"""Stands there where no row is at fault, but the output takes no more clips, or none can be signed any more."""


class ClipRow(TypedDict):
    """One row, as Ray Data hands it to a stage."""

    id: str
    request: str
    payload: bytes
    failure: str | None
    stage_seconds: str
    notes: str


_MAX_SHOWN = 1000
"""Characters of a value that a failure keeps."""


@dataclass(frozen=True)
class Failure:
    """Why a row did not become a clip.

    Attributes:
        stage: where it was noticed: "manifest" or one of `STAGES`.
        field: the request's field at fault, or "" where none is.
        value: its value (JSON); of a long one the beginning, as text.
        reason: what is wrong, and what is allowed.
    """

    stage: str
    field: str
    value: Any
    reason: str

    def __post_init__(self) -> None:
        # Of a value of megabytes nobody needs more than the beginning, least of all twice in a dead letter.
        text = self.value if isinstance(self.value, str) else json.dumps(self.value, ensure_ascii=False, default=str)
        if len(text) > _MAX_SHOWN:
            object.__setattr__(self, "value", f"{text[: _MAX_SHOWN - 3]}...")

    def to_json(self) -> str:
        """Serialise; values JSON cannot hold are shown as text."""
        return json.dumps(asdict(self), ensure_ascii=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> Failure:
        """Inverse of `to_json`."""
        return cls(**json.loads(text))

    def __str__(self) -> str:
        value = "" if self.value is None else f" {json.dumps(self.value, ensure_ascii=False, default=str)[:120]}"
        return f"{self.field or self.stage}{value}: {self.reason}"


class RowError(Exception):
    """Raised by a stage when a request, not the system, is at fault."""

    def __init__(self, field: str, value: Any, reason: str):
        super().__init__(f"{field}: {reason}")
        self.field, self.value, self.reason = field, value, reason


def new_row(request_id: str, request_json: str) -> ClipRow:
    """Return a row that has not passed any stage."""
    return ClipRow(id=request_id, request=request_json, payload=b"", failure=None, stage_seconds="{}", notes="[]")


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise named tensors; non-contiguous ones are copied."""
    import safetensors.torch  # who looks at results alone does without torch

    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def unpack(payload: bytes) -> dict[str, Tensor]:
    """Inverse of `pack`."""
    import safetensors.torch

    return safetensors.torch.load(payload)
