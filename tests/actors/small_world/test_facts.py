import pytest
import torch

from actors.checkpoint_source import CheckpointSource
from actors.row import unpack
from actors.small_world.clips import SmallWorldClip
from actors.small_world.facts import NUM_VALUES, facts_of
from actors.small_world.looks import PALETTES
from actors.small_world.shards import PromptShards, missing_shards, read_shard, shard_name
from actors.small_world.vocabulary import WORDS
from tests.tiny_checkpoint import write_tiny_checkpoint

pytestmark = pytest.mark.usefixtures("espeak")


def test_facts_are_what_a_prompt_tells():
    clip = SmallWorldClip.sample(1, 3).with_look()
    facts, hidden = facts_of(clip), facts_of(clip.without_look())
    assert WORDS[facts[0]] == clip.word
    assert [tuple(palette)[fact] for palette, fact in zip(PALETTES.values(), facts[2:], strict=False)] == [
        getattr(clip.look, part) for part in PALETTES
    ]
    # Nothing but word and person is told, and that is told.
    assert hidden[:2] == facts[:2]
    assert hidden[2:] == [number - 1 for number in NUM_VALUES[2:]]


def test_every_fact_takes_all_its_values():
    drawn = [facts_of(SmallWorldClip.sample(3, index)) for index in range(300)]
    for number, values in zip(NUM_VALUES, zip(*drawn, strict=True), strict=True):
        assert set(values) == set(range(number))


def test_prompts_are_written_as_tokens_and_facts(tmp_path):
    write_tiny_checkpoint(tmp_path / "checkpoint")
    source = CheckpointSource(str(tmp_path / "checkpoint"), str(tmp_path / "cache"))
    shards = PromptShards(str(tmp_path / "prompts"), seed=3, num_prompts=5, prompts_per_shard=3, source=source)
    assert missing_shards(shards.folder_url, shards.num_shards) == [0, 1]
    assert [shards.write(number) for number in (0, 1)] == [3, 2]
    row = list(read_shard(f"{shards.folder_url}/{shard_name(1)}"))[1]
    clip, tensors = SmallWorldClip.sample(3, 4), unpack(row["tensors"])
    text = source.fetch("text_encoder").text_encoder(torch.float32, torch.device("cpu"))
    assert row["id"] == clip.id
    assert row["prompt"] == clip.request().prompt_text()
    assert tensors["tokens"].tolist() == text.tokenize(row["prompt"])
    assert tensors["facts"].tolist() == facts_of(clip)
