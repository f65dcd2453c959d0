"""What decides a clip's pixels and sound, as one hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from actors.request import ClipRequest

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
    """

    lane: str
    image_vae: str = ""

    def of_clip(self, request: ClipRequest) -> str:
        """Hash a request and everything it is run with; equal hashes mean equal pixels and sound."""
        facts = request.model_dump(mode="json", exclude=_OTHERWISE_COUNTED)
        facts |= {"prompt": request.prompt_text(), "seed": request.resolved_seed, "lane": self.lane}
        facts["seconds"] = request.seconds if request.audio is not None else request.text_length.num_frames
        if request.image is not None:
            facts["image_vae"] = self.image_vae
        return hash_facts(facts)
