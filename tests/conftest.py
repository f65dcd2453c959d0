"""What all tests share: threads, Ray's token, and a real S3 server over HTTP."""

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

import pytest
import s3fs
import torch

# Ray reads these once, when it is first imported: its token authentication is on, with a token of this session's own.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)
torch.set_num_threads(1)


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
