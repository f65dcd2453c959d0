"""A checkpoint of the release's full size that takes a few megabytes: tables of contents, and holes for the weights."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration, T5GemmaModuleConfig

from model.oobleck import CHECKPOINT_PREFIX, OobleckConfig, oobleck_tensor_shapes
from model.transformer import Transformer
from model.transformer_config import TransformerConfig
from model.variants import release_config
from model.wan_config import WanVaeConfig
from model.wan_vae import wan_tensor_shapes

DTYPE_NAMES = {torch.bfloat16: "BF16", torch.float32: "F32"}
HALF = {"channels": 128, "c_mults": [1, 2, 4, 8, 16], "strides": [2, 4, 4, 8, 8], "use_snake": True}
STABLE_AUDIO = {
    "model_type": "diffusion_cond",
    "sample_rate": 44100,
    "model": {
        "pretransform": {
            "type": "autoencoder",
            "config": {
                "encoder": {"type": "oobleck", "config": {"in_channels": 2, "latent_dim": 128, **HALF}},
                "decoder": {
                    "type": "oobleck",
                    "config": {"out_channels": 2, "latent_dim": 64, "final_tanh": False, **HALF},
                },
                "bottleneck": {"type": "vae"},
            },
        }
    },
}
T5GEMMA_9B = {
    "vocab_size": 256000,
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_hidden_layers": 42,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def write_sparse_safetensors(path: Path, tensors: Mapping[str, tuple[Sequence[int], torch.dtype]]) -> None:
    """A valid header over a hole of the right size."""
    header, position = {}, 0
    for name, (shape, dtype) in tensors.items():
        end = position + prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)


def write_sparse_shards(
    folder: Path, tensors: Mapping[str, tuple[Sequence[int], torch.dtype]], num_shards: int
) -> list[Path]:
    """Several of them, with an index."""
    names, weight_map, paths = list(tensors), {}, []
    for number in range(num_shards):
        chosen = names[len(names) * number // num_shards : len(names) * (number + 1) // num_shards]
        paths.append(folder / f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors")
        write_sparse_safetensors(paths[-1], {name: tensors[name] for name in chosen})
        weight_map |= dict.fromkeys(chosen, paths[-1].name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return paths


def transformer_tensors(
    config: TransformerConfig, block_dtype: torch.dtype = torch.bfloat16
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    return {n: (tuple(t.shape), block_dtype if t.dtype == torch.bfloat16 else t.dtype) for n, t in state.items()}


def write_full_size_checkpoint(folder: Path, release_shapes: Mapping[str, Mapping]) -> None:
    """The release's folders and the three other repositories; `distill` in fp32, as it is published.

    Args:
        folder: is made.
        release_shapes: `tests/golden/release_shapes.json`.
    """
    for variant, name in (("base", "base"), ("distill", "distill"), ("sr_540p", "540p_sr"), ("sr_1080p", "1080p_sr")):
        dtype = torch.float32 if variant == "distill" else torch.bfloat16
        write_sparse_shards(folder / name, transformer_tensors(release_config(variant), dtype), 7)
    _write_turbo_vae(folder / "turbo_vae", release_shapes)
    _write_text_encoder(folder / "t5gemma-9b-9b-ul2")
    audio = oobleck_tensor_shapes(OobleckConfig.from_json(STABLE_AUDIO))
    tensors = {CHECKPOINT_PREFIX + name: (shape, torch.float32) for name, shape in audio.items()}
    tensors["model.model.transformer.project_in.weight"] = ((1536, 64), torch.float32)
    write_sparse_safetensors(folder / "stable-audio-open-1.0" / "model.safetensors", tensors)
    (folder / "stable-audio-open-1.0" / "model_config.json").write_text(json.dumps(STABLE_AUDIO))
    _write_torch_file(folder / "Wan2.2-TI2V-5B" / "Wan2.2_VAE.pth", wan_tensor_shapes(WanVaeConfig()), None)


def _write_turbo_vae(folder: Path, release_shapes: Mapping[str, Mapping]) -> None:
    shapes = {f"module.{name}": shape for name, (shape, _) in release_shapes["turbo_vae"].items()}
    shapes["module.feature_head.weight"] = [768, 512]
    _write_torch_file(folder / "checkpoint-340000.ckpt", shapes, "ema_state_dict")
    config = folder / "TurboV3-Wan22-TinyShallow_7_7.json"
    config.write_text(json.dumps(release_shapes["turbo_vae_config"]))


def _write_torch_file(path: Path, shapes: Mapping[str, Sequence[int]], key: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.empty(tuple(shape)) for name, shape in shapes.items()}
    with torch.serialization.skip_data():
        torch.save(tensors if key is None else {"step": 340000, key: tensors}, path)


def _write_text_encoder(folder: Path) -> None:
    config = T5GemmaConfig(
        encoder=T5GemmaModuleConfig(**T5GEMMA_9B),
        decoder=T5GemmaModuleConfig(**T5GEMMA_9B, is_decoder=True, cross_attention_hidden_size=3584),
        vocab_size=256000,
    )
    with torch.device("meta"):
        state = T5GemmaForConditionalGeneration(config).state_dict()
    write_sparse_shards(folder, {name: (tuple(t.shape), torch.bfloat16) for name, t in state.items()}, 9)
    (folder / "config.json").write_text(config.to_json_string())
    (folder / "tokenizer.json").write_text("{}")
