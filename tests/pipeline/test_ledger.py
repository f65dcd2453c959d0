import os
import shutil

import pyarrow.parquet as pq
import pytest

from actors.fingerprint import LaneFingerprint, hash_facts
from actors.request import ClipRequest
from model.capabilities import Capabilities, read_capabilities
from model.checkpoint_files import LocalFiles
from model.checkpoint_writer import write_capabilities
from model.layout import find_layout
from pipeline.lane import Lanes, component_fingerprint
from pipeline.ledger import ClipCount, Ledger
from pipeline.run_spec import RunSpec
from pipeline.settings import DEFAULT_NEGATIVE_PROMPT, Settings, load_settings
from pipeline.valid_row import ValidRow
from tests.run_files import write_marker
from tests.tiny_checkpoint import write_tiny_checkpoint


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
    assert [record["id"] for record in ledger.records(ledger.committed_ids())] == ["good"]
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


@pytest.mark.parametrize(
    ("fields", "fingerprint"),
    [
        ({}, "77bdd238d5136995db78ffe6bf1d5ba0"),
        ({"resolution": "540p", "aspect": "1:1", "seconds": 2}, "87904ba68b95b0c4449253ff6843ef34"),
        ({"audio": "a.wav", "image": "b.png"}, "7bf10943e32fd7bd62a9afd05498bb25"),
    ],
)
def test_fingerprints_of_the_releases_clips_stay_as_they_were(fields, fingerprint):
    assert LaneFingerprint("lane", "vae").of_clip(request(**fields)) == fingerprint


SMALL = {("256p", "16:9"): (96, 64), ("256p", "1:1"): (64, 64), ("540p", "16:9"): (192, 128)}


def test_sizes_and_the_default_length_of_a_checkpoint_count_for_the_clips_they_decide():
    def of_clip(capabilities, **fields):
        return LaneFingerprint("lane", "vae", capabilities).of_clip(request(**fields))

    release, small = Capabilities(), Capabilities(pixel_sizes=SMALL)
    assert of_clip(small) != of_clip(release)
    larger = Capabilities(pixel_sizes=SMALL | {("540p", "16:9"): (224, 128)})
    assert of_clip(larger, resolution="540p") != of_clip(small, resolution="540p")
    assert of_clip(larger) == of_clip(small), "another size at 540p changes nothing at 256p"
    other_base = Capabilities(pixel_sizes=SMALL | {("256p", "16:9"): (128, 64)})
    assert of_clip(other_base, resolution="540p") != of_clip(small, resolution="540p")
    shorter = Capabilities(default_seconds=1.4)
    assert of_clip(shorter) == of_clip(release, seconds=1.4) != of_clip(release)
    assert of_clip(shorter, seconds=5) == of_clip(release)
    assert of_clip(Capabilities(max_seconds=9, conditions=())) == of_clip(release), "limits change no clip"


