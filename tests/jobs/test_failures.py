"""The job under blows: told to go, robbed of its workers. Every row ends as one clip.

Workers of a whole job are killed by `-m soak` alone: `tests/pipeline/test_supervision.py` kills those of a lane whose
stages are toys.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from actors.media import hash_media, probe
from actors.storage import join, list_names, read_bytes, remove, write_atomically
from pipeline.run_lock import RunLock
from tests.jobs.rows_of_every_kind import GOOD_ROWS, noise_png
from tests.s3 import in_front_of


def row(clip_id, **fields):
    return {"id": clip_id, "prompt": f"A person speaks about {clip_id}.", "language": "en", "seconds": 1, **fields}


IMPATIENT = "import sys; from pipeline import supervision; supervision.RELEASE_S = 2.0; from jobs.generate import main"
"""The job with less time for clips in flight once it is told to go."""


@pytest.fixture
def job(cluster, tiny_checkpoint, tmp_path):
    """Start the job in a process of its own; gives (process, output)."""
    started = []

    def start(manifest, *more, program=("-m", "jobs.generate")):
        output = tmp_path / "out"
        command = [sys.executable, *program, "--manifest", str(manifest), "--output", str(output)]
        command += ["--checkpoint", tiny_checkpoint, "--address", cluster.address, *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process, output

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for_clips(process, output, number):
    end = time.monotonic() + 180
    while len(list((output / "clips").glob("*.json"))) < number:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.1)


@contextmanager
def serving_once_let(data, let):
    """A web server that keeps whoever asks waiting until `let` is set; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            let.wait()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        let.set()
        server.shutdown()
        server.server_close()


def test_told_to_go_it_ends_in_order_and_the_same_command_continues(mixed_run, generate, manifest, job, tmp_path):
    """Two clips are made before the run is told to go, one waits for its picture and is made after, by other pools."""
    let = threading.Event()
    with serving_once_let((mixed_run.folder / "face.png").read_bytes(), let) as url:
        rows = [values for values in GOOD_ROWS if values["id"] in ("wide", "one", "square")]
        path = manifest([values | ({"image": f"{url}face.png"} if "image" in values else {}) for values in rows])
        allowed = ("--set", f"allowed_references=['{url}']")
        process, output = job(path, *allowed, program=("-c", f"{IMPATIENT}; sys.exit(main())"))
        wait_for_clips(process, output, 2)
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        printed, _ = process.communicate(timeout=60)
        assert time.monotonic() - told < 30
        assert process.returncode == 75, printed
        assert "what is done is kept, the same command continues" in printed
        assert "Traceback" not in printed
        assert {marker.stem for marker in (output / "clips").glob("*.json")} == {"wide", "one"}
        books = json.loads((output / "run.json").read_text())
        assert (books["state"], books["reason"]) == ("interrupted", "told to stop (SIGTERM)")
        assert set(pq.read_table(output / "results.parquet")["id"].to_pylist()) == {"wide", "one"}
        let.set()
        pools = ("--set", "pools.base_generation.size=2", "--set", "pools.decoding.size=2")
        status, printed, _ = generate(path, output, *allowed, *pools)
    assert status == 0
    assert "1 made, 2 skipped, 0 dead-lettered" in printed
    for values in rows:
        name = f"clips/{values['id']}.mp4"
        hashes = {hash_media((folder / name).read_bytes()) for folder in (output, mixed_run.output)}
        assert len(hashes) == 1, "as of an undisturbed run"


@pytest.mark.slow
def test_an_output_that_takes_no_more_ends_the_run_and_keeps_what_is_done(
    generate, manifest, s3_endpoint, s3_bucket, tmp_path
):
    rows = [row(f"clip-{number}") for number in range(8)]
    path, output = manifest(rows), join(s3_bucket, "out")

    def fill(store):
        while not any(name.endswith(".json") for name in list_names(join(output, "clips"))):
            time.sleep(0.1)
        store.faults, store.fraction = ("quota_exceeded",), 1.0

    with in_front_of(s3_endpoint) as store:
        threading.Thread(target=fill, args=(store,), daemon=True).start()
        status, printed, errors = generate(path, output)
        store.fraction = 0.0
    assert status == 75
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert output in line
    assert "dead-lettered" not in printed
    done = {name for name in list_names(join(output, "clips")) if name.endswith(".json")}
    assert 1 <= len(done) < 8
    for marker in done:
        record = json.loads(read_bytes(join(output, "clips", marker)))
        mp4 = read_bytes(join(output, "clips", marker.replace(".json", ".mp4")))
        assert hashlib.sha256(mp4).hexdigest() == record["mp4"]["sha256"]
    remove(join(output, "run.lock"))  # as if it had gone stale: with the store full it could not be removed
    what_is_done = manifest([values for values in rows if f"{values['id']}.json" in done], "done.jsonl")
    status, printed, _ = generate(what_is_done, output)
    assert status == 0
    assert f"0 made, {len(done)} skipped, 0 dead-lettered" in printed


