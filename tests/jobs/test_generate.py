"""The whole job on a real cluster with a tiny checkpoint: manifest in, clips out.

What `-m soak` adds here has its essence elsewhere: a run that ended early goes on with other pools to the same clips
(`test_told_to_go_it_ends_in_order_and_the_same_command_continues`), another layout gives the same latents
(`tests/actors/test_layouts.py`), a submitted job makes clips (`tests/jobs/test_multi_node.py`).
"""

import hashlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import c2pa
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.media import hash_media, probe
from jobs import status as status_job
from tests.checkpoint_layouts import LAYOUTS
from tests.jobs.rows_of_every_kind import BAD_ROWS, GOOD_ROWS, mixed_rows, row, write_manifest

SIZES = {
    "wide": (448, 256, 5),
    "tall": (256, 448, 25),
    "square": (320, 320, 5),
    "driven": (448, 256, 13),
    "larger": (896, 512, 5),
    "one": (448, 256, 5),
    "other-seed": (448, 256, 5),
    "same-as-one": (448, 256, 5),
}


def decoded(mp4: bytes):
    with av.open(io.BytesIO(mp4)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(io.BytesIO(mp4)) as container:
        samples = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.stack(frames), np.concatenate(samples, axis=1)


def mp4_of(output: Path, clip_id: str) -> bytes:
    return (output / f"clips/{clip_id}.mp4").read_bytes()


def dead_letters(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "dead_letter.jsonl").read_text().splitlines()]


def test_every_kind_of_clip_is_made_and_booked(mixed_run):
    output = mixed_run.output
    assert mixed_run.status == 3
    assert f"{len(GOOD_ROWS)} made, 0 skipped, {len(BAD_ROWS)} dead-lettered" in mixed_run.printed
    for clip_id, (width, height, num_frames) in SIZES.items():
        facts = probe(mp4_of(output, clip_id))
        assert (facts.width, facts.height, facts.fps) == (width, height, 25)
        assert abs(facts.num_frames - num_frames) <= 1
        assert abs(facts.video_s - num_frames / 25) <= 0.04 + 1e-6
        assert abs(facts.audio_s - num_frames / 25) <= 0.04 + 1e-6
        assert (facts.video_codec, facts.audio_codec) == ("h264", "aac")
        frames, samples = decoded(mp4_of(output, clip_id))
        assert frames.std() > 5, "the picture is not blank"
        assert np.abs(samples).max() > 1e-3, "the sound is not silent"
    record = json.loads((output / "clips/wide.json").read_text())
    assert record["request"]["metadata"] == {"campaign": "demo"}
    assert record["seed"] == 7
    assert record["mp4"]["sha256"] == hashlib.sha256(mp4_of(output, "wide")).hexdigest()
    assert set(record["stage_seconds"]) == {"conditioning", "base_generation", "decoding"}
    results = pq.read_table(output / "results.parquet").to_pylist()
    assert {result["id"] for result in results} == set(SIZES)
    run = json.loads((output / "run.json").read_text())
    assert run["state"] == "complete"
    assert run["totals"]["num_done"] == len(GOOD_ROWS)
    assert list(run["pools"]) == ["distill/256p", "distill/540p"]
    page = (output / "index.html").read_text()
    for clip_id in SIZES:
        assert f"clips/{clip_id}.mp4" in page
        assert (output / f"clips/{clip_id}.jpg").exists()
    assert "index.html" in mixed_run.printed


def test_the_seed_makes_the_clip_and_not_the_id(mixed_run):
    hashes = {clip_id: hash_media(mp4_of(mixed_run.output, clip_id)) for clip_id in SIZES}
    assert hashes.pop("same-as-one") == hashes["one"]
    assert len(set(hashes.values())) == len(hashes)
    one, other = (decoded(mp4_of(mixed_run.output, name))[0] for name in ("one", "other-seed"))
    assert not np.array_equal(one, other)


def test_every_clip_is_signed_and_the_record_is_of_the_signed_file(mixed_run):
    for clip_id in SIZES:
        mp4 = mp4_of(mixed_run.output, clip_id)
        with c2pa.Reader("video/mp4", io.BytesIO(mp4), context=mixed_run.authority.trusting()) as reader:
            assert reader.get_validation_state() == "Trusted"
            assert reader.get_active_manifest()["title"] == clip_id
        record = json.loads((mixed_run.output / f"clips/{clip_id}.json").read_text())
        assert record["mp4"]["sha256"] == hashlib.sha256(mp4).hexdigest()
        assert record["mp4"]["media_sha256"] == hash_media(mp4)
        assert record["provenance"]["signed"] is True
        with av.open(io.BytesIO(mp4)) as container:
            assert container.metadata["model_fingerprint"] == record["provenance"]["model_fingerprint"]
            assert container.metadata["fingerprint"] == record["fingerprint"]
    key = (mixed_run.folder / "credentials/key.pem").read_text().splitlines()[1]
    told = [path.read_bytes() for path in mixed_run.output.rglob("*") if path.is_file()]
    assert not any(key.encode() in data for data in [*told, mixed_run.printed.encode()])


