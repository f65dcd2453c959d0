"""Training data of the small world as a job on a real cluster; latents and more than one worker are for `-m soak`."""

import json

import pytest
import ray
import torch
from ray.util import get_placement_group, placement_group, remove_placement_group

from actors.request import ClipRequest
from actors.small_world.shards import NEGATIVE_PROMPT_FILE, ClipShards, read_shard, shard_name
from actors.small_world.speech import speak
from jobs.connection import disconnect
from jobs.small_world import main
from model.checkpoint import Checkpoint
from model.checkpoint_writer import TEXT_ENCODER_FOLDER
from pipeline.manifest import read_manifest
from pipeline.settings import DEFAULT_NEGATIVE_PROMPT


@pytest.fixture(autouse=True)
def _espeak(espeak):
    """Every one of these tests needs it."""


@pytest.mark.soak
def test_clips_then_latents_and_what_is_there_is_left_alone(tmp_path, cluster, tiny_checkpoint, capsys):
    clips, latents = tmp_path / "clips", tmp_path / "latents"
    make_clips = ["clips", "--output", str(clips), "--num-clips", "5", "--per-shard", "2", "--num-workers", "2"]
    assert main([*make_clips, "--address", cluster.address]) == 0
    assert "5 clips made" in capsys.readouterr().out
    written = {path.name: path.stat().st_mtime_ns for path in clips.iterdir()}
    assert sorted(written) == ["made_from.json", shard_name(0), shard_name(1), shard_name(2)]
    (clips / shard_name(1)).unlink()
    assert main([*make_clips, "--address", cluster.address]) == 0
    assert "2 clips made" in capsys.readouterr().out
    again = {path.name: path.stat().st_mtime_ns for path in clips.iterdir()}
    assert {name for name in written if again[name] != written[name]} == {shard_name(1)}

    assert main([*make_clips, "--seed", "2", "--address", cluster.address]) == 2
    error = f"error: {clips} was made from seed=1, not 2: name another folder, or remove this one\n"
    assert capsys.readouterr().err == error
    assert {path.name: path.stat().st_mtime_ns for path in clips.iterdir()} == again

    arguments = ["latents", "--clips", str(clips), "--checkpoint", tiny_checkpoint, "--output", str(latents)]
    arguments += ["--num-workers", "1", "--address", cluster.address]
    hidden = (clips / shard_name(2)).rename(tmp_path / "hidden")
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"error: {clips} must hold 3 shards of clips, 1 are not made yet\n"
    hidden.rename(clips / shard_name(2))
    assert main(arguments) == 0
    assert (latents / NEGATIVE_PROMPT_FILE).is_file()
    ids = [row["id"] for number in range(3) for row in read_shard(str(latents / shard_name(number)))]
    assert ids == [f"clip-1-{index:06d}" for index in range(5)]


@pytest.fixture
def one_free_cpu(cluster):
    """All CPUs of the cluster but one are taken."""
    ray.init(address=cluster.address, namespace="taken")
    others = [{"CPU": ray.cluster_resources()["CPU"] - 1}]
    are_taken = placement_group(others, name="taken", lifetime="detached").wait(60)
    disconnect()
    assert are_taken
    yield
    ray.init(address=cluster.address, namespace="taken")
    remove_placement_group(get_placement_group("taken"))
    disconnect()


@pytest.mark.timeout(120)
def test_one_cpu_is_enough_and_what_is_there_is_left_alone(tmp_path, cluster, one_free_cpu, capsys):
    arguments = ["clips", "--output", str(tmp_path), "--num-clips", "2", "--per-shard", "1", "--num-workers", "1"]
    arguments += ["--address", cluster.address]
    assert main(arguments) == 0
    assert "2 clips made" in capsys.readouterr().out
    written = (tmp_path / shard_name(0)).stat().st_mtime_ns
    (tmp_path / shard_name(1)).unlink()
    assert main([*arguments, "--seed", "2"]) == 2
    error = f"error: {tmp_path} was made from seed=1, not 2: name another folder, or remove this one\n"
    assert capsys.readouterr().err == error
    assert main(arguments) == 0
    assert "1 clips made" in capsys.readouterr().out
    assert (tmp_path / shard_name(0)).stat().st_mtime_ns == written
    assert (tmp_path / shard_name(1)).is_file()


