"""`python -m jobs.chaos`: break a run in every way there is on this machine, and see that it makes the same clips.

A Ray cluster of several nodes, an S3 server that fails for a tenth of the calls and a tiny manifest. One run goes
undisturbed; the other one loses workers, nodes and its driver, is started again until it ends, and is compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import s3fs
from PIL import Image

from actors.clip_files import CLIPS_FOLDER
from actors.storage import join, list_names, write_atomically
from jobs.arguments import EXIT_USAGE, JobParser, positive
from pipeline.chaos.blows import draw_blows
from pipeline.chaos.comparison import find_differences, read_outcomes
from pipeline.chaos.faulty_store import PASSING_FAULTS, FaultyStore
from pipeline.chaos.local_cluster import LocalCluster, NodeSize
from pipeline.chaos.s3_server import KEYS, has_ceph, s3_server
from pipeline.chaos.trial import Trial, TrialError, TrialFigures
from pipeline.extras import ExtraError, require_libraries

PROG = "python -m jobs.chaos"

EXIT_SAME = 0
EXIT_OTHER = 1

NODE = NodeSize(num_cpus=4, num_gpus=2)
NUM_NODES = 2
REPLACEMENT_S = 10.0
"""After so long without a clip the run plans for the nodes that are left; a node that is away stays away longer."""
STALL_S = 90.0
"""After so long without a sign of life the lane is started anew. Models this small are loaded in a few seconds."""

_FAULTS = (*PASSING_FAULTS, "expired_token")
_LANGUAGES = ("zh", "yue", "en", "ja", "ko", "de", "fr")
_MANIFEST = "manifest.jsonl"


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Break a run in every way there is on this machine, and see that it makes the same clips.",
        ("--rows 20 --kills 5", "--rows 200 --kills 50 --seed 1"),
        {
            EXIT_SAME: "every row has one outcome and every clip is the same",
            EXIT_OTHER: "not so",
            EXIT_USAGE: "wrong usage",
        },
        "What is broken: docs/operations.md.",
    )
    parser.ends.add_argument(
        "--checkpoint",
        default="checkpoints/mini",
        metavar="FOLDER",
        help="checkpoint folder (default: checkpoints/mini)",
    )
    parser.ends.add_argument(
        "--logs", default="out/chaos", metavar="FOLDER", help="what drivers print (default: out/chaos)"
    )
    made = parser.made
    made.add_argument("--rows", type=positive, default=200, metavar="N", help="of the manifest (default: 200)")
    made.add_argument(
        "--kills", type=positive, default=50, metavar="N", help="of workers, nodes, drivers (default: 50)"
    )
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of what is killed when (default: 0)")
    return parser


def manifest_rows(num_rows: int) -> list[dict[str, object]]:
    """Short clips in all languages, one in ten of the larger size, some with an image; one in twenty cannot be made."""
    rows: list[dict[str, object]] = []
    for number in range(num_rows):
        row: dict[str, object] = {
            "id": f"clip-{number:04d}",
            "prompt": f"A person speaks about number {number}.",
            "language": _LANGUAGES[number % len(_LANGUAGES)],
            "seconds": 1,
            "resolution": "540p" if number % 10 == 9 else "256p",
        }
        if number % 4 == 1:
            row["image"] = "face.png"
        if number % 40 == 7:
            row["image"] = "missing.png"
        if number % 40 == 33:
            row["seconds"] = -1
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        if not has_ceph():
            require_libraries("chaos", "moto")
    except ExtraError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    logs = Path(options.logs, f"seed-{options.seed}")
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        upstream = stack.enter_context(s3_server())
        stack.enter_context(_variables({**KEYS, "AWS_ENDPOINT_URL": upstream}))
        bucket = f"s3://chaos-{uuid.uuid4().hex[:12]}"
        s3fs.S3FileSystem().mkdir(bucket)
        rows = manifest_rows(options.rows)
        _write_inputs(bucket, rows)
        try:
            _run_undisturbed(bucket, options.checkpoint, upstream, logs / "undisturbed.log")
            store = stack.enter_context(FaultyStore(upstream, fraction=0.1, faults=_FAULTS, seed=options.seed))
            undisturbed = read_outcomes(join(bucket, "undisturbed"))
            figures = _run_disturbed(bucket, options, store, len(undisturbed.clips), logs / "disturbed.log")
        except TrialError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_OTHER
        outcomes = read_outcomes(join(bucket, "disturbed"))
        differences = find_differences([str(row["id"]) for row in rows], undisturbed, outcomes)
        _print_figures(figures, store, len(outcomes.clips), len(outcomes.dead_letters))
    if (fell := sum(figures.blows.values())) < options.kills:
        differences.append(f"the run ended when {fell} of {options.kills} blows had fallen")
    for line in differences:
        print(f"difference: {line}")
    print("every row has one outcome, and every clip is the same" if not differences else "NOT the same")
    return EXIT_OTHER if differences else EXIT_SAME


def _write_inputs(bucket: str, rows: Sequence[Mapping[str, object]]) -> None:
    image = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(image, "png")
    write_atomically(join(bucket, "face.png"), image.getvalue())
    write_atomically(join(bucket, _MANIFEST), "".join(json.dumps(row) + "\n" for row in rows).encode())


def _command(bucket: str, output: str, checkpoint: str) -> list[str]:
    command = [sys.executable, "-m", "jobs.generate", "--manifest", join(bucket, _MANIFEST)]
    command += ["--output", join(bucket, output), "--checkpoint", checkpoint]
    for setting in (
        "device=cpu",
        "precision=fp32",
        "sampling.distill_steps=2",
        "sampling.sr_steps=2",
        "max_attempts=100",  # a clip that is struck by chance again and again is none that kills its workers
        f"patience.replacement_s={REPLACEMENT_S:g}",
        f"patience.stall_s={STALL_S:g}",
    ):
        command += ["--set", setting]
    return command


def _run_undisturbed(bucket: str, checkpoint: str, endpoint: str, log: Path) -> None:
    print("undisturbed run ...", flush=True)
    started = time.monotonic()
    with log.open("wb") as file:
        command = _command(bucket, "undisturbed", checkpoint)
        status = subprocess.run(
            command, env=_environment(endpoint), stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status not in (0, 3):
        raise TrialError(f"the undisturbed run ended with status {status}, see {log}")
    print(f"undisturbed run: {time.monotonic() - started:.0f} s", flush=True)


def _run_disturbed(
    bucket: str, options: argparse.Namespace, store: FaultyStore, num_clips: int, log: Path
) -> TrialFigures:
    log.unlink(missing_ok=True)
    environment = _environment(store.endpoint)
    with LocalCluster("--num-cpus=0", "--num-gpus=0", environment=environment) as cluster:
        for _ in range(NUM_NODES):
            cluster.add_node(NODE)
        command = _command(bucket, "disturbed", options.checkpoint)
        command += ["--address", cluster.address, "--set", f"num_gpus={NUM_NODES * NODE.num_gpus}"]
        trial = Trial(
            command=command,
            environment=environment,
            log=log,
            cluster=cluster,
            node=NODE,
            away_s=3 * REPLACEMENT_S,
            num_made=_counter(join(bucket, "disturbed", CLIPS_FOLDER)),
            seed=options.seed,
            tell=lambda line: print(line, flush=True),
            limit_s=600 + 60 * options.kills + 5 * options.rows,
        )
        return trial.run(draw_blows(options.kills, num_clips, options.seed))


def _counter(clips_url: str) -> Callable[[], int]:
    return lambda: sum(name.endswith(".json") for name in list_names(clips_url))


def _environment(endpoint: str) -> dict[str, str]:
    """Of processes that talk to a store, and of a cluster with a token of its own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or secrets.token_hex(16)}
    return {**ours, **KEYS, "AWS_ENDPOINT_URL": endpoint, **token}


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        s3fs.S3FileSystem.clear_instance_cache()


def _print_figures(figures: TrialFigures, store: FaultyStore, num_clips: int, num_letters: int) -> None:
    calls, faults = sum(store.counts.values()), store.counts.total() - store.counts["passed"]
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(figures.blows.items()))
    stages = ", ".join(f"{number} {stage}" for stage, number in sorted(figures.killed.items()))
    print(f"clips {num_clips}, dead letters {num_letters}, {figures.wall_s:.0f} s")
    print(f"blows {sum(figures.blows.values())}: {kinds}")
    print(f"processes killed one by one: {stages}")
    print(f"driver started {len(figures.statuses)} times, ended with {figures.statuses}")
    print(f"slowest end after SIGTERM {figures.slowest_stop_s:.1f} s")
    print(f"calls to the store {calls}, of them failed on purpose {faults}")


if __name__ == "__main__":
    sys.exit(main())
