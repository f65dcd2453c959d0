"""A lane: the clips of a run that need the same checkpoints, and so can share pools of actors."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache

from actors.fingerprint import LaneFingerprint, hash_facts
from actors.request import ClipRequest
from model.capabilities import Capabilities, Samplers
from model.checkpoint_files import CheckpointFiles
from model.geometry import RESOLUTIONS
from model.layout import Layout
from pipeline.settings import Settings
from pipeline.valid_row import ClipKind, ValidRow

NUMERICS_VERSION = 3
"""Raised whenever a change of this code changes pixels or sound, so that old clips are not taken for new ones."""

_SAMPLE_BYTES = 65_536
_SAMPLE_DISTANCE_BYTES = 256 * 2**20
_FILES_AT_ONCE = 8


@dataclass(frozen=True)
class Lane:
    """One combination of base model and resolution.

    Attributes:
        mode: "base" or "distill".
        resolution: "256p", "540p" or "1080p".
    """

    mode: str
    resolution: str

    def __str__(self) -> str:
        return f"{self.mode}/{self.resolution}"

    @property
    def is_super_resolved(self) -> bool:
        """Whether the lane has a super-resolution pool."""
        return self.resolution != "256p"

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages its clips pass, in order."""
        middle = ("super_resolution",) if self.is_super_resolved else ()
        return ("conditioning", "base_generation", *middle, "decoding", "writing")

    def uses_negative_prompt(self, samplers: Samplers) -> bool:
        """Whether any of its models runs with guidance."""
        return self.mode == "base" or (self.is_super_resolved and samplers.super_resolution.guidance is not None)


def component_fingerprint(files: CheckpointFiles, layout: Layout, component: str) -> str:
    """Hash of a component's files: every name and size, 64 KiB at each 256 MiB of it, and its last 64 KiB.

    Whole files would be exact and would mean reading 30 GB before the first clip. The samples hold each file's table of
    tensors and weights of every layer or two, so weights merged into some kinds of layers show too.

    Raises:
        CheckpointError: if the checkpoint lacks the component.
        StorageError: if it cannot be read.
    """
    found = layout.files(component)

    def sample(name: str) -> bytes:
        size = files.sizes[name]
        digest = hashlib.sha256(f"{name.removeprefix(found.folder)}\0{size}\0".encode())
        with files.open(name) as file:
            for start in (*range(0, size, _SAMPLE_DISTANCE_BYTES), max(0, size - _SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
        return digest.digest()

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return hashlib.sha256(b"".join(pool.map(sample, found.all))).hexdigest()[:32]


@dataclass(frozen=True)
class LaneWork:
    """The clips of one lane and what they are made with.

    Attributes:
        lane: the lane.
        examples: one request of every kind and size that is to be made.
        counts: how many there are of each.
        fingerprint: of checkpoint and settings.
        components: the checkpoint's components they are made with.
        samplers: how they are denoised.
    """

    lane: Lane
    examples: tuple[ClipRequest, ...]
    counts: tuple[int, ...]
    fingerprint: LaneFingerprint
    components: tuple[str, ...]
    samplers: Samplers

    @property
    def reads_images(self) -> bool:
        """Whether any clip has a reference image."""
        return any(request.image is not None for request in self.examples)

    @property
    def reads_audio(self) -> bool:
        """Whether any clip is driven by audio."""
        return any(request.audio is not None for request in self.examples)


class Lanes:
    """Sorts requests into lanes as they come.

    Args:
        files: of the checkpoint.
        layout: which of them make which component.
        settings: of the run.
        capabilities: of the checkpoint.

    Raises:
        SettingsError: if the settings do not go with the checkpoint's samplers.
    """

    def __init__(self, files: CheckpointFiles, layout: Layout, settings: Settings, capabilities: Capabilities):
        self.files, self.layout, self.settings, self.capabilities = files, layout, settings, capabilities
        self.samplers = settings.sampling.samplers(capabilities.samplers)
        self._examples: dict[str, dict[ClipKind, ClipRequest]] = {name: {} for name in RESOLUTIONS}
        self._counts: Counter[ClipKind] = Counter()
        self._component_hash = cache(self._hash_component)
        self._lane_hash = cache(self._hash_lane)

    def fingerprint(self, resolution: str, has_image: bool) -> LaneFingerprint:
        """What every clip of a resolution depends on; with `has_image` those that have a reference image.

        Raises:
            CheckpointError: if the checkpoint lacks a component that they need.
            StorageError: if it cannot be read.
        """
        image_vae = self._component_hash("wan_vae") if has_image else ""
        return LaneFingerprint(self._lane_hash(resolution), image_vae, self.capabilities)

    def add(self, row: ValidRow) -> None:
        """Take a row whose clip is to be made."""
        examples = self._examples[row.kind.resolution]
        if row.kind not in examples:
            examples[row.kind] = row.parsed()
        self._counts[row.kind] += 1

    def works(self) -> list[LaneWork]:
        """The lanes of the requests taken, small clips first.

        Raises:
            CheckpointError: if the checkpoint lacks a component that a lane needs.
            StorageError: if it cannot be read.
        """
        return [self._work(name) for name, found in self._examples.items() if found]

    def _work(self, resolution: str) -> LaneWork:
        found = self._examples[resolution]
        examples, counts = tuple(found.values()), tuple(self._counts[kind] for kind in found)
        lane = Lane(self.settings.mode, resolution)
        components = self.layout.components_for(lane.mode, resolution)
        if has_image := any(kind.has_image for kind in found):
            components = tuple(dict.fromkeys((*components, "wan_vae")))
        fingerprint = self.fingerprint(resolution, has_image)
        return LaneWork(lane, examples, counts, fingerprint, components, self.samplers)

    def _hash_component(self, name: str) -> str:
        return component_fingerprint(self.files, self.layout, name)

    def _hash_lane(self, resolution: str) -> str:
        settings, lane = self.settings, Lane(self.settings.mode, resolution)
        components = self.layout.components_for(lane.mode, resolution)
        facts = {
            "numerics": NUMERICS_VERSION,
            "components": {name: self._component_hash(name) for name in components},
            "precision": settings.precision,
            "compiler": settings.compiler,
            "is_packed": settings.packed_tokens > 0,
            "threads": settings.threads_per_actor,
            "base": asdict(self.samplers.of_mode(lane.mode)),
            "sr": asdict(self.samplers.super_resolution) if lane.is_super_resolved else None,
            "negative_prompt": settings.sampling.negative_prompt if lane.uses_negative_prompt(self.samplers) else None,
            "encoding": asdict(settings.encoding.video_encoding()),
        }
        return hash_facts(facts)
