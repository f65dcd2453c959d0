"""One tiny checkpoint in every public folder layout: the same numbers under other names, in other files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import zstandard
from safetensors.torch import load_file, save_file

from model.audio_vae import convert_oobleck_state_dict
from model.oobleck import OobleckConfig, empty_oobleck
from model.wan_config import WanVaeConfig
from model.wan_vae import convert_wan22_state_dict

TEXT = "t5gemma-9b-9b-ul2"
AUDIO = "stable-audio-open-1.0"
IMAGE = "Wan2.2-TI2V-5B"


def pack_shards(folder: Path) -> None:
    """Every safetensors below becomes `.zst`; the index, where there is one, keeps the names without it."""
    for path in sorted(folder.rglob("*.safetensors")):
        packed = zstandard.ZstdCompressor(level=1).compress(path.read_bytes())
        path.with_name(path.name + ".zst").write_bytes(packed)
        path.unlink()


def write_safetensors(folder: Path, tensors: dict[str, torch.Tensor], stem: str, num_shards: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if num_shards == 1:
        save_file(tensors, folder / f"{stem}.safetensors")
        return
    names = sorted(tensors)
    weight_map = {}
    for number in range(num_shards):
        file_name = f"{stem}-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        save_file({name: tensors[name] for name in names[number::num_shards]}, folder / file_name)
        weight_map |= dict.fromkeys(names[number::num_shards], file_name)
    write_json(folder / f"{stem}.safetensors.index.json", {"weight_map": weight_map})


def write_json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def write_wan_as_diffusers(source: Path, folder: Path) -> None:
    original = torch.load(source / IMAGE / "Wan2.2_VAE.pth", weights_only=True)
    config = WanVaeConfig.from_shapes({name: tuple(tensor.shape) for name, tensor in original.items()})
    write_safetensors(folder, convert_wan22_state_dict(original, config, "whole"), "diffusion_pytorch_model")
    written = {
        "_class_name": "AutoencoderKLWan",
        "base_dim": config.base_dim,
        "decoder_base_dim": config.decoder_base_dim,
        "z_dim": 48,
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "attn_scales": [],
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "latents_mean": list(config.latent_mean),
        "latents_std": list(config.latent_std),
    }
    write_json(folder / "config.json", written)


def write_audio_as_diffusers(source: Path, folder: Path) -> None:
    config = OobleckConfig.from_json(json.loads((source / AUDIO / "model_config.json").read_text()))
    converted = convert_oobleck_state_dict(load_file(source / AUDIO / "model.safetensors"), empty_oobleck(config))
    write_safetensors(folder, {name: t.contiguous() for name, t in converted.items()}, "diffusion_pytorch_model")
    written = {
        "_class_name": "AutoencoderOobleck",
        "encoder_hidden_size": config.encoder.channels,
        "downsampling_ratios": list(config.decoder.strides),
        "channel_multiples": list(config.decoder.multiples),
        "decoder_channels": config.decoder.channels,
        "decoder_input_channels": config.decoder.latent_channels,
        "audio_channels": 2,
        "sampling_rate": 44100,
    }
    write_json(folder / "config.json", written)


def write_transformer(source: Path, variant: str, folder: Path, config: dict[str, object] | None = None) -> None:
    write_safetensors(folder, read_tensors(source / variant), "diffusion_pytorch_model", num_shards=3)
    write_json(folder / "config.json", {"num_layers": 6, **(config or {})})


def release(source: Path, target: Path) -> None:
    """As `write_tiny_checkpoint` writes it: `base` in shards, the others in single files."""
    shutil.copytree(source, target)


def release_packed(source: Path, target: Path) -> None:
    """Every safetensors as `.zst`."""
    shutil.copytree(source, target)
    pack_shards(target)


def release_with_diffusers_autoencoders(source: Path, target: Path) -> None:
    """Wan 2.2's twin repository, Stable Audio's folder `vae`, a Turbo VAE with heads, and T5Gemma in shards."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(IMAGE, AUDIO, TEXT))
    write_wan_as_diffusers(source, target / "Wan2.2-TI2V-5B-Diffusers" / "vae")
    write_audio_as_diffusers(source, target / AUDIO / "vae")
    shutil.copytree(source / TEXT, target / TEXT, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = read_tensors(source / TEXT)
    halves = {half: {n: t for n, t in tensors.items() if (".encoder." in n) == half} for half in (True, False)}
    save_file(halves[True], target / TEXT / "model-00001-of-00002.safetensors")
    weight_map = dict.fromkeys(halves[True], "model-00001-of-00002.safetensors")
    # The decoder's shard is named and not there: nobody needs to download it.
    weight_map |= dict.fromkeys(halves[False], "model-00002-of-00002.safetensors")
    write_json(target / TEXT / "model.safetensors.index.json", {"weight_map": weight_map})
    path = target / "turbo_vae" / "checkpoint-340000.ckpt"
    ema = torch.load(path, weights_only=True)["ema_state_dict"]
    heads = {"module.feature_head.0.weight": torch.ones(3, 3), "module.decoder.feature_head.bias": torch.ones(3)}
    torch.save({"step": 340000, "ema_state_dict": {f"module.{n}": t for n, t in ema.items()} | heads}, path)


def one_folder(source: Path, target: Path) -> None:
    """With `model_index.json`; sound in Stable Audio's own names, the tokenizer beside the encoder's weights."""
    write_json(target / "model_index.json", {"_class_name": "MagiHumanPipeline", "cfg_number": 1, "fps": 25})
    write_transformer(source, "distill", target / "transformer", {"local_attn_layers": []})
    sr_layers = [0, 1, 2, 4, 5]
    write_transformer(source, "1080p_sr", target / "sr", {"local_attn_layers": sr_layers, "local_attention_radius": 2})
    write_wan_as_diffusers(source, target / "vae")
    write_safetensors(target / "audio_vae", load_file(source / AUDIO / "model.safetensors"), "model")
    shutil.copy(source / AUDIO / "model_config.json", target / "audio_vae")
    write_json(target / "audio_vae" / "config.json", {"sample_rate": 44100})
    shutil.copytree(source / TEXT, target / "text_encoder")


def one_folder_of_diffusers(source: Path, target: Path) -> None:
    """With `model_index.json`, `sr_transformer`, `tokenizer`, and everything else as diffusers writes it."""
    write_json(target / "model_index.json", {"_class_name": "MagiHumanSR1080pPipeline", "cfg_number": 1})
    write_transformer(source, "distill", target / "transformer")
    write_transformer(source, "1080p_sr", target / "sr_transformer", {"local_attention_radius": 2})
    write_wan_as_diffusers(source, target / "vae")
    write_audio_as_diffusers(source, target / "audio_vae")
    tokenizer_files = ("tokenizer.json", "tokenizer_config.json")
    shutil.copytree(source / TEXT, target / "text_encoder", ignore=shutil.ignore_patterns(*tokenizer_files))
    (target / "tokenizer").mkdir()
    for name in tokenizer_files:
        shutil.copy(source / TEXT / name, target / "tokenizer")


def several_folders_of_diffusers(source: Path, target: Path) -> None:
    """One folder per role, each with `transformer` or `sr_transformer`, beside the other repositories."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("base", "distill", "*_sr"))
    for role in ("base", "distill"):
        write_transformer(source, role, target / role / "transformer")
    write_transformer(source, "540p_sr", target / "sr_540p" / "sr_transformer")
    write_transformer(source, "1080p_sr", target / "sr_1080p" / "sr_transformer", {"local_attention_radius": 2})


LAYOUTS: dict[str, Callable[[Path, Path], None]] = {
    function.__name__: function
    for function in (
        release,
        release_packed,
        release_with_diffusers_autoencoders,
        one_folder,
        one_folder_of_diffusers,
        several_folders_of_diffusers,
    )
}
