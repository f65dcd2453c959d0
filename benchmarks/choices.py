"""`python -m benchmarks.choices`: ways to do the same thing, side by side; what the code does is the first of a group.

The ways of a group give the same numbers, which is checked. With `--device cuda` shapes are the release's, with
`--device cpu` small ones. `start` is a whole process, see `benchmarks.start`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.machine import describe_machine
from benchmarks.networks import random_transformer
from benchmarks.report import Report
from benchmarks.scale import RELEASE, SMALL, Scale
from benchmarks.stages import noise_clip
from benchmarks.start import measure_starts
from benchmarks.timing import Timing, measure_in_turn
from model.attention import AttentionBackend, SdpaAttention, choose_attention
from model.compilation import compile_transformer
from model.denoiser import Denoiser
from model.graph_cache import load_or_compile
from model.packed_linear import TILE, choose_format
from model.packing import LocalWindow, patchify
from model.parity.report import relative_error
from model.transformer import Attention, Transformer

NUM_SHORT_CLIPS = 4
SHORT_SECONDS = 1.0
LEVEL = 0.5
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
RELEASE_MLP_WIDTH = 13_652

Ways = dict[str, Callable[[], Tensor]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    choices = Choices(torch.device(options.device))
    choices.run()
    if options.output:
        content: dict[str, Any] = {"machine": describe_machine(), "scale": choices.scale.name}
        content |= {"results": choices.report.rows, "skipped": choices.report.skipped}
        options.output.write_text(json.dumps(content, indent=1) + "\n")
    return 0


class Choices:
    """Measures a device, group by group.

    Args:
        device: which.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.scale: Scale = RELEASE if device.type == "cuda" else SMALL
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.report = Report()

    def run(self) -> None:
        """Every group."""
        groups: dict[str, Callable[[], Ways]] = {
            "four short clips": self._short_clips,
            "guidance": self._guidance,
            "local windows": self._local_windows,
            "experts": self._experts,
            "down projection": self._down_projection,
            "attention in a graph": self._attention_in_a_graph,
        }
        for name, ways in groups.items():
            with torch.inference_mode():
                self._compare(name, ways())
        self._starts()

    def _compare(self, group: str, ways: Ways) -> None:
        first: Tensor | None = None
        able: Ways = {}
        for name, run in ways.items():
            try:
                result = run()
            except RuntimeError as error:  # a kernel that this device does not have, or no memory for it
                self.report.skip(group, name, str(error).splitlines()[0][:200])
                continue
            first = result if first is None else first
            if relative_error(result, first) > _TOLERANCE[self.dtype]:
                raise RuntimeError(f"{group}: {name} gives other numbers than the first way")
            able[name] = run
        for name, timing in zip(able, measure_in_turn(list(able.values()), self.device, 7), strict=True):
            self._add(group, name, timing)

    def _add(self, group: str, name: str, timing: Timing) -> None:
        first_s = next((row["seconds"] for row in self.report.rows if row["stage"] == group), timing.seconds)
        self.report.add(group, name, timing, times_the_first=timing.seconds / first_s)

    def _transformer(self) -> Transformer:
        attention = choose_attention(self.device, self.dtype)
        form = choose_format(self.device, is_fp8=False)
        return random_transformer(self.scale.full, self.dtype, self.device, form, attention)

    def _short_clips(self) -> Ways:
        """Denoise several clips: as one sequence, or one after the other."""
        model, layout = self._transformer(), self.scale.layout("256p", SHORT_SECONDS)
        clips = [noise_clip(layout, model.config.text_channels, self.device, seed) for seed in range(NUM_SHORT_CLIPS)]
        together = Denoiser(model, [text for _, text in clips], [clip for clip, _ in clips])
        alone = [Denoiser(model, [text], [clip]) for clip, text in clips]
        latents, levels_S = [clip for clip, _ in clips], torch.full((NUM_SHORT_CLIPS,), LEVEL)

        def one_sequence() -> Tensor:
            return torch.stack([velocity.video_1CTHW for velocity in together(latents, levels_S)])

        def one_by_one() -> Tensor:
            pairs = zip(alone, latents, strict=True)
            return torch.stack([denoise([clip], levels_S[:1])[0].video_1CTHW for denoise, clip in pairs])

        return {"one sequence": one_sequence, "one by one": one_by_one}

    def _guidance(self) -> Ways:
        """Denoise with the prompt and with the negative prompt: in one pass, or in two."""
        model, layout = self._transformer(), self.scale.layout("256p")
        clip, text = noise_clip(layout, model.config.text_channels, self.device, 0)
        _, negative = noise_clip(layout, model.config.text_channels, self.device, 1)
        both = Denoiser(model, [text, negative], [clip, clip])
        each = [Denoiser(model, [one], [clip]) for one in (text, negative)]
        levels_S = torch.full((2,), LEVEL)
        return {
            "one pass": lambda: torch.stack([one.video_1CTHW for one in both([clip, clip], levels_S)]),
            "two passes": lambda: torch.stack([one([clip], levels_S[:1])[0].video_1CTHW for one in each]),
        }

    def _local_windows(self) -> Ways:
        """Attend in local windows: frame by frame to the keys in sight, or with everything else masked."""
        config, layout = self.scale.windowed, self.scale.layout("1080p", 5.0)
        window = LocalWindow(layout, config.local_attention_radius)
        generator = torch.Generator(self.device).manual_seed(0)
        shapes = [
            (layout.num_tokens, heads, config.head_dim) for heads in (config.num_heads, *2 * [config.num_kv_heads])
        ]
        q, k, v = (torch.randn(s, generator=generator, device=self.device).to(self.dtype) for s in shapes)
        num_video, per_frame, radius = layout.num_video, layout.tokens_per_frame, window.radius
        frames = torch.arange(layout.num_tokens, device=self.device) // per_frame

        def is_visible(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
            is_near = (frames[query] - frames[key]).abs() <= radius
            return is_near | (query >= num_video) | (key >= num_video)

        q_1HNK, k_1GNK, v_1GNK = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
        blocks = create_block_mask(is_visible, None, None, layout.num_tokens, layout.num_tokens, self.device.type)
        flex = torch.compile(flex_attention)
        backend = choose_attention(self.device, self.dtype)

        def masked() -> Tensor:
            index = torch.arange(layout.num_tokens, device=self.device)
            mask_NN = is_visible(index, index, index.unsqueeze(1), index.unsqueeze(0))
            out = F.scaled_dot_product_attention(q_1HNK, k_1GNK, v_1GNK, attn_mask=mask_NN, enable_gqa=True)
            return out.squeeze(0).transpose(0, 1)

        return {
            "frame by frame": lambda: backend(q, k, v, window),
            "flex attention": lambda: (
                flex(q_1HNK, k_1GNK, v_1GNK, block_mask=blocks, enable_gqa=True).squeeze(0).transpose(0, 1)
            ),
            "dense mask": masked,
        }

    def _experts(self) -> Ways:
        """Multiply the tokens of three modalities with three weights."""
        layout, features = self.scale.layout("256p"), 4 * self.scale.full.hidden_size
        counts, channels = layout.token_counts, self.scale.full.hidden_size
        generator = torch.Generator(self.device).manual_seed(0)
        x_NC = torch.randn(layout.num_tokens, channels, generator=generator, device=self.device).to(self.dtype)
        weight_EFC = torch.randn(3, features, channels, generator=generator, device=self.device).to(self.dtype)
        ends_E = torch.tensor(counts, device=self.device).cumsum(0).to(torch.int32)
        modality_N = torch.repeat_interleave(
            torch.arange(3, device=self.device), torch.tensor(counts, device=self.device)
        )

        def slices() -> Tensor:
            return torch.cat([F.linear(x, weight) for x, weight in zip(x_NC.split(counts), weight_EFC, strict=True)])

        def gathers() -> Tensor:
            out_NF = x_NC.new_empty(layout.num_tokens, features)
            for expert, weight in enumerate(weight_EFC):
                index = (modality_N == expert).nonzero().squeeze(1)
                out_NF[index] = F.linear(x_NC[index], weight)
            return out_NF

        return {
            "a slice each": slices,
            "grouped product": lambda: F.grouped_mm(x_NC, weight_EFC.transpose(1, 2), offs=ends_E),
            "gathers": gathers,
        }

    def _down_projection(self) -> Ways:
        """Multiply with a weight that has whole tiles, or the checkpoint's width."""
        width, hidden = RELEASE_MLP_WIDTH, RELEASE.full.hidden_size
        if self.scale is not RELEASE:
            width, hidden = width // 10, hidden // 10
        padded = -(-width // TILE) * TILE
        num_tokens = self.scale.layout("256p").num_tokens
        generator = torch.Generator(self.device).manual_seed(0)
        x_NC, w_FC = (
            torch.randn(rows, width, generator=generator, device=self.device).to(self.dtype)
            for rows in (num_tokens, hidden)
        )
        wide = [F.pad(tensor, (0, padded - width)) for tensor in (x_NC, w_FC)]
        return {f"{padded} wide": lambda: F.linear(*wide), f"{width} wide": lambda: F.linear(x_NC, w_FC)}

    def _attention_in_a_graph(self) -> Ways:
        """A compiled forward pass that calls attention as an operator of its own, or has PyTorch's inside."""
        layout = self.scale.layout("256p")
        opaque, inside = self._transformer(), self._transformer()
        compile_transformer(opaque, layout, "torch")
        for module in inside.modules():
            if isinstance(module, Attention):
                module.backend = _OfOneClip()
        clip, text = noise_clip(layout, inside.config.text_channels, self.device, 0)
        positions = inside.positions([layout])
        arguments = (patchify(clip.video_1CTHW), clip.audio_1AC[0], text[0], positions.rope_NR, positions.clips_5S)
        dims = dict.fromkeys(range(1, 5), (0,))
        graph = load_or_compile(Transformer.velocities, (inside, *arguments), dims, {"attention": "inside"})
        assert opaque.compiled is not None
        return {
            "operator": partial(_video_of, opaque.compiled, arguments),
            "inside": partial(_video_of, partial(graph, inside), arguments),
        }

    def _starts(self) -> None:
        for name, seconds in zip(
            ("second process", "first process"), reversed(measure_starts(self.device.type)), strict=True
        ):
            self._add("start", name, Timing(seconds, 1.0, None))


class _OfOneClip(AttentionBackend):
    """PyTorch's attention over the whole sequence, which the compiler sees."""

    name = "of_one_clip"

    def attend(self, q_NHK: Tensor, k_MGK: Tensor, v_MGK: Tensor) -> Tensor:
        return SdpaAttention().attend(q_NHK, k_MGK, v_MGK)

    def attend_clips(self, q_NHK: Tensor, k_NGK: Tensor, v_NGK: Tensor, clips_5S: Tensor, radius: int | None) -> Tensor:
        return self.attend(q_NHK, k_NGK, v_NGK)


def _video_of(velocities: Callable[..., tuple[Tensor, Tensor]], arguments: Sequence[Tensor]) -> Tensor:
    return velocities(*arguments)[0]


if __name__ == "__main__":
    sys.exit(main())
