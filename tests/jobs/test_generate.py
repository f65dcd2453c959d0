"""The whole job on a real cluster with a tiny checkpoint: manifest in, clips out."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.media import probe
from actors.storage import join, list_names, read_bytes, write_atomically
from jobs import status as status_job
from tests.checkpoint_layouts import LAYOUTS


def row(clip_id, **fields):
    return {"id": clip_id, "prompt": f"A person speaks about {clip_id}.", "language": "en", "seconds": 0.2, **fields}


def decoded(mp4: bytes):
    with av.open(io.BytesIO(mp4)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(io.BytesIO(mp4)) as container:
        samples = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.stack(frames), np.concatenate(samples, axis=1)


def write_tone(path: Path, seconds: float) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="mono")
        wave = 8000 * np.sin(2 * np.pi * 220 * np.arange(int(16_000 * seconds)) / 16_000)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def test_every_kind_of_clip_is_made_and_booked(generate, manifest, tmp_path):
    Image.effect_noise((300, 200), 80).convert("RGB").save(tmp_path / "face.png")
    write_tone(tmp_path / "voice.wav", 0.5)
    rows = [
        row("wide", language="zh", seed=7, metadata={"campaign": "demo"}),
        row("tall", aspect="9:16", language="yue", seconds=1),
        row("square", aspect="1:1", language="ja", image="face.png"),
        row("driven", language="ko", audio="voice.wav", seconds=None),
        row("larger", resolution="540p", language="de", image="face.png"),
    ]
    output = tmp_path / "out"
    status, printed, _ = generate(manifest(rows), output)
    assert status == 0
    expected = {
        "wide": (448, 256, 5),
        "tall": (256, 448, 25),
        "square": (320, 320, 5),
        "driven": (448, 256, 13),
        "larger": (896, 512, 5),
    }
    for clip_id, (width, height, num_frames) in expected.items():
        facts = probe((output / f"clips/{clip_id}.mp4").read_bytes())
        assert (facts.width, facts.height, facts.fps) == (width, height, 25)
        assert abs(facts.num_frames - num_frames) <= 1
        assert abs(facts.video_s - num_frames / 25) <= 0.04 + 1e-6
        assert abs(facts.audio_s - num_frames / 25) <= 0.04 + 1e-6
        assert (facts.video_codec, facts.audio_codec) == ("h264", "aac")
        frames, samples = decoded((output / f"clips/{clip_id}.mp4").read_bytes())
        assert frames.std() > 5, "the picture is not blank"
        assert np.abs(samples).max() > 1e-3, "the sound is not silent"
    record = json.loads((output / "clips/wide.json").read_text())
    assert record["request"]["metadata"] == {"campaign": "demo"}
    assert record["seed"] == 7
    assert record["mp4"]["sha256"] == hashlib.sha256((output / "clips/wide.mp4").read_bytes()).hexdigest()
    assert set(record["stage_seconds"]) == {"conditioning", "base_generation", "decoding"}
    results = pq.read_table(output / "results.parquet").to_pylist()
    assert {result["id"] for result in results} == set(expected)
    assert (output / "dead_letter.jsonl").read_text() == ""
    run = json.loads((output / "run.json").read_text())
    assert run["state"] == "complete"
    assert run["totals"]["num_done"] == 5
    assert list(run["pools"]) == ["distill/256p", "distill/540p"]
    page = (output / "index.html").read_text()
    for clip_id in expected:
        assert f"clips/{clip_id}.mp4" in page
        assert (output / f"clips/{clip_id}.jpg").exists()
    assert "index.html" in printed
    bytes_of = {clip_id: (output / f"clips/{clip_id}.mp4").read_bytes() for clip_id in expected}
    assert len(set(bytes_of.values())) == len(bytes_of)
    # The same command again has nothing to do.
    before = {path: path.stat().st_mtime_ns for path in (output / "clips").iterdir()}
    status, printed, _ = generate(manifest(rows), output)
    assert status == 0
    assert "0 made, 5 skipped, 0 dead-lettered" in printed
    assert {path: path.stat().st_mtime_ns for path in (output / "clips").iterdir()} == before


def test_from_a_bucket_to_a_bucket_with_the_checkpoint_in_a_bucket(generate, s3_bucket, tiny_checkpoint, tmp_path):
    for path in Path(tiny_checkpoint).rglob("*"):
        if path.is_file():
            write_atomically(join(s3_bucket, "model", str(path.relative_to(tiny_checkpoint))), path.read_bytes())
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 120, 90)).save(picture, "PNG")
    write_atomically(join(s3_bucket, "in/faces/a.png"), picture.getvalue())
    rows = [row("a", image="faces/a.png"), row("b", language="xx"), row("c")]
    lines = "".join(json.dumps(values) + "\n" for values in rows)
    write_atomically(join(s3_bucket, "in/manifest.jsonl"), lines.encode())
    output = join(s3_bucket, "out")
    cache = f"cache_dir={tmp_path / 'cache'}"
    arguments = (join(s3_bucket, "in/manifest.jsonl"), output, "--checkpoint", join(s3_bucket, "model"), "--set", cache)
    status, _, _ = generate(*arguments)
    assert status == 3
    assert set(list_names(join(output, "clips"))) == {
        f"{name}.{end}" for name in "ac" for end in ("mp4", "jpg", "json")
    }
    assert probe(read_bytes(join(output, "clips/a.mp4"))).width == 448
    (letter,) = read_bytes(join(output, "dead_letter.jsonl")).splitlines()
    assert json.loads(letter)["dead_letter"]["field"] == "language"
    assert b"clips/c.mp4" in read_bytes(join(output, "index.html"))
    status, printed, _ = generate(*arguments)
    assert status == 3
    assert "0 made, 2 skipped, 1 dead-lettered" in printed


def test_the_same_rows_give_the_same_clips_whatever_the_pools(generate, manifest, tmp_path):
    rows = [row(f"clip-{number}", seconds=0.4) for number in range(3)] + [row("sr", resolution="540p")]
    assert generate(manifest(rows), tmp_path / "one")[0] == 0
    pools = ["--set", "pools.base_generation.size=2", "--set", "pools.decoding.size=2"]
    assert generate(manifest(rows[::-1], "turned.jsonl"), tmp_path / "two", *pools)[0] == 0
    for values in rows:
        name = f"clips/{values['id']}.mp4"
        one, two = (decoded((tmp_path / folder / name).read_bytes()) for folder in ("one", "two"))
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_another_seed_or_mode_gives_another_clip(generate, manifest, tmp_path):
    rows = [row("a", prompt="same", seed=1), row("b", prompt="same", seed=2), row("c", prompt="same", seed=1)]
    assert generate(manifest(rows), tmp_path / "distill")[0] == 0
    steps = ["--set", "sampling.base_steps=3", "--set", "sampling.sr_guidance=3.5"]
    rows = [row("a", prompt="same", seed=1), row("larger", resolution="540p")]
    assert generate(manifest(rows, "base.jsonl"), tmp_path / "base", "--mode", "base", *steps)[0] == 0
    assert probe((tmp_path / "base/clips/larger.mp4").read_bytes()).width == 896
    paths = [tmp_path / "distill/clips" / f"{name}.mp4" for name in "abc"] + [tmp_path / "base/clips/a.mp4"]
    a, b, c, guided = (decoded(path.read_bytes())[0] for path in paths)
    assert np.array_equal(a, c), "same seed and prompt, another id"
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, guided)


def test_a_clip_made_from_something_else_is_kept_unless_overwritten(generate, manifest, tmp_path):
    output = tmp_path / "out"
    assert generate(manifest([row("a", seed=1)]), output)[0] == 0
    first = (output / "clips/a.mp4").read_bytes()
    assert generate(manifest([row("a", seed=1, metadata={"new": 1})]), output)[0] == 0, "metadata changes no pixel"
    assert generate(manifest([row("a", seed=2)]), output)[0] == 3
    assert (output / "clips/a.mp4").read_bytes() == first
    assert "--overwrite" in (output / "dead_letter.jsonl").read_text()
    assert generate(manifest([row("a", seed=2)]), output, "--overwrite")[0] == 0
    assert (output / "clips/a.mp4").read_bytes() != first


BAD_ROWS = [
    ('{"id": "broken", "prompt": ', "row", "is not a JSON object"),
    ('["no", "object"]', "row", "is not a JSON object"),
    ("plain words", "row", "is not a JSON object"),
    (row("no-prompt", prompt=None), "prompt", "is missing"),
    (row("empty-prompt", prompt=" "), "prompt", "must not be empty"),
    (row("odd-prompt", prompt=["x"]), "prompt", "must be text"),
    (row("half-prompt", prompt={"dialogue": []}), "prompt.description", "is missing"),
    (row("no-language", language=None), "language", "is missing"),
    (row("italian", language="it"), "language", "must be one of 'zh', 'yue', 'en', 'ja', 'ko', 'de' or 'fr'"),
    (row("../x"), "id", "must be 1 to 128 letters, digits, dots, underscores or hyphens"),
    (row(None), "id", "is missing"),
    (row("good-0"), "id", "is used already in line"),
    (row("too-long", seconds=60), "seconds", "must be at most 15"),
    (row("too-short", seconds=0.1), "seconds", "must be at least 0.2"),
    (row("sizes", resolution="4k"), "resolution", "must be one of '256p', '540p' or '1080p'"),
    (row("shapes", aspect="21:9"), "aspect", "must be one of '16:9', '9:16' or '1:1'"),
    (row("seeds", seed="lucky"), "seed", "must be a number"),
    (row("typo", secnods=3), "secnods", "is unknown"),
    (row("no-image", image="absent.png"), "image", "cannot be read"),
    (row("no-picture", image="manifest.jsonl"), "image", "cannot be read"),
]


def test_bad_rows_become_dead_letters_and_good_ones_clips(generate, manifest, tmp_path, capsys):
    rows = []
    for number in range(5):
        rows += [row(f"good-{number}"), *(bad for bad, _, _ in BAD_ROWS[4 * number : 4 * number + 4])]
    output = tmp_path / "out"
    status, printed, _ = generate(manifest(rows), output)
    assert status == 3
    assert {name for name in os.listdir(output / "clips") if name.endswith(".mp4")} == {
        f"good-{number}.mp4" for number in range(5)
    }
    letters = [json.loads(line) for line in (output / "dead_letter.jsonl").read_text().splitlines()]
    assert len(letters) == len(BAD_ROWS) == 20
    by_line = {letter["dead_letter"]["line"]: letter for letter in letters}
    for line, values in enumerate(rows, start=1):
        for bad, field, reason in BAD_ROWS:
            if bad is values:
                letter = by_line[line]
                assert letter["dead_letter"]["field"] == field
                assert letter["dead_letter"]["reason"].startswith(reason)
                kept = {key: value for key, value in letter.items() if key != "dead_letter"}
                if isinstance(values, dict) and values.get("image"):
                    values = {**values, "image": str(tmp_path / values["image"])}
                assert kept == ({"raw": values.strip()} if isinstance(values, str) else values), (
                    "the row itself is kept"
                )
    assert "5 made, 0 skipped, 20 dead-lettered" in printed
    assert status_job.main(["--output", str(output)]) == 3
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["manifest", "row", "2", "is", "not", "a", "JSON", "object:"] in [words[:8] for words in told]
    assert [words for words in told if words[-1:] == ["others"]], "twenty rows fail in more ways than are shown"
    mended = [letter | {"image": None} for letter in letters if letter.get("id") == "no-image"]
    status, printed, _ = generate(manifest(mended, "mended.jsonl"), output)
    assert status == 0, "a dead letter, mended, is a manifest"
    assert "1 made" in printed


def test_killed_half_way_and_started_again(generate, manifest, cluster, tiny_checkpoint, tmp_path, capsys):
    rows = [row(f"clip-{number}", seconds=1) for number in range(8)]
    path, output = manifest(rows), tmp_path / "out"
    command = [sys.executable, "-m", "jobs.generate", "--manifest", str(path), "--output", str(output)]
    command += ["--checkpoint", tiny_checkpoint, "--address", cluster.address]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    markers = output / "clips"
    deadline = time.monotonic() + 120
    while len(list(markers.glob("*.json"))) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert status_job.main(["--output", str(output)]) == 0
    assert f"{output}: running\n" in capsys.readouterr().out
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(5)  # the cluster needs a moment to end the dead driver's actors
    assert status_job.main(["--output", str(output)]) == 75
    printed = capsys.readouterr().out
    assert f"{output}: killed\n" in printed
    assert f"manifest {path}\n" in printed
    committed = {path.stem: path.stat().st_mtime_ns for path in markers.glob("*.json")}
    assert 2 <= len(committed) < 8
    assert not list(output.glob("*.parquet")), "it was really killed, not ended"
    assert status_job.main(["--output", str(output), "--write"]) == 75
    assert f"{len(committed)} of 8 done" in capsys.readouterr().out
    assert set(pq.read_table(output / "results.parquet")["id"].to_pylist()) == set(committed)
    status, printed, _ = generate(path, output)
    assert status == 0
    assert f"{8 - len(committed)} made, {len(committed)} skipped, 0 dead-lettered" in printed
    for clip_id, written in committed.items():
        assert (markers / f"{clip_id}.json").stat().st_mtime_ns == written, "a committed clip was made again"
    assert {path.stem for path in markers.glob("*.json")} == {values["id"] for values in rows}
    assert len(pq.read_table(output / "results.parquet")) == 8
    assert status_job.main(["--output", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "complete"
    assert told["progress"]["num_skipped"] == len(committed)
    num_made = 8 - len(committed)
    assert told["progress"]["lanes"] == {"distill/256p": {"num_clips": num_made, "num_done": num_made, "num_failed": 0}}


def test_submitted_as_a_ray_job(manifest, cluster, tiny_checkpoint, tmp_path):
    path, output = manifest([row("a")]), tmp_path / "out"
    repository = Path(__file__).parents[2]
    working_dir = tmp_path / "project"
    working_dir.mkdir()
    for package in ("actors", "jobs", "model", "pipeline"):
        (working_dir / package).symlink_to(repository / package)
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", cluster.dashboard_url]
    command += ["--working-dir", str(working_dir), "--", sys.executable, "-m", "jobs.generate"]
    command += ["--manifest", str(path), "--output", str(output), "--checkpoint", tiny_checkpoint]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "succeeded" in finished.stdout
    assert (output / "clips/a.mp4").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "mode=fast"], "error: setting mode='fast'"),
        (["--settings", "absent.yaml"], "error: settings absent.yaml"),
        (["--checkpoint", "/nowhere"], "error: checkpoint /nowhere: there is no such folder\n"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(generate, manifest, tmp_path, more, message):
    status, _, errors = generate(manifest([row("a")]), tmp_path / "out", *more)
    assert status == 2
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert not (tmp_path / "out/clips").exists()


def test_an_absent_manifest_is_wrong_usage(generate, tmp_path):
    status, _, errors = generate(tmp_path / "absent.jsonl", tmp_path / "out")
    assert status == 2
    assert "absent.jsonl" in errors


def test_a_checkpoint_of_another_layout_makes_clips_too(generate, manifest, tiny_checkpoint, tmp_path):
    LAYOUTS["one_folder"](Path(tiny_checkpoint), tmp_path / "model")
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "face.png")
    rows = [row("a", image="face.png"), row("b", resolution="1080p", aspect="1:1")]
    status, _, _ = generate(manifest(rows), tmp_path / "out", "--checkpoint", str(tmp_path / "model"))
    assert status == 0
    for clip_id, size in (("a", (448, 256)), ("b", (1440, 1440))):
        frames, _ = decoded((tmp_path / f"out/clips/{clip_id}.mp4").read_bytes())
        assert frames.shape == (5, size[1], size[0], 3)
        assert 20 < frames.std() < 100


def test_a_fault_of_the_checkpoint_is_told_before_anything_starts(generate, manifest, tiny_checkpoint, tmp_path):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    path = model / "540p_sr/model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    for rows, expected in (([row("a")], 0), ([row("a"), row("b", resolution="540p")], 2)):
        status, _, errors = generate(manifest(rows), tmp_path / f"out-{expected}", "--checkpoint", str(model))
        assert status == expected
    assert errors.startswith(f"error: checkpoint {model}: sr_540p: 540p_sr/model.safetensors is cut short or damaged: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out-2").exists()
