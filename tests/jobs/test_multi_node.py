"""A job for a fleet: a head and two workers with H100s by name, each a Ray node of its own on this machine.

The nodes offer GPUs that are not there: Ray places actors by them all the same, and `device=cpu` lets them compute.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray.util.state import list_actors, list_jobs, list_nodes

from actors.media import probe
from pipeline.chaos.local_cluster import LocalCluster, NodeSize

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
NUM_WORKERS, GPUS_PER_WORKER = 2, 2
NODE = NodeSize(4, GPUS_PER_WORKER, {"accelerator_type:H100": 1})
GPU_STAGES = ("conditioning", "base_generation", "super_resolution", "decoding")


@dataclass(frozen=True)
class Fleet:
    """A cluster of several nodes; `worker_ids` are Ray's names of those with GPUs."""

    cluster: LocalCluster
    dashboard_url: str
    worker_ids: frozenset[str]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with LocalCluster("--num-cpus=0", "--num-gpus=0") as cluster:
        for _ in range(NUM_WORKERS):
            cluster.add_node(NODE)
        deadline = time.monotonic() + 30
        while True:
            nodes = [node for node in list_nodes(address=cluster.dashboard_url, detail=True) if node.state == "ALIVE"]
            if len(nodes) == 1 + NUM_WORKERS:
                break
            assert time.monotonic() < deadline, nodes
            time.sleep(0.2)
        worker_ids = frozenset(node.node_id for node in nodes if not node.is_head_node)
        yield Fleet(cluster, cluster.dashboard_url, worker_ids)


def submit(fleet: Fleet, working_dir: Path, arguments, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(RAY), "job", "submit", "--address", fleet.dashboard_url, "--working-dir", str(working_dir)]
    command += ["--", sys.executable, "-m", "jobs.generate", *arguments]
    environment = {name: value for name, value in {**os.environ, **environment}.items() if value}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """What is submitted: the project's packages, and a line more that tells which processes import them from there."""
    folder = tmp_path_factory.mktemp("submitted") / "project"
    for package in ("actors", "jobs", "model", "pipeline"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    importers = folder.with_name("importers")
    importers.mkdir()
    with (folder / "actors/__init__.py").open("a") as module:
        module.write(f"\nimport os, pathlib\npathlib.Path({str(importers)!r}, str(os.getpid())).touch()\n")
    return folder


@pytest.mark.slow
def test_a_submitted_job_uses_every_node_and_the_submitted_code(fleet, project, manifest, tiny_checkpoint, tmp_path):
    rows = [
        {"id": f"clip-{seed}", "prompt": "A person speaks.", "language": "en", "resolution": "540p", "seed": seed}
        for seed in range(3)
    ]
    output = tmp_path / "out"
    arguments = ["--manifest", str(manifest([{**row, "seconds": 0.2} for row in rows])), "--output", str(output)]
    arguments += ["--checkpoint", tiny_checkpoint, "--set", "device=cpu"]
    arguments += ["--set", f"num_gpus={NUM_WORKERS * GPUS_PER_WORKER}", "--set", "pools.writing.size=1"]
    for stage in GPU_STAGES:  # four actors with a GPU each, more than a node has
        arguments += ["--set", f"pools.{stage}={{size: 1, num_gpus: 1, num_cpus: 1}}"]
    finished = submit(fleet, project, arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "3 made, 0 skipped, 0 dead-lettered" in finished.stdout
    for row in rows:
        facts = probe((output / f"clips/{row['id']}.mp4").read_bytes())
        assert (facts.width, facts.height) == (896, 512)
        assert (facts.num_frames, facts.video_codec, facts.audio_codec) == (5, "h264", "aac")
        assert json.loads((output / f"clips/{row['id']}.json").read_text())["seed"] == row["seed"]

    actors = list_actors(address=fleet.dashboard_url, detail=True, limit=100)
    on_gpus = [actor for actor in actors if "GPU" in actor.required_resources]
    assert len(on_gpus) == 4, "one for each stage"
    for actor in on_gpus:
        assert actor.required_resources == {"CPU": 1, "GPU": 1, "accelerator_type:H100": 0.001}
    assert {actor.node_id for actor in on_gpus} == fleet.worker_ids
    importers = {int(path.name) for path in (project.with_name("importers")).iterdir()}
    assert {actor.pid for actor in on_gpus} <= importers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "reason", "status"),
    [
        ({"RAY_AUTH_TOKEN": "another"}, "Invalid authentication token", 403),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": ""}, "Missing authentication token", 401),
    ],
)
def test_without_the_clusters_token_nothing_is_submitted(fleet, project, environment, reason, status):
    before = {job.submission_id for job in list_jobs(address=fleet.dashboard_url)}
    refused = submit(fleet, project, ["--help"], **environment)
    assert refused.returncode != 0
    assert reason in refused.stderr
    assert {job.submission_id for job in list_jobs(address=fleet.dashboard_url)} == before
    token = environment["RAY_AUTH_TOKEN"]
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with pytest.raises(urllib.error.HTTPError, match=f"HTTP Error {status}"):
        urllib.request.urlopen(urllib.request.Request(f"{fleet.dashboard_url}/api/jobs/", headers=headers), timeout=10)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_replaced", [True, False], ids=["replaced", "not replaced"])
def test_a_lost_node_costs_no_clip(fleet, manifest, tiny_checkpoint, tmp_path, is_replaced):
    rows = [{"id": f"c{number}", "prompt": "A person speaks.", "language": "en", "seconds": 1} for number in range(40)]
    output = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.generate", "--manifest", str(manifest(rows)), "--output", str(output)]
    command += ["--checkpoint", tiny_checkpoint, "--address", fleet.cluster.address]
    for setting in ("device=cpu", f"num_gpus={NUM_WORKERS * GPUS_PER_WORKER}", "patience.replacement_s=5"):
        command += ["--set", setting]
    log = tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:

        def wait_for(seen):
            deadline = time.monotonic() + 200
            while not seen():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)

        wait_for(lambda: list((output / "clips").glob("*.json")))
        fleet.cluster.lose_node(fleet.cluster.nodes[0])
        if not is_replaced:
            wait_for(lambda: "cluster shrank" in log.read_text())
        fleet.cluster.add_node(NODE)
        assert process.wait(timeout=400) == 0, log.read_text()
    printed = log.read_text()
    assert "40 made, 0 skipped, 0 dead-lettered" in printed
    num_pools = len(re.findall(r"^lane distill/256p: conditioning", printed, re.MULTILINE))
    told = re.findall(r"^lane distill/256p: (.*), starting anew with what there is", printed, re.MULTILINE)
    assert told == ([] if is_replaced else ["cluster shrank", "cluster grew"])
    assert num_pools == 1 + len(told)
