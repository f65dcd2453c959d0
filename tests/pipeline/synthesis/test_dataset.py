"""A dataset in a bucket: what is drawn is kept, what is made is indexed, shards hold what they are asked to."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import s3fs

from actors.storage import exists, join, list_names, read_bytes, remove, write_atomically
from pipeline.ledger import Ledger
from pipeline.run_lock import LockedError, RunLock
from pipeline.synthesis.card import collect, render
from pipeline.synthesis.dataset import Dataset, with_shards
from pipeline.synthesis.recipe import RecipeError, read_recipe
from pipeline.synthesis.sampling import sample
from pipeline.synthesis.shards import write_shards
from tests.finished_runs import commit

RECIPE = read_recipe(str(Path(__file__).parents[3] / "examples" / "recipe.yaml")).model_copy(update={"clips": 10})


def make(dataset, partition, clips):
    """Clips of a few grey frames, and the table of results that a run leaves."""
    folder = dataset.partition_url(partition)
    for number, clip in enumerate(clips):
        frames = np.full((4, 32, 32, 3), 10 * number, np.uint8)
        commit(folder, clip.request, frames, np.zeros(10_000, np.float32))
    ledger = Ledger(folder)
    ids = ledger.committed_ids()
    for record in ledger.records(ids):
        ledger.add(record)
    ledger.write_results(ids)


@pytest.fixture(scope="module")
def dataset(s3_endpoint):
    """In a bucket: a partition whose ten clips are made but one, and another that is drawn alone."""
    s3fs.S3FileSystem().mkdir("synthesis")
    dataset = Dataset("s3://synthesis/greetings")
    first = sample(RECIPE, "first", {})
    dataset.store("first", RECIPE, first)
    make(dataset, "first", [*first[:3], *first[4:]])
    dataset.store("second", RECIPE, sample(RECIPE, "second", {}, dataset.taken_contents("second")))
    return dataset


def test_what_is_drawn_is_kept_as_it_was(dataset):
    drawn = sample(RECIPE, "first", {})
    assert dataset.requests("first") == [clip.request for clip in drawn]
    assert dataset.num_drawn("first") == 10
    assert dataset.is_drawn("first")
    assert not dataset.is_drawn("third")
    assert dataset.taken_contents("second") == {clip.content for clip in drawn}
    assert not dataset.taken_contents("first") & dataset.taken_contents("second")


def test_a_partition_that_was_cut_off_before_its_manifest_keeps_its_contents_from_others(dataset):
    """Its sample is written first: nobody else draws from it, and it is drawn again as it was."""
    clips = sample(RECIPE, "cut", {}, dataset.taken_contents("cut"))
    dataset.store("cut", RECIPE, clips)
    remove(dataset.manifest_url("cut"))
    assert not dataset.is_drawn("cut")
    assert {clip.content for clip in clips} <= dataset.taken_contents("other")
    assert sample(RECIPE, "cut", {}, dataset.taken_contents("cut")) == clips
    remove(join(dataset.url, "samples", "cut.parquet"))


def test_the_index_has_what_is_made_in_the_order_it_was_drawn(dataset):
    table = dataset.made("first")
    drawn = sample(RECIPE, "first", {})
    assert table["id"].to_pylist() == [clip.request.id for clip in [*drawn[:3], *drawn[4:]]]
    assert table["transcript"].to_pylist() == [clip.line for clip in [*drawn[:3], *drawn[4:]]]
    for row in table.to_pylist():
        assert row["num_bytes"] == len(read_bytes(join(dataset.url, row["media"])))
        assert row["seconds"] == 0.16, "as it came out, not as it was asked for"


@pytest.mark.parametrize(("shard_bytes", "fewest"), [(1, 9), (10**9, 1)])
def test_shards_are_closed_at_their_size_and_are_the_same_each_time(dataset, shard_bytes, fewest):
    table = dataset.made("first")
    shards = write_shards(dataset.url, "first", table, shard_bytes)
    assert len(set(shards)) >= fewest
    before = {name: read_bytes(join(dataset.url, name)) for name in set(shards)}
    assert {f"shards/first/{name}" for name in list_names(join(dataset.url, "shards/first"))} == before.keys()
    assert write_shards(dataset.url, "first", table, shard_bytes) == shards
    assert {name: read_bytes(join(dataset.url, name)) for name in set(shards)} == before
    rows = with_shards(table, shards).to_pylist()
    for row in rows:
        assert f"/{row['split']}-" in row["shard"]
        with tarfile.open(fileobj=io.BytesIO(before[row["shard"]])) as tar:
            names = tar.getnames()
            assert f"{row['id']}.mp4" in names
            told = json.load(tar.extractfile(f"{row['id']}.json"))
            assert told["transcript"] == row["transcript"]
            assert "media" not in told


def test_a_finished_partition_has_an_index_and_the_card_counts_it(dataset):
    table = dataset.made("first")
    assert not dataset.is_finished("first")
    facts = collect(dataset, {"first": table})
    assert (facts.num_clips, facts.partitions[0].num_failed) == (9, 1)
    dataset.write_index("first", table, 500)
    assert dataset.is_finished("first")
    assert dataset.shard_mb("first") == 500
    assert dataset.num_made("first") == 9
    assert dataset.read_index("first").equals(table)
    assert dataset.made("first", {table["id"][0].as_py()}).num_rows == 8
    assert collect(dataset, {}).num_clips == 9
    card = render(facts, dataset.read_recipe("first"), {"settings": {"mode": "base"}, "checkpoint": "s3://b/model/"})
    assert "| first | 9 | 1 |" in card
    assert "with the checkpoint `model` in mode `base`" in card


def test_another_recipe_is_told_by_what_differs(dataset):
    dataset.require_same_recipe("first", RECIPE)
    dataset.require_same_recipe("first", RECIPE.model_copy(update={"about": "something else"}))
    with pytest.raises(RecipeError, match=r"clips is 11, was 10\. Name another partition"):
        dataset.require_same_recipe("first", RECIPE.model_copy(update={"clips": 11}))


def test_names_that_would_be_taken_for_others_are_refused(dataset):
    dataset.require_room_for("third", RECIPE)
    with pytest.raises(RecipeError, match="there is first already, and names must differ where upper and lower case"):
        dataset.require_room_for("First", RECIPE)
    with pytest.raises(RecipeError, match="recipe name='other' must be 'greetings' as in other partitions"):
        dataset.require_room_for("third", RECIPE.model_copy(update={"name": "other"}))


def test_what_is_damaged_is_named_and_left_out_of_the_card(dataset, caplog):
    dataset.write_index("first", dataset.made("first"), None)
    other = sample(RECIPE, "damaged", {}, dataset.taken_contents("damaged"))
    dataset.store("damaged", RECIPE, other)
    dataset.write_index("damaged", dataset.made("first"), None)
    url = join(dataset.partition_url("damaged"), "recipe.json")
    for damage in (b"{", b"null", b"[1]"):
        write_atomically(url, damage)
        with pytest.raises(RecipeError, match=r"partitions/damaged/recipe\.json is damaged: "):
            dataset.require_same_recipe("damaged", RECIPE)
    assert [line.name for line in collect(dataset, {}).partitions] == ["first"]
    assert "partition damaged is not in the data card" in caplog.text
    write_atomically(join(dataset.url, "samples", "damaged.parquet"), b"no table")
    with pytest.raises(RecipeError, match=r"samples/damaged\.parquet is damaged: "):
        dataset.taken_contents("other")
    for name in ("samples", "index"):
        remove(join(dataset.url, name, "damaged.parquet"))


def test_one_draws_at_a_time(dataset):
    with dataset.alone(), pytest.raises(LockedError), RunLock(dataset.url):
        pass
    with dataset.alone():
        assert exists(join(dataset.url, "run.lock"))
    assert "run.lock" not in list_names(dataset.url)
