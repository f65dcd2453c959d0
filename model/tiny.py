"""A complete tiny checkpoint in the release's folder layout: the true structures with seeded random weights.

It makes noise, not people; it is there so that everything around the networks runs, and is tested, on a laptop.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5GemmaConfig, T5GemmaForConditionalGeneration, T5GemmaModuleConfig
from transformers.utils import logging as transformers_logging

from model.tiny_autoencoders import tiny_oobleck, tiny_turbo_vae, tiny_wan_vae_state_dict
from model.transformer import Transformer
from model.variants import VARIANTS, tiny_config

_TRANSFORMER_FOLDERS = {"base": "base", "distill": "distill", "sr_540p": "540p_sr", "sr_1080p": "1080p_sr"}
_SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")
_LOCAL_ATTENTION_RADIUS = 2
"""Small, so that local windows matter in clips of a second."""


def write_tiny_checkpoint(folder: str | Path, seed: int = 0) -> None:
    """Write every component; the same seed gives the same tensors.

    Args:
        folder: made if absent; files of an earlier tiny checkpoint are replaced.
        seed: of the random weights.
    """
    root = Path(folder)
    for number, variant in enumerate(VARIANTS):
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        _write_transformer(_made(root / _TRANSFORMER_FOLDERS[variant]), variant, generator)
    _write_text_encoder(_made(root / "t5gemma-9b-9b-ul2"), seed)
    _write_autoencoders(root, torch.Generator().manual_seed(seed))


def _write_transformer(folder: Path, variant: str, generator: torch.Generator) -> None:
    model = Transformer(tiny_config(variant))
    tensors = {name: _random_like(name, t, generator) for name, t in model.state_dict().items()}
    if variant == "base":
        _save_sharded(folder, tensors, num_shards=2)
    else:
        save_file(tensors, folder / "model.safetensors")
    if variant == "sr_1080p":
        _write_json(folder / "config.json", {"local_attention_radius": _LOCAL_ATTENTION_RADIUS})


def _random_like(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if name.endswith("bands"):
        return tensor
    if "norm" in name:
        return 0.1 * torch.randn(tensor.shape, generator=generator)
    scale = 0.02 if name.endswith("bias") else tensor.shape[-1] ** -0.5
    return (scale * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)


def _save_sharded(folder: Path, tensors: dict[str, Tensor], num_shards: int) -> None:
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file_name = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        chosen = names[shard::num_shards]
        save_file({name: tensors[name] for name in chosen}, folder / file_name)
        weight_map |= dict.fromkeys(chosen, file_name)
    total_size = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(
        folder / "model.safetensors.index.json", {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    )


def _write_text_encoder(folder: Path, seed: int) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder)
    sizes = {
        "vocab_size": len(vocabulary),
        "hidden_size": tiny_config("base").text_channels,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 64,
    }
    config = T5GemmaConfig(
        encoder=T5GemmaModuleConfig(**sizes),
        decoder=T5GemmaModuleConfig(**sizes, is_decoder=True),
        vocab_size=len(vocabulary),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5GemmaForConditionalGeneration(config)
    transformers_logging.disable_progress_bar()
    model.to(torch.bfloat16).save_pretrained(folder)


def _write_autoencoders(root: Path, generator: torch.Generator) -> None:
    config, checkpoint = tiny_turbo_vae(generator)
    folder = _made(root / "turbo_vae")
    _write_json(folder / "TurboV3-Wan22-TinyShallow_7_7.json", config)
    torch.save(checkpoint, folder / "checkpoint-340000.ckpt")
    torch.save(tiny_wan_vae_state_dict(generator), _made(root / "Wan2.2-TI2V-5B") / "Wan2.2_VAE.pth")
    config, tensors = tiny_oobleck(generator)
    folder = _made(root / "stable-audio-open-1.0")
    _write_json(folder / "model_config.json", config)
    save_file(tensors, folder / "model.safetensors")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_json(path: Path, values: object) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
