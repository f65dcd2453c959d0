"""What a clip says of where it comes from: tags of its MP4, facts of its record, claims of its C2PA manifest."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from actors.fingerprint import LaneFingerprint
from actors.request import ClipRequest

GENERATOR = "magihuman-ray"
MODEL = "daVinci-MagiHuman"
STATEMENT = f"AI-generated with {MODEL}"
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""Of IPTC's list: media made by a model that was trained on examples."""

_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}


@dataclass(frozen=True)
class Origin:
    """What the clips of a lane are made by.

    Attributes:
        version: of this project.
        fingerprint: of the lane.
    """

    version: str
    fingerprint: LaneFingerprint

    def facts(self) -> dict[str, Any]:
        """What is true of every clip, for the records."""
        return {
            "generator": f"{GENERATOR} {self.version}",
            "model": MODEL,
            "model_fingerprint": self.fingerprint.lane,
            "ai_generated": True,
            "digital_source_type": DIGITAL_SOURCE_TYPE,
        }

    def tags(self, request: ClipRequest, made_at: datetime) -> dict[str, str]:
        """Tags of a clip's MP4.

        Args:
            request: of the clip.
            made_at: when, in UTC; to the second.
        """
        generator = f"{GENERATOR} {self.version}"
        return {
            "title": request.id,
            "comment": STATEMENT,
            "language": request.language,
            "generator": generator,
            "model": MODEL,
            "model_fingerprint": self.fingerprint.lane,
            "fingerprint": self.fingerprint.of_clip(request),
            "request_id": request.id,
            "creation_time": _iso(made_at),
            "digital_source_type": DIGITAL_SOURCE_TYPE,
            # Of keys that anybody may choose VLC shows only these (modules/demux/mp4/meta.c).
            "com.apple.quicktime.description": STATEMENT,
            "com.apple.quicktime.software": generator,
        }

    def claims(self, request: ClipRequest, made_at: datetime) -> dict[str, Any]:
        """What is signed of a clip, besides its bytes: a manifest's definition as the C2PA library takes it.

        Id and model stand in an assertion of the Creator Assertions Working Group, which takes terms of XMP. "created"
        means that the signer answers for an assertion, and has not only passed it on.

        Args:
            request: of the clip.
            made_at: when, in UTC; to the second.
        """
        sources = ["a prompt"]
        sources += ["a reference image"] if request.image is not None else []
        sources += ["a recording"] if request.audio is not None else []
        agent = {"name": GENERATOR, "version": self.version}
        created = {
            "action": "c2pa.created",
            "when": _iso(made_at),
            "softwareAgent": agent,
            "digitalSourceType": DIGITAL_SOURCE_TYPE,
            "description": f"{STATEMENT} from {', '.join(sources)}",
        }
        model = {
            "@context": _NAMESPACES,
            "dc:identifier": request.id,
            "Iptc4xmpExt:DigitalSourceType": DIGITAL_SOURCE_TYPE,
            "Iptc4xmpExt:AISystemUsed": MODEL,
            "Iptc4xmpExt:AISystemVersionUsed": self.fingerprint.lane,
        }
        return {
            "claim_generator_info": [agent],
            "title": request.id,
            "format": "video/mp4",
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [created]}, "created": True},
                {"label": "cawg.metadata", "data": model, "kind": "Json", "created": True},
            ],
        }


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