def test_language_counts_where_the_prompt_names_it():
    prompt = {"description": "x", "dialogue": [{"speaker": "s", "line": "l"}]}
    lane = LaneFingerprint("lane")
    assert lane.of_clip(request(prompt=prompt, language="en")) != lane.of_clip(request(prompt=prompt, language="de"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return folder


def lanes(folder, requests, overrides=()):
    files, settings = LocalFiles(folder), load_settings(None, overrides)
    layout = find_layout(files)
    lanes = Lanes(files, layout, settings, read_capabilities(files, layout))
    for request in requests:
        lanes.add(ValidRow.of(1, request))
    return lanes.works()


def lane_hash(folder, overrides=(), **fields):
    (work,) = lanes(folder, [request(**fields)], overrides)
    return work.fingerprint.lane


ENCODING = {
    "audio_bitrate_bps": 192000,
    "codec": "libx264",
    "crf": 18,
    "preset": "veryfast",
    "threads": 4,
}
GUIDED = {
    "num_steps": 32,
    "shift": 5.0,
    "video_guidance": 5.0,
    "late_video_guidance": 2.0,
    "late_timestep": 500,
    "audio_guidance": 5.0,
}
REFINING = {
    "num_steps": 5,
    "shift": 5.0,
    "noise_index": 220,
    "audio_noise": 0.7,
    "guidance": 3.5,
    "first_frames": 13,
    "first_frames_guidance": 2.0,
    "align_corners": True,
}


@pytest.mark.parametrize(
    ("overrides", "resolution", "base", "sr", "negative"),
    [
        ([], "256p", {"num_steps": 8, "shift": 5.0}, None, None),
        ([], "540p", {"num_steps": 8, "shift": 5.0}, REFINING | {"guidance": None}, None),
        (["mode=base"], "256p", GUIDED, None, DEFAULT_NEGATIVE_PROMPT),
        (["mode=base", "sampling.sr_guidance=3.5"], "540p", GUIDED, REFINING, DEFAULT_NEGATIVE_PROMPT),
    ],
)
def test_the_releases_lanes_are_hashed_from_these_facts(checkpoint, overrides, resolution, base, sr, negative):
    files = LocalFiles(checkpoint)
    mode = "base" if overrides else "distill"
    names = [mode, *(["sr_540p"] if sr else []), "text_encoder", "turbo_vae", "audio_vae"]
    facts = {
        "numerics": 3,
        "components": {name: component_fingerprint(files, find_layout(files), name) for name in names},
        "precision": "bf16",
        "compiler": "auto",
        "is_packed": False,
        "threads": 1,
        "base": base,
        "sr": sr,
        "negative_prompt": negative,
        "encoding": ENCODING,
    }
    assert lane_hash(checkpoint, overrides, resolution=resolution) == hash_facts(facts)


def test_a_lane_is_hashed_with_the_checkpoints_samplers_unless_settings_say_otherwise(checkpoint, tmp_path):
    plain = lane_hash(checkpoint)
    tuned = shutil.copytree(checkpoint, tmp_path / "tuned")
    write_capabilities(tuned, Capabilities())
    assert lane_hash(tuned) == plain, "a file that says what holds anyway changes nothing"
    (tuned / "config.json").write_text('{"sampling": {"distill": {"num_steps": 6}, "base": {"num_steps": 3}}}')
    assert lane_hash(tuned) == lane_hash(checkpoint, ["sampling.distill_steps=6"]) != plain
    assert lane_hash(tuned, ["sampling.distill_steps=8"]) == plain
    (tuned / "config.json").write_text('{"sampling": {"distill": {"shift": 5}}}')
    assert lane_hash(tuned) == plain, "5 is 5.0"


def test_a_lane_fingerprint_follows_weights_and_settings(checkpoint):
    plain = lane_hash(checkpoint)
    assert lane_hash(checkpoint) == plain
    assert lane_hash(checkpoint, ["pools.decoding.size=4", "cache_dir=/x", "sampling.sr_steps=9"]) == plain
    signed = ["provenance.certificate=c.pem", "provenance.private_key=k.pem"]
    assert lane_hash(checkpoint, signed) == plain, "a signature makes no other clip"
    for override in (
        "sampling.distill_steps=4",
        "precision=fp32",
        "encoding.crf=30",
        "encoding.threads=2",
        "mode=base",
    ):
        assert lane_hash(checkpoint, [override]) != plain, override
    nvenc = lane_hash(checkpoint, ["encoding.codec=h264_nvenc"])
    assert nvenc not in (plain, lane_hash(checkpoint, ["encoding.codec=h264_nvenc", "encoding.preset=p5"]))
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
    alone = lanes(checkpoint, [request()])[0]
    beside = lanes(checkpoint, [request(), request(id="b", image="a.png")])[0]
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


def test_clips_are_counted_by_resolution_and_language(tmp_path):
    for number, language in enumerate(["de", "de", "ja"]):
        write_marker(str(tmp_path), f"c{number}", language, written_at=f"2026-01-02T03:0{number}:00+00:00")
    ledger = Ledger(str(tmp_path))
    german, japanese = (ClipCount("256p", *counts) for counts in (("de", 2, 4.0), ("ja", 1, 2.0)))
    assert ledger.write_results(ledger.fingerprints(ledger.committed_ids())) == [german, japanese]
    assert ledger.write_results({"c2"}) == [japanese]
    assert ledger.clip_counts(since="2026-01-02T03:02:00+00:00") == [japanese]
    assert ledger.clip_counts(since="2026-01-02T03:03:00+00:00") == []


def test_tables_and_records_from_before_the_hash_of_media_are_kept(tmp_path):
    """Records made by `write_marker` have none."""
    output, path = str(tmp_path), tmp_path / "results.parquet"
    write_marker(output, "old")
    ledger = Ledger(output)
    ledger.write_results(ledger.fingerprints({"old"}))
    pq.write_table(pq.read_table(path).drop_columns(["media_sha256"]), path)
    (tmp_path / "clips/old.json").unlink()
    write_marker(output, "new")
    ledger = Ledger(output)
    (record,) = ledger.records({"new"})
    ledger.add({**record, "mp4": {**record["mp4"], "media_sha256": "ab"}})
    assert len(ledger.write_results({"old", "new"})) == 1
    hashes = {row["id"]: row["media_sha256"] for row in pq.read_table(path).to_pylist()}
    assert hashes == {"old": None, "new": "ab"}
    assert Ledger(output).fingerprints({"old", "new"}) == {"old": "f", "new": "f"}
