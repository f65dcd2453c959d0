"""Features of the prompts of a run, kept while there is room."""

from __future__ import annotations

from dataclasses import replace

from model.text_encoder import TextEncoder, TextFeatures

MAX_BYTES = 256 * 2**20
"""Room for at least 58 prompts: 640 tokens of the release's 3,584 numbers are 4.6 MB."""


class TextCache:
    """Encodes a prompt unless its features are still known; forgets the least recently used one first.

    Features are kept on the CPU. For one caller at a time: `Conditioning` holds its lock, as for every encoder.

    Args:
        encoder: what encodes.
        max_bytes: features kept, at most. One prompt's features that are larger are not kept.
    """

    def __init__(self, encoder: TextEncoder, max_bytes: int = MAX_BYTES):
        self.encoder = encoder
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._features: dict[str, TextFeatures] = {}  # oldest use first

    def encode(self, prompt: str) -> TextFeatures:
        """Features of a prompt, on the CPU: a copy, which is the caller's."""
        features = self._features.pop(prompt, None)
        if features is None:
            (encoded,) = self.encoder.encode([prompt])
            features = TextFeatures(encoded.features_1LC.cpu(), encoded.num_tokens)
            self.num_bytes += features.features_1LC.nbytes
        self._features[prompt] = features
        while self.num_bytes > self.max_bytes:
            oldest = self._features.pop(next(iter(self._features)))
            self.num_bytes -= oldest.features_1LC.nbytes
        return replace(features, features_1LC=features.features_1LC.clone())
