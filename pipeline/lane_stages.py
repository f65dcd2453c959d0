"""The stages of a lane, with all that their actors are made with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.base_generation import BaseGeneration
from actors.checkpoint_source import CheckpointSource
from actors.conditioning import Conditioning
from actors.decoding import Decoding
from actors.origin import Origin
from actors.redaction import redact
from actors.references import AllowedReferences
from actors.stage import Stage
from actors.super_resolution import SuperResolution
from actors.writing import Writing
from pipeline.lane import LaneWork
from pipeline.pools import Pool
from pipeline.run_spec import RunSpec


def lane_stages(
    spec: RunSpec, work: LaneWork, pools: Sequence[Pool], our_version: str, references: AllowedReferences | None = None
) -> Mapping[str, tuple[type[Stage], Mapping[str, Any]]]:
    """Stage name to its class and constructor arguments.

    Args:
        spec: of the run.
        work: the lane.
        pools: of the lane.
        our_version: goes into every clip and its record.
        references: where images and recordings may lie; None: anywhere, for requests of one's own.
    """
    settings, lane = spec.settings, work.lane
    source = CheckpointSource(spec.checkpoint_url, settings.cache_dir)
    negative = settings.sampling.negative_prompt if lane.uses_negative_prompt(work.samplers) else None
    origin = Origin(our_version, work.fingerprint)
    provenance = {
        **origin.facts(),
        "checkpoint": redact(spec.checkpoint_url),
        "lane": str(lane),
        "signed": settings.provenance.credentials is not None,
    }
    stages: dict[str, tuple[type[Stage], dict[str, Any]]] = {
        "conditioning": (
            Conditioning,
            {
                "source": source,
                "negative_prompt": negative,
                "reads_images": work.reads_images,
                "reads_audio": work.reads_audio,
                "references": references,
            },
        ),
        "base_generation": (
            BaseGeneration,
            {
                "source": source,
                "sampling": work.samplers.of_mode(lane.mode),
                "packed_tokens": settings.packed_tokens,
            },
        ),
        "super_resolution": (
            SuperResolution,
            {"source": source, "resolution": lane.resolution, "sampling": work.samplers.super_resolution},
        ),
        "decoding": (
            Decoding,
            {
                "source": source,
                "encoding": settings.encoding.video_encoding(),
                "resolution": lane.resolution,
                "origin": origin,
                "credentials": settings.provenance.credentials,
            },
        ),
        "writing": (
            Writing,
            {
                "output_url": spec.output_url,
                "fingerprint": work.fingerprint,
                "provenance": provenance,
                "overwrites": spec.overwrite,
            },
        ),
    }
    for pool in pools:
        stages[pool.stage][1]["compute"] = settings.compute(pool.num_gpus)
    return stages
