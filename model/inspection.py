"""A look at a checkpoint: what is there, whether it is sound, and what can be made with it. No weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from model.checkpoint_files import CheckpointError, CheckpointFiles
from model.components import Contents, read_contents
from model.geometry import RESOLUTIONS
from model.layout import COMPONENTS, Layout, find_layout
from model.variants import VARIANTS

MODES = ("base", "distill")
CONDITIONS = ("text", "text + image", "text + audio", "text + image + audio")


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        layout: where components are.
        contents: components that are sound.
        problems: component to what is wrong with it, for those that are there and not sound.
    """

    layout: Layout
    contents: dict[str, Contents]
    problems: dict[str, str]

    def missing(self, components: tuple[str, ...]) -> list[str]:
        """Which of these are absent or not sound."""
        return [component for component in components if component not in self.contents]

    def lanes(self) -> dict[str, list[str]]:
        """Mode to the resolutions that can be made in it; modes without any are left out."""
        possible = {
            mode: [r for r in RESOLUTIONS if not self.missing(self.layout.components_for(mode, r))] for mode in MODES
        }
        return {mode: resolutions for mode, resolutions in possible.items() if resolutions}

    def conditions(self) -> list[str]:
        """What clips can be conditioned on."""
        if not self.lanes():
            return []
        return [name for name in CONDITIONS if "image" not in name or not self.missing(("wan_vae",))]


def inspect(files: CheckpointFiles) -> Inspection:
    """Look at every component.

    Raises:
        CheckpointError: if this is no checkpoint at all.
    """
    layout = find_layout(files)
    contents, problems = {}, {}
    for component in COMPONENTS:
        if layout.has(component) or component in layout.problems:
            try:
                contents[component] = read_contents(files, layout, component)
            except CheckpointError as error:
                problems[component] = str(error)
    mismatches = _text_width_mismatches(contents)
    sound = {component: value for component, value in contents.items() if component not in mismatches}
    return Inspection(layout, sound, problems | mismatches)


def check_components(files: CheckpointFiles, components: tuple[str, ...]) -> None:
    """Hold the tables of contents of these components against their networks.

    Raises:
        CheckpointError: naming the first component that is absent or not sound, and why.
    """
    layout = find_layout(files)
    mismatches = _text_width_mismatches(
        {component: read_contents(files, layout, component) for component in components}
    )
    if mismatches:
        raise CheckpointError(next(iter(mismatches.values())))


def _text_width_mismatches(contents: Mapping[str, Contents]) -> dict[str, str]:
    """Transformers that take other text features than the text encoder gives: each is sound, and they do not fit."""
    if "text_encoder" not in contents:
        return {}
    given = contents["text_encoder"].shapes["encoder.embed_tokens.weight"][1]
    taken = {v: contents[v].shapes["adapter.text_embedder.weight"][1] for v in VARIANTS if v in contents}
    return {
        variant: f"{variant}: takes text features of width {width}, the text encoder gives {given}"
        for variant, width in taken.items()
        if width != given
    }


def parameter_counts(contents: Contents) -> dict[torch.dtype, int]:
    """Number of parameters in use, by the dtype they are stored in, most frequent first."""
    counts: Counter[torch.dtype] = Counter()
    for file_name in contents.names.values():
        header = contents.headers[file_name]
        counts[header.dtype] += header.num_elements
    return dict(counts.most_common())