def test_a_text_encoder_has_tokens_for_the_phrases_of_clips_and_of_the_negative_prompt(tmp_path, capsys):
    clips = ClipShards(str(tmp_path / "clips"), seed=1, num_clips=60, clips_per_shard=60)
    clips.write(0)
    arguments = ["--clips", clips.folder_url, "--output", str(tmp_path), "--min-frequency", "5", "--width", "32"]
    assert main(["text-encoder", *arguments]) == 0
    assert "text encoder in" in capsys.readouterr().out
    encoder = Checkpoint(str(tmp_path)).text_encoder(torch.float32, torch.device("cpu"))
    start, negative = encoder.encode(["Speech starts at once. ", DEFAULT_NEGATIVE_PROMPT])
    assert start.features_1LC.shape == (1, 2, 32), "the beginning token and the phrase"
    assert negative.num_tokens <= 2 + sum(DEFAULT_NEGATIVE_PROMPT.count(mark) for mark in ",;")


@pytest.mark.slow
def test_a_text_encoder_is_finished_and_never_replaced(tmp_path, capsys):
    ClipShards(str(tmp_path / "clips"), seed=1, num_clips=30, clips_per_shard=30).write(0)
    arguments = ["text-encoder", "--clips", str(tmp_path / "clips"), "--output", str(tmp_path), "--width", "32"]
    assert main(arguments) == 0
    folder = tmp_path / TEXT_ENCODER_FOLDER
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "config.json").unlink()  # as if it had been killed
    assert main(arguments) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    assert main([*arguments, "--seed", "9"]) == 2
    assert "holds another text encoder: name another checkpoint, or remove it" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["clips"], "espeak-ng is not installed; on Debian: apt-get install espeak-ng"),
        (["latents", "--clips", "{folder}", "--checkpoint", "{checkpoint}"], "found no made_from.json"),
    ],
)
def test_what_would_fail_in_a_worker_is_one_line(
    tmp_path, cluster, tiny_checkpoint, capsys, monkeypatch, command, message
):
    speak.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    places = {"folder": tmp_path, "checkpoint": tiny_checkpoint}
    arguments = [argument.format(**places) for argument in command]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--address", cluster.address]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_manifest_asks_for_other_heads_and_has_their_pictures(tmp_path):
    assert main(["manifest", "--output", str(tmp_path), "--num-clips", "98", "--conditions", "image"]) == 0
    rows = list(read_manifest(str(tmp_path / "manifest.jsonl")))
    assert all(row.failure is None and isinstance(row.request, ClipRequest) for row in rows)
    asked = [row.request.metadata["small_world"] for row in rows]
    assert len({one["word"] for one in asked}) == 98
    assert all((tmp_path / "images" / f"{row.request.id}.png").is_file() for row in rows)


def test_a_manifest_of_prompts_tells_every_look(tmp_path):
    assert main(["manifest", "--output", str(tmp_path), "--num-clips", "20", "--resolution", "540p"]) == 0
    for line in (tmp_path / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["resolution"] == "540p"
        assert f"{row['metadata']['small_world']['look']['shirt']} shirt" in row["prompt"]["description"]


def test_wrong_usage_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["clips", "--output", str(tmp_path), "--num-clips", "0"])
    assert ended.value.code == 2
    assert "--num-clips: must be at least 1, got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["clips", "--output", str(tmp_path), "--seed", "-1"])
    assert "--seed: must be at least 0, got -1" in capsys.readouterr().err
