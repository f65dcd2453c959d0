"""A small T5Gemma with seeded random weights and its tokenizer, for checkpoints that are small themselves.

Its features tell tokens apart and carry a little of what stands around them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from torch import nn
from transformers import PreTrainedTokenizerFast, T5GemmaConfig, T5GemmaForConditionalGeneration, T5GemmaModuleConfig
from transformers.utils import logging as transformers_logging

from model.text_encoder import is_encoder_tensor

_MARKS = r',.:;!?。！？"\n'
_PHRASE = rf'[^{_MARKS}\s](?:[^{_MARKS}]*[^{_MARKS}\s])?(?:[,.:;]+\s+"?)?|\s*[{_MARKS}]+\s*'
"""Words up to the next mark, with it where more follows on the line; marks at the end of a line by themselves."""
_LAYER_SHARE = 0.1
_SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")


def phrase_tokenizer(
    prompts: Iterable[str], vocabulary_size: int, min_frequency: int = 1, certain_prompts: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the phrases of some prompts; other text is spelt in bytes.

    Tokens span words, up to the next punctuation, so that "red hair" is another one than "red shirt": what belongs to
    what needs no training.

    Args:
        prompts: what to learn from; none leaves a token per byte.
        vocabulary_size: at most so many tokens, the 256 bytes and 4 special ones included; the rarest are left out.
        min_frequency: a phrase is a token if it stands in the prompts at least so often.
        certain_prompts: phrases of these are tokens, however rare they are.

    Raises:
        ValueError: if `vocabulary_size` is less than 260.
    """
    spelling = [*_SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    if vocabulary_size < len(spelling):
        raise ValueError(f"vocabulary_size must be at least {len(spelling)}, got {vocabulary_size}")
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PHRASE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )

    def phrases_of(texts: Iterable[str]) -> Iterator[str]:
        return (phrase for text in texts for phrase, _ in splitter.pre_tokenize_str(text))

    counts = Counter(phrases_of(prompts))
    frequent = [phrase for phrase, count in counts.most_common() if count >= min_frequency]
    known = list(dict.fromkeys([*spelling, *phrases_of(certain_prompts), *frequent]))[:vocabulary_size]
    vocabulary = {token: number for number, token in enumerate(known)}
    # No merges: a phrase is in the vocabulary as a whole, or it is spelt.
    model = tokenizer_models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    begin = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", begin)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


def write_text_encoder(
    folder: Path, tokenizer: PreTrainedTokenizerFast, width: int, seed: int, is_encoder_only: bool = False
) -> None:
    """Write tokenizer, configuration and bfloat16 weights as transformers does.

    Args:
        folder: made if absent.
        tokenizer: decides the size of the vocabulary.
        width: C of the features, a multiple of 16.
        seed: of the weights.
        is_encoder_only: leave the decoder out, which no clip needs.

    Raises:
        ValueError: if `width` is no positive multiple of 16.
    """
    if width < 16 or width % 16:
        raise ValueError(f"width must be a positive multiple of 16, got {width}")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": width,
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
        vocab_size=len(tokenizer),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5GemmaForConditionalGeneration(config)
        _let_tokens_prevail(model.model.encoder)
    transformers_logging.disable_progress_bar()
    model.to(torch.bfloat16)
    if not is_encoder_only:
        model.save_pretrained(folder)
        return
    model.config.save_pretrained(folder)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if is_encoder_tensor(name)}
    save_file(tensors, folder / "model.safetensors")


@torch.no_grad()
def _let_tokens_prevail(encoder: nn.Module) -> None:
    """Give embeddings unit spread and layers a small share: as they are, untrained layers would drown the tokens."""
    for name, parameter in encoder.named_parameters():
        if name.startswith("embed_tokens"):
            parameter.normal_(std=parameter.shape[1] ** -0.5)  # the encoder multiplies by the root of the width
        elif ".post_" in name:
            parameter.fill_(_LAYER_SHARE - 1)  # an offset from one
