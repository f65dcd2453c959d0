"""What all tests share: threads, Ray's token, a real S3 server over HTTP, and a real Ray cluster."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import s3fs
import torch

# Ray reads these once, when it is first imported: its token authentication is on, with a token of this session's own.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)
torch.set_num_threads(1)

RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_answering(url: str, server: subprocess.Popen[bytes], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the S3 test server ended with status {server.returncode} before it answered")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the S3 test server at {url} did not answer within {limit_s} s")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3 server; the AWS variables of this process, and so of its children, point to it."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until_answering(endpoint, server)
            with pytest.MonkeyPatch.context() as patch:
                for name in [name for name in os.environ if name.startswith("AWS_")]:
                    patch.delenv(name)
                patch.setenv("AWS_ENDPOINT_URL", endpoint)
                patch.setenv("AWS_ACCESS_KEY_ID", "test-key")
                patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
                patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
                # Clients made earlier in this process would keep talking to another endpoint.
                s3fs.S3FileSystem.clear_instance_cache()
                yield endpoint
            s3fs.S3FileSystem.clear_instance_cache()
        finally:
            server.terminate()


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> str:
    """URL of an empty bucket of its own."""
    name = f"test-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def espeak() -> None:
    """espeak-ng is a Debian package: without it these tests are left out, but never where the whole is checked."""
    if shutil.which("espeak-ng") is None:
        if os.environ.get("CI"):
            pytest.fail("espeak-ng is not installed; on Debian: apt-get install espeak-ng")
        pytest.skip("espeak-ng is not installed; on Debian: apt-get install espeak-ng")


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster."""

    address: str
    dashboard_url: str


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
