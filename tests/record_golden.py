"""Records what the original computes: a golden set of tiny random models with their inputs and outputs.

    python -m tests.record_golden --original DIR --preset other --output tests/golden_other
    python -m tests.record_golden --original DIR --like tests/golden --output /tmp/again

DIR is a checkout of https://github.com/GAIR-NLP/daVinci-MagiHuman, commit 209209b. The first form draws weights and
inputs of a preset from its seed; the second takes configurations, weights and inputs from a set there is, computes the
outputs anew and prints how far they are from that set's. Everything runs on the CPU, in one thread; the same command
gives the same files. `*_fp32` widens every bf16 cast of the original to float32, `*_bf16` runs it as released.
"""

import argparse
import json
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from model.parity.report import relative_error
from tests.recording import autoencoders, transformer
from tests.recording.original import OnCpu, import_original
from tests.recording.sources import RELEASE_TURBO_VAE, ExistingSet, Preset

# Sizes are written as in the file names and keys: clips as (T, H, W of the latent, audio latents, text tokens),
# latents of the Turbo VAE and pixels of the Wan VAE as (frames, height, width).
PRESETS = {
    "published": {
        "seed": 0,
        "dit": {
            "num_layers": 6,
            "hidden_size": 64,
            "head_dim": 16,
            "num_query_groups": 2,
            "text_in_channels": 48,
            "mm_layers": [0, 1, 4, 5],
            "gelu7_layers": [0, 1],
            "local_attn_layers_sr": [0, 1, 3, 5],
            "frame_receptive_field_sr": 2,
        },
        "clips": [(4, 8, 12, 13, 9), (1, 4, 4, 1, 3), (9, 6, 4, 33, 17)],
        "sampling": {"clip": (9, 6, 4, 33, 17), "text_null": 7},
        "turbo_vae": {
            "decoder_block_out_channels": [8, 8, 12, 16],
            "decoder_layers_per_block": [1, 1, 2, 1, 2],
            "first_chunk_size": 3,
            "step_size": 2,
        },
        "turbo_vae_latents": [(1, 1, 2), (3, 1, 2), (4, 1, 2), (5, 1, 2), (9, 1, 2)],
        "wan22_vae": {"dim": 4, "dec_dim": 4, "num_res_blocks": 2},
        "wan22_vae_pixels": [(1, 32, 48), (5, 32, 48)],
        "oobleck": {"channels": 4, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8]},
        "oobleck_sizes": {"latents": 8, "samples": 8192},
    },
    # Other in every number that is free: text wider than a video token, one key/value head, expert, GELU and local
    # layers that do not coincide, more latent frames than get the lower guidance at the start of super-resolution.
    "other": {
        "seed": 1,
        "dit": {
            "num_layers": 7,
            "hidden_size": 72,
            "head_dim": 24,
            "num_query_groups": 1,
            "text_in_channels": 200,
            "mm_layers": [0, 5],
            "gelu7_layers": [2, 5],
            "local_attn_layers_sr": [0, 2, 3, 5],
            "frame_receptive_field_sr": 1,
        },
        "clips": [(2, 4, 6, 5, 2), (1, 2, 2, 1, 2), (16, 2, 2, 17, 7), (5, 6, 2, 13, 16)],
        "sampling": {"clip": (15, 2, 4, 17, 5), "text_null": 12},
        "turbo_vae": {
            "resnet_norm_eps": 1e-4,
            "decoder_spatio_only": [False, False, False, True],
            "decoder_block_out_channels": [4, 6, 6, 8],
            "decoder_layers_per_block": [1, 2, 1, 1, 1],
            "first_chunk_size": 7,
            "step_size": 4,
        },
        "turbo_vae_latents": [(1, 2, 3), (2, 1, 2), (6, 1, 1), (8, 1, 1), (15, 1, 1)],
        "wan22_vae": {"dim": 3, "dec_dim": 2, "num_res_blocks": 1},
        "wan22_vae_pixels": [(1, 16, 48), (5, 32, 16), (9, 16, 16)],
        "oobleck": {"channels": 3, "c_mults": [1, 2, 3, 5], "strides": [4, 8, 8, 8]},
        "oobleck_sizes": {"latents": 3, "samples": 5000},
    },
    # As "other", with what is common there made different again: as many key/value heads as query heads, text narrower
    # than an audio token, no neighbouring frame in local layers, chunks of the Turbo VAE longer than its first.
    "narrow": {
        "seed": 2,
        "dit": {
            "num_layers": 5,
            "hidden_size": 96,
            "head_dim": 32,
            "num_query_groups": 3,
            "text_in_channels": 40,
            "mm_layers": [3, 4],
            "gelu7_layers": [0],
            "local_attn_layers_sr": [1, 4],
            "frame_receptive_field_sr": 0,
        },
        "clips": [(3, 2, 6, 9, 4), (1, 6, 2, 3, 11), (7, 4, 2, 25, 3)],
        "sampling": {"clip": (14, 4, 2, 53, 9), "text_null": 4},
        "turbo_vae": {
            "decoder_spatio_only": [False, False, True, False],
            "decoder_block_out_channels": [4, 6, 8, 8],
            "decoder_layers_per_block": [2, 1, 1, 2, 1],
            "first_chunk_size": 2,
            "step_size": 5,
        },
        "turbo_vae_latents": [(1, 2, 1), (2, 1, 1), (7, 1, 2), (10, 1, 1)],
        "wan22_vae": {"dim": 2, "dec_dim": 4, "num_res_blocks": 2},
        "wan22_vae_pixels": [(1, 48, 16), (9, 16, 32)],
        "oobleck": {"channels": 6, "c_mults": [1, 1, 2], "strides": [8, 16, 16]},
        "oobleck_sizes": {"latents": 3, "samples": 4096},
    },
}