@pytest.mark.soak
def test_a_store_that_fails_now_and_then_costs_time_alone(generate, s3_endpoint, s3_bucket, tiny_checkpoint, tmp_path):
    """From a bucket to a bucket, with the checkpoint in a bucket, of which a component that no row needs is damaged."""
    for path in Path(tiny_checkpoint).rglob("*"):
        if path.is_file():
            name, data = str(path.relative_to(tiny_checkpoint)), path.read_bytes()
            damaged = name == "540p_sr/model.safetensors"
            write_atomically(join(s3_bucket, "model", name), data[:-7] if damaged else data)
    write_atomically(join(s3_bucket, "in/faces/a.png"), noise_png((64, 64)))
    rows = [row("a", image="faces/a.png", seconds=0.2), row("b", language="xx"), row("c", seconds=0.2)]

    def write(rows):
        lines = "".join(json.dumps(values) + "\n" for values in rows)
        write_atomically(join(s3_bucket, "in/manifest.jsonl"), lines.encode())

    write(rows)
    output = join(s3_bucket, "out")
    cache = f"cache_dir={tmp_path / 'cache'}"
    arguments = (join(s3_bucket, "in/manifest.jsonl"), output, "--checkpoint", join(s3_bucket, "model"), "--set", cache)
    with in_front_of(s3_endpoint, fraction=0.1, faults=("internal_error", "slow_down", "reset", "cut_body")) as store:
        status, _, _ = generate(*arguments)
    assert status == 3
    assert sum(store.counts.values()) - store.counts["passed"] > 3
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
    write([*rows, row("larger", resolution="540p")])
    status, _, errors = generate(*arguments)
    assert status == 2
    assert "sr_540p: 540p_sr/model.safetensors is cut short or damaged: " in errors


def test_a_second_run_on_an_output_refuses(generate, manifest, tmp_path):
    with RunLock(str(tmp_path / "out")) as lock:
        status, _, errors = generate(manifest([row("a")]), tmp_path / "out")
        assert status == 2
        assert errors.count("\n") == 1
        assert lock.run_id in errors or str(os.getpid()) in errors
    assert not (tmp_path / "out/clips").exists()
    status, _, _ = generate(manifest([row("a", seconds=-1)]), tmp_path / "out")
    assert status == 3, "it runs, and has nothing to make"
    assert not (tmp_path / "out/run.lock").exists()


STAGES = ("Conditioning", "BaseGeneration", "SuperResolution", "Decoding", "Writing")


@pytest.mark.soak
def test_workers_killed_at_every_stage_cost_no_clip_and_change_none(generate, manifest, job, tmp_path):
    rows = [row(f"clip-{number}", seconds=2, resolution="540p" if number % 3 == 0 else "256p") for number in range(9)]
    path = manifest(rows)
    process, output = job(path)
    killed = set()
    while process.poll() is None and len(killed) < 5:
        for worker in psutil.process_iter(["name", "cmdline"]):
            title = " ".join(worker.info["cmdline"] or ())
            stage = next((name for name in STAGES if f"({name})" in title), None)
            if stage and stage not in killed and list((output / "clips").glob("*.json")):
                os.kill(worker.pid, signal.SIGKILL)
                killed.add(stage)
        time.sleep(0.2)
    printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert len(killed) >= 4, killed
    assert "9 made, 0 skipped, 0 dead-lettered" in printed
    assert generate(path, tmp_path / "undisturbed")[0] == 0
    for values in rows:
        name = f"clips/{values['id']}.mp4"
        assert len({hash_media((folder / name).read_bytes()) for folder in (output, tmp_path / "undisturbed")}) == 1
