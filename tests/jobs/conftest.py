import json
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.tiny_checkpoint import write_tiny_checkpoint

RAY = Path(sys.executable).with_name("ray")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> str:
    """A tiny checkpoint, made once for all tests."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return str(folder)


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster."""

    address: str
    dashboard_url: str


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="session")
def cluster():
    """One real Ray cluster for the whole session, protected by the session's token."""
    port, dashboard_port = free_port(), free_port()
    command = [str(RAY), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=16"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--object-store-memory=500000000"]
    command += ["--include-dashboard=true", f"--dashboard-port={dashboard_port}"]
    # Out of the source folder, so that workers find the project where it is installed and nowhere else.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/")
    try:
        for line in process.stdout:
            if "Ray runtime started" in line:
                break
        else:
            pytest.fail(f"ray start ended with status {process.wait()}")
        yield Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}")
    finally:
        # All at once: asked politely, the parts of a cluster wait half a minute for each other.
        for part in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                part.kill()
        process.wait(timeout=60)


@pytest.fixture
def generate(cluster, tiny_checkpoint, capsys):
    """Run the job in this process on the shared cluster; gives (exit status, standard output, standard error)."""
    from jobs.generate import main

    def run(manifest, output, *more: str) -> tuple[int, str, str]:
        checkpoint = [] if "--checkpoint" in more else ["--checkpoint", tiny_checkpoint]
        arguments = ["--manifest", str(manifest), "--output", str(output), *checkpoint, "--address", cluster.address]
        status = main([*arguments, *more])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def write_manifest(path: Path, rows) -> Path:
    """Write rows as JSONL; bytes and text are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def manifest(tmp_path):
    """Make a manifest from rows."""
    return lambda rows, name="manifest.jsonl": write_manifest(tmp_path / name, rows)
