"""What a checkpoint can be asked for: pixel sizes, lengths, conditions, and the samplers that suit it.

A checkpoint says so in a `config.json` at its root. Without one the numbers of the public release hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, get_type_hints

from model.checkpoint_files import CheckpointError, CheckpointFiles, read_json
from model.config_types import as_tuple, section
from model.geometry import (
    ASPECTS,
    DEFAULT_SECONDS,
    LATENT_STRIDE_SPACE,
    MAX_AUDIO_SECONDS,
    MAX_SECONDS,
    MIN_SECONDS,
    PATCH_SIZE,
    PIXEL_SIZES,
    RESOLUTIONS,
    max_seconds,
)
from model.layout import CONFIG_KEYS, Layout
from model.sampling import DistilledSampling, GuidedSampling, SuperResolutionSampling

CONDITIONS = ("image", "audio")
"""What a clip can be conditioned on besides text."""

BASE_RESOLUTION = RESOLUTIONS[0]
LONGEST_SECONDS = max(MAX_AUDIO_SECONDS.values())
_CELL = LATENT_STRIDE_SPACE * PATCH_SIZE

Sampler = TypeVar("Sampler", GuidedSampling, DistilledSampling, SuperResolutionSampling)


@dataclass(frozen=True)
class Samplers:
    """One sampler for each kind of Transformer.

    Attributes:
        base: of the base model.
        distill: of the distilled one.
        super_resolution: of both super-resolution models.
    """

    base: GuidedSampling = field(default_factory=GuidedSampling)
    distill: DistilledSampling = field(default_factory=DistilledSampling)
    super_resolution: SuperResolutionSampling = field(default_factory=SuperResolutionSampling)

    def of_mode(self, mode: str) -> GuidedSampling | DistilledSampling:
        """Sampler of base generation in a mode, "base" or "distill"."""
        return self.base if mode == "base" else self.distill

    @classmethod
    def from_json(cls, raw: Any) -> Samplers:
        """Read `sampling` of the file; what it leaves out is the release's.

        Raises:
            ValueError: naming the field, what is allowed, and the value.
        """
        release = cls()
        values = _known(raw, "sampling", [item.name for item in fields(cls)])
        return cls(
            base=_changed(release.base, "sampling.base", values.get("base", {})),
            distill=_changed(release.distill, "sampling.distill", values.get("distill", {})),
            super_resolution=_changed(
                release.super_resolution, "sampling.super_resolution", values.get("super_resolution", {})
            ),
        )


@dataclass(frozen=True)
class Capabilities:
    """What a checkpoint can be asked for; the defaults are the release's.

    In the file:

        {"pixel_sizes": {"256p": {"16:9": [96, 64], "1:1": [64, 64]}, "540p": {"16:9": [192, 128]}},
         "min_seconds": 1, "max_seconds": 2, "default_seconds": 1.4, "conditions": ["image"],
         "sampling": {"base": {"num_steps": 25}, "distill": {"shift": 3}, "super_resolution": {"num_steps": 4}}}

    Every key may be left out. Without `default_seconds` it is the possible length nearest to the release's.

    Attributes:
        pixel_sizes: (resolution label, aspect ratio) to (width, height) in pixels; what is not there cannot be made.
            Sides are multiples of 32 pixels: two latents, the Transformer's patch. Every aspect ratio has a size at
            256p, since every clip is first made at that, and no smaller ones at other labels.
        min_seconds: of a clip.
        max_seconds: of a clip; where the release's own limit is lower, that holds.
        default_seconds: of a clip made from text that names no length.
        conditions: what clips can be conditioned on besides text, out of `CONDITIONS`.
        samplers: used where settings say nothing; `sampling` in the file, with the fields of `model.sampling`.

    Raises:
        ValueError: naming the field, what is allowed, and the value.
    """

    pixel_sizes: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=lambda: PIXEL_SIZES)
    min_seconds: float = MIN_SECONDS
    max_seconds: float = LONGEST_SECONDS
    default_seconds: float = DEFAULT_SECONDS
    conditions: tuple[str, ...] = CONDITIONS
    samplers: Samplers = field(default_factory=Samplers)

    def __post_init__(self) -> None:
        if not any(resolution == BASE_RESOLUTION for resolution, _ in self.pixel_sizes):
            raise ValueError(f"pixel_sizes must name a size at {BASE_RESOLUTION}, got {_nested(self.pixel_sizes)!r}")
        # The others are compared with those of base generation, so these come first.
        for key in sorted(self.pixel_sizes, key=lambda key: key[0] != BASE_RESOLUTION):
            self._require_size(*key)
        _require_number("min_seconds", self.min_seconds, MIN_SECONDS, MAX_SECONDS)
        _require_number("max_seconds", self.max_seconds, self.min_seconds, LONGEST_SECONDS)
        longest_from_text = min(self.max_seconds, MAX_SECONDS)
        _require_number("default_seconds", self.default_seconds, self.min_seconds, longest_from_text)
        if not isinstance(self.conditions, tuple) or any(name not in CONDITIONS for name in self.conditions):
            raise ValueError(f"conditions must be a list out of {', '.join(CONDITIONS)}, got {_shown(self.conditions)}")

    def _require_size(self, resolution: str, aspect: str) -> None:
        size: Any = self.pixel_sizes[resolution, aspect]
        _require_one_of("resolution in pixel_sizes", resolution, RESOLUTIONS)
        _require_one_of(f"aspect in pixel_sizes.{resolution}", aspect, ASPECTS)
        name = f"pixel_sizes.{resolution}.{aspect}"
        is_pair = isinstance(size, tuple) and len(size) == 2
        if not is_pair or not all(type(side) is int and side > 0 and side % _CELL == 0 for side in size):
            raise ValueError(f"{name} must be [width, height], each a multiple of {_CELL} pixels, got {_shown(size)}")
        base = self.pixel_sizes.get((BASE_RESOLUTION, aspect))
        if base is None:
            raise ValueError(f"{name} needs pixel_sizes.{BASE_RESOLUTION}.{aspect} beside it, got {_shown(size)} alone")
        if any(side < least for side, least in zip(size, base, strict=True)):
            raise ValueError(
                f"{name} must be at least {_shown(base)}, the size at {BASE_RESOLUTION}, got {_shown(size)}"
            )

    @property
    def resolutions(self) -> tuple[str, ...]:
        """Labels that have a size, smallest first."""
        named = {resolution for resolution, _ in self.pixel_sizes}
        return tuple(resolution for resolution in RESOLUTIONS if resolution in named)

    @property
    def restricts_sizes(self) -> bool:
        """Whether the labels mean something else than in the release."""
        return dict(self.pixel_sizes) != PIXEL_SIZES

    def aspects(self, resolution: str) -> tuple[str, ...]:
        """Aspect ratios that have a size at a label."""
        return tuple(aspect for aspect in ASPECTS if (resolution, aspect) in self.pixel_sizes)

    def pixel_size(self, resolution: str, aspect: str) -> tuple[int, int]:
        """Return (width, height) in pixels of a finished clip.

        Raises:
            ValueError: if the label or the aspect ratio has no size.
        """
        _require_one_of("resolution", resolution, self.resolutions)
        _require_one_of("aspect", aspect, self.aspects(resolution))
        return self.pixel_sizes[resolution, aspect]

    def base_size(self, aspect: str) -> tuple[int, int]:
        """Return (width, height) in pixels of base generation.

        Raises:
            ValueError: if the aspect ratio has no size.
        """
        return self.pixel_size(BASE_RESOLUTION, aspect)

    def max_clip_seconds(self, resolution: str, has_audio: bool) -> float:
        """Return how long a clip may be: what `max_seconds` says, or the release where that is less.

        Raises:
            ValueError: if the label is unknown.
        """
        return min(self.max_seconds, max_seconds(resolution, has_audio))

    @classmethod
    def from_json(cls, raw: Any) -> Capabilities:
        """Read a parsed `config.json`.

        Raises:
            ValueError: naming the field, what is allowed, and the value.
        """
        values = dict(_known(raw, "", CONFIG_KEYS))
        samplers = Samplers.from_json(values.pop("sampling", {}))
        if "pixel_sizes" in values:
            values["pixel_sizes"] = _flat(values)
        if "conditions" in values:
            values["conditions"] = as_tuple(values["conditions"])
        if "default_seconds" not in values:
            shortest, longest = values.get("min_seconds", MIN_SECONDS), values.get("max_seconds", LONGEST_SECONDS)
            if all(type(limit) in (int, float) for limit in (shortest, longest)):  # else it is refused by its name
                values["default_seconds"] = max(shortest, min(DEFAULT_SECONDS, longest))
        return cls(samplers=samplers, **values)

    def to_json(self) -> dict[str, Any]:
        """Content of the file; the inverse of `from_json`."""
        return {
            "pixel_sizes": _nested(self.pixel_sizes),
            "min_seconds": self.min_seconds,
            "max_seconds": self.max_seconds,
            "default_seconds": self.default_seconds,
            "conditions": list(self.conditions),
            "sampling": asdict(self.samplers),
        }


def read_capabilities(files: CheckpointFiles, layout: Layout) -> Capabilities:
    """Read what a checkpoint can be asked for.

    Raises:
        CheckpointError: its `config.json` cannot be read or says what is not possible.
    """
    if layout.config is None:
        return Capabilities()
    values = read_json(files, layout.config)
    try:
        return Capabilities.from_json(values)
    except ValueError as error:
        raise CheckpointError(f"{layout.config}: {error}") from error


def _changed(sampler: Sampler, name: str, raw: Any) -> Sampler:
    hints = get_type_hints(type(sampler))
    values = dict(_known(raw, name, list(hints)))
    for key, value in values.items():
        if type(value) is int and hints[key] is not int and abs(value) < 2**53:
            values[key] = float(value)  # 5 and 5.0 in the file are one number, and one fingerprint
    try:
        return replace(sampler, **values)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from error


def _known(raw: Any, name: str, names: list[str] | tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise ValueError(f"{name} must be an object, got {_shown(raw)}")
    for key in raw:
        if key not in names:
            raise ValueError(f"{name + '.' if name else ''}{key} is unknown; known here: {', '.join(names)}")
    return raw


def _flat(raw: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    return {
        (resolution, aspect): as_tuple(size)
        for resolution in section(raw, "pixel_sizes")
        for aspect, size in section(raw, "pixel_sizes", resolution).items()
    }


def _nested(sizes: Mapping[tuple[str, str], tuple[int, int]]) -> dict[str, dict[str, list[int]]]:
    nested: dict[str, dict[str, list[int]]] = {}
    for (resolution, aspect), size in sizes.items():
        nested.setdefault(resolution, {})[aspect] = list(size)
    return nested


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _require_number(name: str, value: Any, least: float, most: float) -> None:
    if type(value) not in (int, float) or not least <= value <= most:
        raise ValueError(f"{name} must be a number between {least:g} and {most:g}, got {_shown(value)}")


def _shown(value: Any) -> str:
    return f"{(list(value) if isinstance(value, tuple) else value)!r:.200}"
