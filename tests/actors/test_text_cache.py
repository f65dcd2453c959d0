import pytest
import torch

from actors.text_cache import TextCache
from model.checkpoint import Checkpoint
from tests.tiny_checkpoint import write_tiny_checkpoint

BYTES_PER_TOKEN = 48 * 2


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return Checkpoint(folder).text_encoder(torch.bfloat16, torch.device("cpu"))


@pytest.fixture
def forwards(encoder):
    calls = []
    with encoder.model.register_forward_hook(lambda *_: calls.append(1)):
        yield calls


def test_the_least_recently_used_prompt_is_forgotten_first(encoder, forwards):
    cache = TextCache(encoder, max_bytes=2 * 10 * BYTES_PER_TOKEN)
    for prompt in ("a" * 9, "b" * 9, "a" * 9, "c" * 9):  # ten tokens each: two have room, and b is oldest now
        cache.encode(prompt)
        assert cache.num_bytes <= cache.max_bytes
    assert len(forwards) == 3
    cache.encode("a" * 9)
    cache.encode("c" * 9)
    assert len(forwards) == 3
    cache.encode("b" * 9)
    assert len(forwards) == 4


def test_a_prompt_without_room_is_encoded_and_not_kept(encoder, forwards):
    cache = TextCache(encoder, max_bytes=10 * BYTES_PER_TOKEN)
    for _ in range(2):
        assert cache.encode("a" * 10).num_tokens == 11
    assert len(forwards) == 2
    assert cache.num_bytes == 0


def test_what_a_caller_does_to_features_reaches_nobody_else(encoder):
    cache = TextCache(encoder)
    kept = cache.encode("A woman speaks.").features_1LC.clone()
    cache.encode("A woman speaks.").features_1LC.zero_()
    assert torch.equal(cache.encode("A woman speaks.").features_1LC, kept)
    assert torch.equal(encoder.encode(["A woman speaks."])[0].features_1LC, kept)
