"""Which clips and which random numbers a step has follows from its number alone."""

import numpy as np
import pytest
import torch

from actors.row import pack
from actors.small_world.shards import shard_name, write_shard
from actors.training.clip_store import ClipStore
from actors.training.steps import batch_indices, step_generator


def test_every_pass_takes_every_clip_once_in_an_order_of_its_own():
    chosen = [index for step in range(10) for index in batch_indices(15, 6, step, seed=3)]
    passes = np.array(chosen).reshape(4, 15)
    assert all(sorted(numbers) == list(range(15)) for numbers in passes.tolist())
    assert len({tuple(numbers) for numbers in passes.tolist()}) == 4


def test_a_batch_may_be_larger_than_what_there_is():
    assert sorted(batch_indices(2, 6, 0, seed=0)) == [0, 0, 0, 1, 1, 1]


def test_another_seed_gives_another_order():
    assert batch_indices(100, 16, 0, seed=1) != batch_indices(100, 16, 0, seed=2)


def test_steps_and_workers_have_random_numbers_of_their_own():
    seeds = [(seed, step, worker) for seed in (0, 1) for step in range(3) for worker in range(2)]
    draws = {tuple(torch.rand(4, generator=step_generator(*seed)).tolist()) for seed in seeds}
    assert len(draws) == len(seeds)
    assert torch.equal(*(torch.rand(4, generator=step_generator(1, 2, 3)) for _ in range(2)))


@pytest.fixture
def shards(tmp_path):
    """Three shards of two clips; a clip's `number` tells which it is."""
    for shard in range(3):
        rows = [
            {"id": f"{n}", "prompt": "", "tensors": pack({"number": torch.tensor([n]), "rest": torch.zeros(9)})}
            for n in (2 * shard, 2 * shard + 1)
        ]
        write_shard(f"{tmp_path}/{shard_name(shard)}", rows)
    return str(tmp_path)


def held(store: ClipStore) -> list[int]:
    samples = store.samples(range(len(store)))
    assert all(set(sample) == {"number"} for sample in samples)
    return [int(sample["number"]) for sample in samples]


def test_workers_share_the_clips_out(shards):
    assert held(ClipStore(shards, ["number"])) == [0, 1, 2, 3, 4, 5]
    assert held(ClipStore(shards, ["number"], worker=0, num_workers=2)) == [0, 1, 4, 5]
    assert held(ClipStore(shards, ["number"], worker=1, num_workers=2)) == [2, 3]
    assert held(ClipStore(shards, ["number"], max_clips=3)) == [0, 1, 2]


def test_the_first_clips_are_shared_out_among_any_number_of_workers(shards):
    """Later shards need not hold what a stage learns from, however many workers there are."""
    stores = [ClipStore(shards, ["number"], worker, num_workers=3, max_clips=4) for worker in range(3)]
    assert [held(store) for store in stores] == [[0, 3], [1], [2]]
    with pytest.raises(ValueError, match="must hold a clip for each of 3 workers, it has fewer"):
        ClipStore(shards, ["number"], worker=2, num_workers=3, max_clips=2)


def test_what_does_not_fit_is_one_line(shards):
    with pytest.raises(ValueError, match=r"num_workers must be at most 3, the shards in .*, got 4"):
        ClipStore(shards, ["number"], num_workers=4)
    with pytest.raises(ValueError, match=r"part-00000.parquet must hold audio, number, it lacks audio"):
        ClipStore(shards, ["audio", "number"])