def test_bad_rows_become_dead_letters_and_good_ones_clips(mixed_run, capsys):
    assert {path.stem for path in mixed_run.output.glob("clips/*.mp4")} == {values["id"] for values in GOOD_ROWS}
    letters = dead_letters(mixed_run.output)
    assert len(letters) == len(BAD_ROWS) == 20
    by_line = {letter["dead_letter"]["line"]: letter for letter in letters}
    for line, values in enumerate(mixed_rows(), start=1):
        for bad, field, reason in BAD_ROWS:
            if bad is values:
                letter = by_line[line]
                assert letter["dead_letter"]["field"] == field
                assert letter["dead_letter"]["reason"].startswith(reason)
                kept = {key: value for key, value in letter.items() if key != "dead_letter"}
                if isinstance(values, dict) and values.get("image"):
                    values = {**values, "image": str(mixed_run.folder / values["image"])}
                assert kept == ({"raw": values.strip()} if isinstance(values, str) else values), (
                    "the row itself is kept"
                )
    assert status_job.main(["--output", str(mixed_run.output)]) == 3
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["manifest", "row", "2", "is", "not", "a", "JSON", "object:"] in [words[:8] for words in told]
    assert [words for words in told if words[-1:] == ["others"]], "twenty rows fail in more ways than are shown"


def test_what_is_done_is_skipped_and_what_has_changed_is_told_of(mixed_run, generate, tmp_path):
    output = shutil.copytree(mixed_run.output, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (output / "clips").iterdir()}
    changed = {"wide": {"metadata": {"changes": "no pixel"}}, "one": {"seed": 3}}
    rows = [values | changed.get(values["id"], {}) for values in GOOD_ROWS]
    path = write_manifest(mixed_run.folder / "again.jsonl", rows)
    status, printed, _ = generate(path, output)
    assert status == 3
    assert f"0 made, {len(rows) - 1} skipped, 1 dead-lettered" in printed
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (letter,) = dead_letters(output)
    assert letter["id"] == "one"
    assert "--overwrite" in letter["dead_letter"]["reason"]


@pytest.mark.soak
def test_in_the_other_mode_it_is_another_clip_if_asked_for_and_a_mended_dead_letter_is_a_row(
    mixed_run, generate, tmp_path
):
    output = shutil.copytree(mixed_run.output, tmp_path / "out")
    (lettered,) = [letter for letter in dead_letters(output) if letter.get("id") == "no-image"]
    larger = [values for values in GOOD_ROWS if values["id"] == "larger"]
    mended = lettered | {"image": None, "resolution": "540p"}
    path = write_manifest(mixed_run.folder / "larger.jsonl", [*larger, mended])
    guided = ["--mode", "base", "--set", "sampling.base_steps=3", "--set", "sampling.sr_guidance=3.5"]
    assert generate(path, output, "--overwrite", *guided)[0] == 0
    assert probe(mp4_of(output, "larger")).width == probe(mp4_of(output, "no-image")).width == 896
    guided, distilled = (decoded(mp4_of(folder, "larger"))[0] for folder in (output, mixed_run.output))
    assert not np.array_equal(guided, distilled)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "mode=fast"], "error: setting mode='fast'"),
        (["--settings", "absent.yaml"], "error: settings absent.yaml"),
        (
            ["--checkpoint", "/nowhere"],
            "error: checkpoint /nowhere: there is no such folder; magihuman check-checkpoint says",
        ),
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
    assert "; examples/ has manifests" in errors


def test_a_fault_of_the_checkpoint_is_told_before_anything_starts(generate, manifest, tiny_checkpoint, tmp_path):
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    path = model / "540p_sr/model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    rows = [row("a"), row("b", resolution="540p")]
    status, _, errors = generate(manifest(rows), tmp_path / "out", "--checkpoint", str(model))
    assert status == 2
    assert errors.startswith(f"error: checkpoint {model}: sr_540p: 540p_sr/model.safetensors is cut short or damaged: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.soak
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
        assert len({hash_media((tmp_path / folder / name).read_bytes()) for folder in ("one", "two")}) == 1


@pytest.mark.soak
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


@pytest.mark.soak
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


@pytest.mark.soak
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
