"""A Ray cluster of several nodes on this machine, each a set of processes that can be killed and come back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

_RAY = Path(sys.executable).with_name("ray")
_RUNNING = "block forever"


@dataclass(frozen=True)
class NodeSize:
    """What a node offers, whatever the machine has.

    Attributes:
        num_cpus: CPUs.
        num_gpus: GPUs.
        resources: others, such as `accelerator_type:H100`.
    """

    num_cpus: int
    num_gpus: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)


class LocalNode:
    """One Ray node: what `ray start` has started, in a folder of its own.

    Args:
        options: of `ray start`.
        environment: of its processes.

    Attributes:
        printed: what `ray start` said until it ran.

    Raises:
        RuntimeError: the node did not start; the message is what it said.
    """

    def __init__(self, *options: str, environment: Mapping[str, str] | None = None):
        # Names of sockets are short: not below a folder of somebody else's choice.
        self._folder = tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)
        command = [str(_RAY), "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        command += [f"--temp-dir={self._folder.name}", "--dashboard-agent-listen-port=0", *options]
        self._process = subprocess.Popen(
            # Out of the source folder: workers find the project where it is installed and nowhere else.
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env=environment,
        )
        self.printed = ""
        for line in self._process.stdout or ():
            self.printed += line
            if _RUNNING in line:
                return
        self.kill()
        raise RuntimeError(f"ray start ended with status {self._process.returncode}: {self.printed}")

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []

    def kill(self) -> None:
        """End it as a machine ends that loses its power."""
        with self._process, suppress(psutil.NoSuchProcess):
            # All at once: asked politely, the parts of a cluster wait half a minute for each other.
            for part in [*self.processes(), psutil.Process(self._process.pid)]:
                with suppress(psutil.NoSuchProcess):
                    part.kill()
        self._folder.cleanup()


class LocalCluster:
    """A head and any number of worker nodes; used in a `with`.

    Args:
        head_options: of the head's `ray start`.
        environment: of all processes; Ray's token authentication is on with the token in it.
        object_store_bytes: of each node.

    Attributes:
        address: of the head, for drivers.
        dashboard_url: for `ray job submit`.
        head: the head's node.
        nodes: worker nodes that are alive, oldest first.
    """

    def __init__(
        self,
        *head_options: str,
        environment: Mapping[str, str] | None = None,
        object_store_bytes: int = 200_000_000,
    ):
        self._environment, self._store = environment, f"--object-store-memory={object_store_bytes}"
        self.head = LocalNode("--head", "--port=0", self._store, *head_options, environment=environment)
        self.address = _found(r"--address='([^']+)'", self.head.printed)
        self.dashboard_url = _found(r"RAY_API_SERVER_ADDRESS='([^']+)'", self.head.printed)
        self.nodes: deque[LocalNode] = deque()

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self.nodes:
            self.nodes.pop().kill()
        self.head.kill()

    def add_node(self, size: NodeSize) -> LocalNode:
        """Start a worker node; one at a time, since nodes of one machine take each other's ports else."""
        node = LocalNode(
            f"--address={self.address}",
            self._store,
            f"--num-cpus={size.num_cpus}",
            f"--num-gpus={size.num_gpus}",
            f"--resources={json.dumps(dict(size.resources))}",
            environment=self._environment,
        )
        self.nodes.append(node)
        return node

    def lose_node(self, node: LocalNode) -> None:
        """Kill a worker node."""
        self.nodes.remove(node)
        node.kill()

    def processes(self) -> list[psutil.Process]:
        """Those of all nodes."""
        return [process for node in (self.head, *self.nodes) for process in node.processes()]


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"ray start has not said its {pattern}: {text}")
    return match[1]
