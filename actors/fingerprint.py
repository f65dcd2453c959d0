"""What decides a clip's pixels and sound, as one hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from actors.request import ClipRequest
from model.capabilities import BASE_RESOLUTION, Capabilities
from model.geometry import PIXEL_SIZES

_OTHERWISE_COUNTED = {"id", "metadata", "prompt", "language", "seed", "seconds"}
"""Fields that leave pixels and sound alone, or count in their resolved form: prompt and language as the composed text,
seed and seconds with their defaults. Image and audio count by their address: nobody reads a million files to find out
that nothing has changed."""


def hash_facts(facts: Any) -> str:
    """Hash JSON-like values: 32 hexadecimal digits."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class LaneFingerprint:
    """Hashes of the checkpoint's components and the settings that change results.

    Attributes:
        lane: what every clip of the lane depends on.
        image_vae: what clips with a reference image depend on besides; empty where no clip has one.
        capabilities: of the checkpoint; sizes count where they are not the release's.
    """

    lane: str
    image_vae: str = ""
    capabilities: Capabilities = field(default_factory=Capabilities)

    def of_clip(self, request: ClipRequest) -> str:
        """Hash a request and everything it is run with; equal hashes mean equal pixels and sound."""
        facts = request.model_dump(mode="json", exclude=_OTHERWISE_COUNTED)
        facts |= {"prompt": request.prompt_text(), "seed": request.resolved_seed, "lane": self.lane}
        from_text = request.audio is None
        default_seconds = self.capabilities.default_seconds
        facts["seconds"] = request.text_length(default_seconds).num_frames if from_text else request.seconds
        if request.image is not None:
            facts["image_vae"] = self.image_vae
        sizes = self.capabilities.pixel_sizes
        decisive = [(BASE_RESOLUTION, request.aspect), (request.resolution, request.aspect)]
        if any(sizes[label] != PIXEL_SIZES[label] for label in decisive):
            facts["pixel_sizes"] = [sizes[label] for label in decisive]
        return hash_facts(facts)
