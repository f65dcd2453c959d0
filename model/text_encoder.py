"""T5Gemma's encoder: prompts to text features.

Legend: L tokens of one prompt, N tokens of all prompts of a forward, H heads, D head dimension, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    # transformers takes seconds to import: every actor but one starts without it.
    from transformers import PreTrainedTokenizerBase, T5GemmaConfig, T5GemmaEncoderModel

MAX_TEXT_TOKENS = 640
"""Features beyond this many tokens are cut off (source: the release)."""

_MIN_SHARED_TOKENS = 4
"""Shorter prompts get a forward of their own: matrix products of up to three rows take kernels that round otherwise."""

_ATTENTION = "within_prompts"
_ENCODER_PREFIXES = ("model.encoder.", "encoder.")

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
"""One of them is needed."""


def is_encoder_tensor(name: str) -> bool:
    """Whether a tensor of a T5Gemma file belongs to the encoder; no other one need be read."""
    return name.startswith(_ENCODER_PREFIXES)


def expected_encoder_tensors(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name, `encoder.*`, to shape of every tensor of the encoder; allocates no weights.

    In the file of a whole T5Gemma each name has `model.` before it, in that of an encoder saved alone it has not.

    Args:
        config: a parsed `config.json`, of either.

    Raises:
        ValueError: it is not a T5Gemma's, or holds a value that transformers refuses.
    """
    parsed = _parse_config(config)
    try:
        model = _build_empty(parsed)
    except Exception as error:  # as in _load_tokenizer
        raise ValueError(f"the text encoder's config is not a T5Gemma's: {_in_one_line(error)}") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def load_text_encoder(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tokenizer_folder: Path,
    dtype: torch.dtype,
    device: torch.device,
) -> TextEncoder:
    """Build the encoder around tensors that were read elsewhere; nothing of the decoder is ever allocated.

    Args:
        config: a parsed `config.json`.
        tensors: exactly those of `expected_encoder_tensors`, with or without `model.` before the name. One that has the
            dtype and lies on the device already is taken as it is, not copied.
        tokenizer_folder: holds `tokenizer.json` or `tokenizer.model` and, as a rule, `tokenizer_config.json`.
        dtype: dtype of all weights (the release: bfloat16).
        device: where it runs.

    Raises:
        ValueError: as `expected_encoder_tensors`; or the tokenizer is missing or damaged.
        RuntimeError: a tensor is missing, unknown or of another shape.
    """
    return build_text_encoder(config, tensors, _load_tokenizer(tokenizer_folder), dtype, device)


def build_text_encoder(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    device: torch.device,
) -> TextEncoder:
    """The same around a tokenizer that is there already; see `load_text_encoder`."""
    parsed = _parse_config(config)
    model = _build_empty(parsed)
    model.load_state_dict(
        {name.removeprefix("model."): tensor.to(device, dtype) for name, tensor in tensors.items()}, assign=True
    )
    # Its frequencies are in no file. Made on the CPU, as transformers does: a GPU's powers differ in the last bits.
    model.encoder.rotary_emb = type(model.encoder.rotary_emb)(parsed.encoder).to(device)
    return TextEncoder(model.eval().requires_grad_(False), tokenizer)


@dataclass(frozen=True)
class TextFeatures:
    """An encoded prompt.

    Attributes:
        features_1LC: last hidden state (1, L, C) float16, L at most 640, without padding.
        num_tokens: length of the whole prompt, which may exceed L.
    """

    features_1LC: Tensor
    num_tokens: int


