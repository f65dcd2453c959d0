"""Where a recording takes its configurations, weights and inputs from: a set there is, or a preset and its seed."""

import json
import re
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Tensors = dict[str, Tensor]

LATENT_CHANNELS = 48
RELEASE_TURBO_VAE = json.loads((Path(__file__).parents[1] / "golden/release_shapes.json").read_text())[
    "turbo_vae_config"
]

RUNS = {
    "base_cfg8": {"steps": 8, "forwards": 2},
    "base_cfg8_image": {"steps": 8, "forwards": 2, "image": True},
    "base_cfg8_audio_driven": {"steps": 8, "forwards": 2, "audio_driven": True},
    "distilled8": {"steps": 8, "forwards": 1},
    "distilled8_image": {"steps": 8, "forwards": 1, "image": True},
    "sr5": {"steps": 5, "forwards": 1, "image": True, "sr": True},
    "sr5_cfg": {"steps": 5, "forwards": 2, "sr": True},
}

INPUTS = {
    "dit_forward": r"\d+\.(video|audio|text)",
    "sampling": r"video|audio|text|text_null|image|\w+\.noise\.\d+",
    "turbo_vae": r"T\d+\.latent",
    "wan22_vae": r"T\d+\.pixels",
    "oobleck": r"latent|enc_input",
}


class ExistingSet:
    """Configurations, weights and inputs of a set that lies in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def config(self, part: str) -> dict:
        return json.loads((self.directory / f"{part}_config.json").read_text())

    def weights(self, part: str, _module: nn.Module) -> Tensors:
        return load_file(self.directory / f"{part}_weights.safetensors")

    def inputs(self, part: str) -> Tensors:
        file = {"dit_forward": "dit_forward_fp32", "sampling": "sampling_fp32"}.get(part, f"{part}_io")
        tensors = load_file(self.directory / f"{file}.safetensors")
        return {name: tensor for name, tensor in tensors.items() if re.fullmatch(INPUTS[part], name)}


class Preset:
    """Configurations of a preset; weights and inputs are drawn from its seed."""

    def __init__(self, preset: dict) -> None:
        self.preset = preset
        self.generator = torch.Generator()

    def config(self, part: str) -> dict:
        given = self.preset[part]
        if part == "dit":
            fixed = {"video_in_channels": 192, "audio_in_channels": 64, "local_attn_layers": []}
            return fixed | {"activation_type": "swiglu7"} | given
        if part == "turbo_vae":
            return RELEASE_TURBO_VAE | given
        if part == "wan22_vae":
            return {"z_dim": 48, "dim_mult": [1, 2, 4, 4], "temporal_downsample": [False, True, True]} | given
        encoder = {"in_channels": 2, "latent_dim": 128, "use_snake": True} | given
        decoder = {"out_channels": 2, "latent_dim": 64, "use_snake": True, "final_tanh": False} | given
        model = {
            "encoder": {"type": "oobleck", "config": encoder},
            "decoder": {"type": "oobleck", "config": decoder},
            "bottleneck": {"type": "vae"},
            "latent_dim": 64,
            "downsampling_ratio": 2048,
            "io_channels": 2,
        }
        return {"model_type": "autoencoder", "sample_rate": 44100, "model": model}

    def weights(self, part: str, module: nn.Module) -> Tensors:
        self._seed(f"weights of {part}")
        return {name: self._weight(part, name, like) for name, like in sorted(module.state_dict().items())}

    def _weight(self, part: str, name: str, like: Tensor) -> Tensor:
        if name.endswith(".bands"):
            return like
        noise = self._randn(*like.shape)
        if name.endswith(".weight") and like.ndim == 1:  # a norm's, which is an offset from one
            return 0.2 * noise
        for ending, centre, spread in (
            (".gamma", 1, 0.1),
            (".weight_g", 0.75, 0.06),
            (".alpha", 0, 0.1),
            (".beta", 0, 0.1),
            (".bias", 0, 0.05),
        ):
            if name.endswith(ending):
                return centre + spread * noise
        gain = {"dit": 1.5, "oobleck": 1.0}.get(part, 2**0.5)
        weight = gain * noise / like[0].numel() ** 0.5
        return weight.bfloat16() if part == "dit" and not name.startswith("adapter.") else weight

    def inputs(self, part: str) -> Tensors:
        self._seed(f"inputs of {part}")
        preset, draw = self.preset, self._randn
        if part == "dit_forward":
            clips = enumerate(preset["clips"])
            return {f"{i}.{name}": tensor for i, clip in clips for name, tensor in self._clip(*clip).items()}
        if part == "sampling":
            clip = self._clip(*preset["sampling"]["clip"])
            width = clip["text"].shape[2]
            clip["text_null"] = draw(1, preset["sampling"]["text_null"], width)
            clip["image"] = draw(*clip["video"][:, :, :1].shape)
            for run in [run for run, how in RUNS.items() if how["forwards"] == 1 and "sr" not in how]:
                for number in range(2 * RUNS[run]["steps"]):
                    clip[f"{run}.noise.{number:02}"] = draw(*clip[("video", "audio")[number % 2]].shape)
            return clip
        if part == "turbo_vae":
            return {f"T{size[0]}.latent": draw(1, LATENT_CHANNELS, *size) for size in preset["turbo_vae_latents"]}
        if part == "wan22_vae":
            return {f"T{size[0]}.pixels": draw(1, 3, *size).clamp(-1, 1) for size in preset["wan22_vae_pixels"]}
        sizes = preset["oobleck_sizes"]
        return {"latent": draw(1, 64, sizes["latents"]), "enc_input": 0.1 * draw(1, 2, sizes["samples"])}

    def _clip(self, frames: int, height: int, width: int, num_audio: int, num_text: int) -> Tensors:
        return {
            "video": self._randn(1, LATENT_CHANNELS, frames, height, width),
            "audio": self._randn(1, num_audio, 64),
            "text": self._randn(1, num_text, self.preset["dit"]["text_in_channels"]),
        }

    def _seed(self, purpose: str) -> None:
        """Start anew, so that a change of one file's sizes leaves the others as they are."""
        self.generator.manual_seed(zlib.crc32(f"{self.preset['seed']}: {purpose}".encode()))

    def _randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


Source = Preset | ExistingSet
