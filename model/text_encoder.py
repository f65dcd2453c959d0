"""T5Gemma's encoder: prompt to text features.

Legend: L tokens, C feature width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

MAX_TEXT_TOKENS = 640
"""Features beyond this many tokens are cut off (source: the release)."""


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
    """The encoder half of a T5Gemma folder, with its tokenizer.

    Args:
        folder: a Hugging Face model folder; the decoder's weights in it are not kept.
        dtype: dtype of the weights (the release: bfloat16).
        device: where it runs.

    Raises:
        ValueError: if the folder lacks encoder weights.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device):
        # Imported here, since it takes seconds and every other actor starts without it.
        from transformers import AutoTokenizer, T5GemmaEncoderModel
        from transformers.utils import logging as transformers_logging

        # The library reports every decoder weight it skips, and draws a bar; neither tells the user anything.
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model, report = T5GemmaEncoderModel.from_pretrained(
            folder, is_encoder_decoder=False, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        if report["missing_keys"]:
            raise ValueError(f"{folder}: encoder tensor {min(report['missing_keys'])} is missing")
        self.model = self.model.eval().to(device)
        self.device = device

    @torch.inference_mode()
    def encode(self, prompt: str) -> TextFeatures:
        """Encode one prompt; the whole prompt is attended to, then the features are cut to 640 tokens."""
        inputs = self.tokenizer([prompt], return_tensors="pt").to(self.device)
        states_1LC = self.model(**inputs).last_hidden_state
        return TextFeatures(states_1LC[:, :MAX_TEXT_TOKENS].half(), states_1LC.shape[1])