class TextEncoder:
    """The encoder of a T5Gemma with its tokenizer; `load_text_encoder` makes it.

    Args:
        model: T5Gemma's encoder, with attention inside prompts.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: T5GemmaEncoderModel, tokenizer: PreTrainedTokenizerBase):
        self.model = model
        self.tokenizer = tokenizer
        self._window = model.config.encoder.sliding_window
        self._vocabulary_size = model.config.encoder.vocab_size

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> list[TextFeatures]:
        """Encode prompts in one forward, whatever their lengths.

        They lie behind one another without padding, and each attends to itself alone, as if there were no other. On one
        CPU thread features equal those of the prompt alone bit for bit, and those of transformers' own eager attention.
        Several threads share out a matrix product by its size, and a GPU may choose its kernel by it: there the company
        shows in the last bits (two threads, float32: up to 5e-6). The whole prompt is attended to, then the features
        are cut to 640 tokens.

        Raises:
            ValueError: the tokenizer gives a token that the encoder does not have.
        """
        token_ids = [self._tokenize(prompt) for prompt in prompts]
        shared = [index for index, ids in enumerate(token_ids) if len(ids) >= _MIN_SHARED_TOKENS]
        short = [[index] for index, ids in enumerate(token_ids) if len(ids) < _MIN_SHARED_TOKENS]
        encoded: dict[int, TextFeatures] = {}
        for group in filter(None, [shared, *short]):
            encoded |= zip(group, self._forward([token_ids[index] for index in group]), strict=True)
        return [encoded[index] for index in range(len(prompts))]

    def _tokenize(self, prompt: str) -> list[int]:
        token_ids = self.tokenizer(prompt).input_ids
        # On a GPU an unknown token would not fail one prompt, but everything after it.
        if max(token_ids) >= self._vocabulary_size:
            raise ValueError(f"tokenizer gives token {max(token_ids)}, the encoder has {self._vocabulary_size}")
        return token_ids

    def _forward(self, token_ids: list[list[int]]) -> list[TextFeatures]:
        lengths = [len(ids) for ids in token_ids]
        masks = [self._window_mask(length) for length in lengths]
        tokens_N = torch.cat([torch.tensor(ids) for ids in token_ids])
        positions_N = torch.cat([torch.arange(length) for length in lengths])
        states_1NC = self.model(
            input_ids=tokens_N.unsqueeze(0).to(self.model.device),
            position_ids=positions_N.unsqueeze(0).to(self.model.device),
            attention_mask={"full_attention": [None] * len(lengths), "sliding_attention": masks},
            prompt_lengths=lengths,
        ).last_hidden_state
        return [
            TextFeatures(states_1LC[:, :MAX_TEXT_TOKENS].half(), states_1LC.shape[1])
            for states_1LC in states_1NC.split(lengths, dim=1)
        ]

    def _window_mask(self, length: int) -> Tensor | None:
        """(L, L) to add to the scores of layers with a sliding window; None where the window holds the whole prompt."""
        if length - 1 <= self._window:
            return None
        position_L = torch.arange(length, device=self.model.device)
        hidden_LL = (position_L - position_L.unsqueeze(1)).abs() > self._window
        dtype = self.model.dtype
        return torch.zeros(hidden_LL.shape, dtype=dtype, device=self.model.device).masked_fill_(
            hidden_LL, torch.finfo(dtype).min
        )


def _attend_within_prompts(
    module: nn.Module,
    query_1HND: Tensor,
    key_1HND: Tensor,
    value_1HND: Tensor,
    attention_mask: Sequence[Tensor | None],
    prompt_lengths: list[int],
    **options: Any,
) -> tuple[Tensor, None]:
    """T5Gemma's own attention, prompt by prompt; in the form transformers calls. Returns (1, N, H, D)."""
    from transformers.models.t5gemma.modeling_t5gemma import eager_attention_forward

    prompts = zip(
        *(tensor.split(prompt_lengths, dim=2) for tensor in (query_1HND, key_1HND, value_1HND)),
        attention_mask,
        strict=True,
    )
    attended = [eager_attention_forward(module, *prompt, **options)[0] for prompt in prompts]
    return torch.cat(attended, dim=1), None


def _parse_config(config: Mapping[str, Any]) -> T5GemmaConfig:
    from transformers import AttentionInterface, T5GemmaConfig

    if config.get("model_type") != "t5gemma":
        raise ValueError(f"model_type of the text encoder must be t5gemma, got {config.get('model_type')!r}")
    if not isinstance(config.get("encoder"), Mapping):
        raise ValueError(f"encoder in the text encoder's config must be an object, got {config.get('encoder')!r}")
    AttentionInterface.register(_ATTENTION, _attend_within_prompts)
    try:
        return T5GemmaConfig.from_dict({**config, "is_encoder_decoder": False}, attn_implementation=_ATTENTION)
    except Exception as error:  # as in _load_tokenizer
        raise ValueError(f"the text encoder's config is not a T5Gemma's: {_in_one_line(error)}") from error


def _build_empty(config: T5GemmaConfig) -> T5GemmaEncoderModel:
    from transformers import T5GemmaEncoderModel

    with torch.device("meta"):
        return T5GemmaEncoderModel(config)


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    # Without a vocabulary transformers builds a tokenizer of five special tokens and says nothing.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{folder} holds no tokenizer: neither {' nor '.join(TOKENIZER_FILES)}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the library lets whatever it meets through, bare Exception included
        raise ValueError(f"{folder}: the tokenizer cannot be loaded: {_in_one_line(error)}") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
