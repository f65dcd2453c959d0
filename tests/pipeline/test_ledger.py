import os
import shutil

import pytest

from actors.fingerprint import LaneFingerprint
from actors.request import ClipRequest
from model.checkpoint_files import LocalFiles
from model.tiny import write_tiny_checkpoint
from pipeline.lane import split_into_lanes
from pipeline.ledger import Ledger
from pipeline.run import RunSpec
from pipeline.settings import Settings, load_settings


def request(**fields):
    return ClipRequest.model_validate({"id": "a", "prompt": "x", "language": "en", **fields})


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '"text"', '{"id": "b", "version": 1}', '{"id": "a", "version": 0}', "\x00"]
)
def test_a_marker_that_is_no_record_counts_as_not_there(tmp_path, content, caplog):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.json").write_text(content)
    (tmp_path / "clips/good.json").write_text('{"id": "good", "version": 1}')
    ledger = Ledger(str(tmp_path))
    assert ledger.committed_ids() == {"a", "good"}
    assert list(ledger.read_records(ledger.committed_ids())) == ["good"]
    assert "clips/a.json is not a record of a clip" in caplog.text


def test_an_output_that_does_not_exist_yet_has_no_clips(tmp_path):
    assert Ledger(str(tmp_path / "absent")).committed_ids() == set()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"metadata": {"k": 1}}, True),
        ({}, {"seconds": 5}, True),
        ({"seconds": 5}, {"seconds": 5.001}, True),
        ({"language": "en"}, {"language": "de"}, True),
        ({}, {"seconds": 4}, False),
        ({}, {"prompt": "y"}, False),
        ({}, {"seed": 1}, False),
        ({}, {"aspect": "9:16"}, False),
        ({}, {"image": "a.png"}, False),
        ({"image": "a.png"}, {"image": "b.png"}, False),
        ({}, {"audio": "a.wav"}, False),
        ({"audio": "a.wav"}, {"audio": "a.wav", "seconds": 5}, False),
    ],
)
def test_a_fingerprint_covers_what_changes_the_clip_and_nothing_else(one, other, same):
    lane = LaneFingerprint("lane", "vae")
    assert (lane.of_clip(request(**one)) == lane.of_clip(request(**other))) == same


def test_language_counts_where_the_prompt_names_it():
    prompt = {"description": "x", "dialogue": [{"speaker": "s", "line": "l"}]}
    lane = LaneFingerprint("lane")
    assert lane.of_clip(request(prompt=prompt, language="en")) != lane.of_clip(request(prompt=prompt, language="de"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return folder


def lane_hash(folder, overrides=(), **fields):
    (work,) = split_into_lanes([request(**fields)], LocalFiles(folder), load_settings(None, overrides))
    return work.fingerprint.lane


def test_a_lane_fingerprint_follows_weights_and_settings(checkpoint):
    plain = lane_hash(checkpoint)
    assert lane_hash(checkpoint) == plain
    assert lane_hash(checkpoint, ["pools.decoding.size=4", "cache_dir=/x", "sampling.sr_steps=9"]) == plain
    for override in ("sampling.distill_steps=4", "precision=fp32", "encoding.crf=30", "mode=base"):
        assert lane_hash(checkpoint, [override]) != plain, override
    (checkpoint / "distill/README.md").write_text("words change nothing")
    assert lane_hash(checkpoint) == plain
    path = checkpoint / "distill/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert lane_hash(checkpoint) != plain


def test_a_lane_fingerprint_follows_the_middle_of_large_files(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    path = copy / "distill/model.safetensors"
    with path.open("r+b") as file:
        file.truncate(600 * 2**20)
    before = lane_hash(copy)
    os.utime(path, (0, 0))
    assert lane_hash(copy) == before, "when a file was written does not matter"
    with path.open("r+b") as file:
        file.seek(256 * 2**20)
        file.write(b"x")
    assert lane_hash(copy) != before


def test_a_clip_without_image_does_not_depend_on_whether_others_have_one(checkpoint):
    alone = split_into_lanes([request()], LocalFiles(checkpoint), Settings())[0]
    beside = split_into_lanes([request(), request(id="b", image="a.png")], LocalFiles(checkpoint), Settings())[0]
    assert alone.fingerprint.of_clip(request()) == beside.fingerprint.of_clip(request())
    assert beside.reads_images
    assert not alone.reads_images


def test_paths_mean_the_same_to_driver_and_actors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = RunSpec("m.jsonl", "out/", "~/checkpoint", Settings())
    assert spec.manifest_url == str(tmp_path / "m.jsonl")
    assert spec.output_url == str(tmp_path / "out")
    assert "~" not in spec.checkpoint_url
    assert RunSpec("s3://b/m.jsonl", "s3://b/out", "s3://b/c", Settings()).output_url == "s3://b/out"
    with pytest.raises(ValueError, match="mend a copy of it"):
        RunSpec("out/dead_letter.jsonl", "out", "c", Settings())
    with pytest.raises(ValueError, match="output must be a path or a URL, got ''"):
        RunSpec("m.jsonl", "", "c", Settings())