def release_shapes(original: SimpleNamespace) -> dict:
    """Names, shapes and types of the release's own sizes: the Transformer's are the defaults of its configuration."""

    def shapes(module: nn.Module) -> dict:
        described = module.state_dict().items()
        return {name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for name, tensor in described}

    with torch.device("meta"), OnCpu(widen=True):
        defaults = original.config.ModelConfig()
        dit = shapes(transformer.build_dit(original, defaults.model_dump(exclude={"params_dtype"}), "base"))
        turbo_vae = shapes(original.turbo.TurboVAED.from_config(RELEASE_TURBO_VAE))
    return {"dit": dit, "turbo_vae": turbo_vae, "turbo_vae_config": RELEASE_TURBO_VAE}


def write(files: dict, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name.endswith(("_config", "_shapes")):
            (directory / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        else:
            contiguous = {key: tensor.contiguous() for key, tensor in content.items()}
            save_file(contiguous, directory / f"{name}.safetensors")


def print_differences(files: dict, directory: Path) -> None:
    """Print per file how far its tensors are from a set's of the same inputs: the largest relative error."""
    for name, content in files.items():
        if not name.endswith(("_config", "_shapes", "_weights")):
            recorded = load_file(directory / f"{name}.safetensors")
            if recorded.keys() != content.keys():
                raise ValueError(f"{name} must hold {sorted(recorded)}, got {sorted(content)}")
            errors = {key: relative_error(content[key], recorded[key]) for key in recorded}
            worst = max(errors, key=errors.__getitem__)
            print(f"{name}: {len(errors)} tensors, largest relative error {errors[worst]:.1e} ({worst})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, help="checkout of the original")
    parser.add_argument("--output", required=True, type=Path, help="directory of the new set")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", choices=sorted(PRESETS))
    source.add_argument("--like", type=Path, help="directory of an existing set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore", FutureWarning)
    original = import_original(arguments.original)
    given = ExistingSet(arguments.like) if arguments.like else Preset(PRESETS[arguments.preset])
    files = transformer.record(original, given) | autoencoders.record(original, given)
    files["release_shapes"] = release_shapes(original)
    write(files, arguments.output)
    if arguments.like:
        print_differences(files, arguments.like)


if __name__ == "__main__":
    main()
