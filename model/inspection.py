"""A look at a checkpoint: what is there, whether it is sound, and what can be made with it. No weight is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from model.capabilities import Capabilities, read_capabilities
from model.checkpoint_files import CheckpointError, CheckpointFiles
from model.components import Contents, read_contents
from model.geometry import RESOLUTIONS
from model.layout import COMPONENTS, CONFIG_NAME, Layout, find_layout
from model.variants import VARIANTS

MODES = ("base", "distill")
CONDITIONS = ("text", "text + image", "text + audio", "text + image + audio")


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        layout: where components are.
        contents: components that are sound.
        problems: component (or the root's `config.json`) to what is wrong with it, for those that are there and not
            sound.
        capabilities: what the checkpoint can be asked for; the release's where `config.json` is absent or not sound.
    """

    layout: Layout
    contents: dict[str, Contents]
    problems: dict[str, str]
    capabilities: Capabilities

    @property
    def needed(self) -> tuple[str, ...]:
        """Components that belong to this checkpoint.

        All that belong to the layout, or, where a `config.json` says what can be asked for, what that takes: one of the
        two modes is enough then.
        """
        if self.layout.config is None:
            return self.layout.needed
        if CONFIG_NAME in self.problems:  # what it means to make is not known: no more faults are made up
            return tuple(component for component in self.layout.needed if not self.layout.is_absent(component))
        idle = {f"sr_{resolution}" for resolution in RESOLUTIONS if resolution not in self.capabilities.resolutions}
        idle |= set(MODES) - set(self.contents) - set(self.problems) if self._has_a_mode else set()
        if "image" not in self.capabilities.conditions and self.layout.video_decoder != "wan_vae":
            idle.add("wan_vae")
        return tuple(component for component in self.layout.needed if component not in idle)

    @property
    def _has_a_mode(self) -> bool:
        return any(mode in self.contents for mode in MODES)

    def missing(self, components: tuple[str, ...]) -> list[str]:
        """Which of these are absent or not sound."""
        return [component for component in components if component not in self.contents]

    def lanes(self) -> dict[str, list[str]]:
        """Mode to the resolutions that can be made in it; modes without any are left out."""
        if CONFIG_NAME in self.problems:
            return {}
        possible = {
            mode: [r for r in self.capabilities.resolutions if not self.missing(self.layout.components_for(mode, r))]
            for mode in MODES
        }
        return {mode: resolutions for mode, resolutions in possible.items() if resolutions}

    def conditions(self) -> list[str]:
        """What clips can be conditioned on."""
        if not self.lanes():
            return []
        taken = {"text", *self.capabilities.conditions}
        if self.missing(("wan_vae",)):
            taken.discard("image")
        return [name for name in CONDITIONS if taken.issuperset(name.split(" + "))]


def inspect(files: CheckpointFiles) -> Inspection:
    """Look at every component.

    Raises:
        CheckpointError: if this is no checkpoint at all.
    """
    layout = find_layout(files)
    contents, problems, capabilities = {}, {}, Capabilities()
    try:
        capabilities = read_capabilities(files, layout)
    except CheckpointError as error:
        problems[CONFIG_NAME] = str(error)
    for component in COMPONENTS:
        if layout.has(component) or component in layout.problems:
            try:
                contents[component] = read_contents(files, layout, component)
            except CheckpointError as error:
                problems[component] = str(error)
    mismatches = _text_width_mismatches(contents)
    sound = {component: value for component, value in contents.items() if component not in mismatches}
    return Inspection(layout, sound, problems | mismatches, capabilities)


def check_components(files: CheckpointFiles, components: tuple[str, ...]) -> dict[str, Contents]:
    """Hold the tables of contents of these components against their networks.

    Returns:
        What they hold, by component.

    Raises:
        CheckpointError: naming the first component that is absent or not sound, and why.
    """
    layout = find_layout(files)
    contents = {component: read_contents(files, layout, component) for component in components}
    mismatches = _text_width_mismatches(contents)
    if mismatches:
        raise CheckpointError(next(iter(mismatches.values())))
    return contents


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
