"""A real S3 server over HTTP on this machine: Ceph's gateway where it is installed, else moto.

Ceph (Debian's `radosgw`, `ceph-mon` and `ceph-osd`) checks signatures and honours conditional writes, as S3 does. It
runs here with one monitor and one store in memory, and ends with the process that started it.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_START_S = 60.0
_STORE_BYTES = 4 * 2**30
_CEPH_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

KEYS = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_DEFAULT_REGION": "us-east-1"}
"""What a client's environment needs besides the address; moto takes any key."""

_CEPH_CONFIGURATION = """
[global]
fsid = {cluster}
mon host = v1:127.0.0.1:{monitor_port}
ms bind msgr2 = false
public addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {store_bytes}
mon allow pool size one = true
run dir = {folder}
admin socket = {folder}/$name.asok
pid file = {folder}/$name.pid
log file = {folder}/$name.log
mon data = {folder}/monitor
osd data = {folder}/store
rgw data = {folder}
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


def has_ceph() -> bool:
    """Whether Ceph's programs are installed."""
    return all(shutil.which(program) for program in _CEPH_PROGRAMS)


@contextmanager
def s3_server() -> Iterator[str]:
    """An empty server, Ceph's where it is installed; gives its URL.

    Raises:
        RuntimeError: it did not start.
    """
    with ceph_server() if has_ceph() else moto_server() as url:
        yield url


@contextmanager
def moto_server() -> Iterator[str]:
    """An empty moto server; gives its URL.

    Raises:
        RuntimeError: it did not start.
    """
    port = free_port()
    with ExitStack() as stack:
        server = _start(stack, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
        yield _answering(port, server)


@contextmanager
def ceph_server() -> Iterator[str]:
    """An empty Ceph object gateway that knows `KEYS`; gives its URL.

    Raises:
        RuntimeError: it did not start.
    """
    with ExitStack() as stack:
        # Names of sockets are short: not below a folder of somebody else's choice.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ceph-", ignore_cleanup_errors=True)))
        port, monitor_port, cluster, store = free_port(), free_port(), str(uuid.uuid4()), str(uuid.uuid4())
        for name in ("monitor", "store"):
            (folder / name).mkdir()
        configuration = folder / "ceph.conf"
        configuration.write_text(
            _CEPH_CONFIGURATION.format(
                cluster=cluster, monitor_port=monitor_port, store_bytes=_STORE_BYTES, folder=folder, port=port
            )
        )
        of_cluster = ("--conf", str(configuration))

        def do(*command: str) -> None:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_START_S, check=False)
            if done.returncode:
                raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()}")

        monitor = f"v1:127.0.0.1:{monitor_port}"
        do("monmaptool", "--create", "--fsid", cluster, "--addv", "a", monitor, str(folder / "map"))
        do("ceph-mon", *of_cluster, "--mkfs", "-i", "a", "--monmap", str(folder / "map"))
        _start(stack, "ceph-mon", *of_cluster, "-i", "a", "--foreground")
        do("ceph", *of_cluster, "osd", "new", store)
        do("ceph-osd", *of_cluster, "-i", "0", "--mkfs", "--osd-uuid", store)
        _start_store(stack, of_cluster)
        user = ("--uid", "test", "--display-name", "test")
        keys = ("--access-key", KEYS["AWS_ACCESS_KEY_ID"], "--secret-key", KEYS["AWS_SECRET_ACCESS_KEY"])
        do("radosgw-admin", *of_cluster, "user", "create", *user, *keys)
        yield _answering(port, _start(stack, "radosgw", *of_cluster, "-n", "client.rgw", "--foreground"))


def _start_store(stack: ExitStack, of_cluster: tuple[str, ...]) -> None:
    """Start Ceph's storage daemon, again where it ends at once: at times it asks the monitor before it knows it."""
    end = time.monotonic() + _START_S
    store = _start(stack, "ceph-osd", *of_cluster, "-i", "0", "--foreground")
    while time.monotonic() < end:
        if store.poll() is not None:
            store = _start(stack, "ceph-osd", *of_cluster, "-i", "0", "--foreground")
        asked = ["ceph", *of_cluster, "osd", "stat", "--format", "json"]
        told = subprocess.run(asked, capture_output=True, text=True, timeout=_START_S, check=False).stdout
        if told.strip() and json.loads(told)["num_up_osds"]:
            return
        time.sleep(0.2)
    raise RuntimeError(f"Ceph's storage daemon did not start within {_START_S:g} s")


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _start(stack: ExitStack, *command: str) -> subprocess.Popen[bytes]:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end() -> None:
        server.kill()
        server.wait()

    stack.callback(end)
    return server


def _answering(port: int, server: subprocess.Popen[bytes]) -> str:
    """The server's URL, once it answers there."""
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + _START_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the S3 server ended with status {server.returncode} before it answered")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return url
        except urllib.error.HTTPError:
            return url
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the S3 server at {url} did not answer within {_START_S:g} s")
