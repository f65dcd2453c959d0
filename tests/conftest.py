"""What all tests share: threads, Ray's token, a real S3 server over HTTP, a real browser, and a real Ray cluster."""

import os
import secrets
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
import torch
from playwright.sync_api import Browser, sync_playwright

from pipeline.chaos.local_cluster import LocalCluster
from pipeline.chaos.s3_server import KEYS, free_port, moto_server
from tests.visits import Visits

# Ray reads these once, when it is first imported: its token authentication is on, with a token of this session's own.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(16)
# Beside the other half of the tests, workers that give way to everybody would come last.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray writes it so
# As in a shell whose environment is activated: a node runs `python` of the tests for whoever submits a job.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
torch.set_num_threads(1)
# Where a shell has put the tests into the background it has them ignore Ctrl-C, and so all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_RAY_FIXTURES = {"cluster", "fleet"}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3 server; the AWS variables of this process, and so of its children, point to it."""
    with moto_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        # Clients made earlier in this process would keep talking to another endpoint.
        s3fs.S3FileSystem.clear_instance_cache()
        yield endpoint
        s3fs.S3FileSystem.clear_instance_cache()


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


@pytest.fixture(scope="module")  # no longer than that: while it is open, no other event loop can be
def browser() -> Iterator[Browser]:
    """Chromium without a window; a Debian package as well."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed; on Debian: apt-get install chromium fonts-noto-cjk")
        pytest.skip("chromium is not installed; on Debian: apt-get install chromium fonts-noto-cjk")
    with sync_playwright() as playwright:
        # Its sandbox needs rights that containers seldom have; the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visits(browser: Browser) -> Iterator[Visits]:
    """Opens pages; at the end of the test none of them may have complained or asked for anything from elsewhere."""
    visits = Visits(browser)
    yield visits
    visits.end()


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """One real Ray cluster for the whole session, protected by the session's token."""
    options = ("--num-cpus=16", "--include-dashboard=true", f"--dashboard-port={free_port()}")
    with LocalCluster(*options, object_store_bytes=500_000_000) as cluster:
        yield cluster


@pytest.fixture
def driver(cluster: LocalCluster) -> Iterator[None]:
    """This process is connected to the cluster, as a job's driver is."""
    import ray  # after its variables are set

    from jobs.connection import disconnect

    ray.init(address=cluster.address, logging_level="warning", log_to_driver=False)
    yield
    disconnect()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--screenshots OUTPUT`: pictures for the docs are made anew, of a finished campaign."""
    parser.addoption(
        "--screenshots", metavar="OUTPUT", help="make docs/campaign*.webp, of this output of jobs.localize"
    )


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use Ray are marked, so that they can run beside the others, and one after the other."""
    for item in items:
        if _RAY_FIXTURES & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.ray)
