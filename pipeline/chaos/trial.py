"""A run under blows: the driver is started again until the run says that it has ended."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipeline.chaos.blows import Blow
from pipeline.chaos.local_cluster import LocalCluster, NodeSize

_LOOK_EVERY_S = 0.3
_BETWEEN_BLOWS_S = (0.5, 2.0)
_RESUMED = (75, -signal.SIGKILL, -signal.SIGTERM)
_ENDED = (0, 3)
_STAGES = ("Conditioning", "BaseGeneration", "SuperResolution", "Decoding", "Writing")


class TrialError(RuntimeError):
    """The run neither ended nor said that it can be resumed; the message is what it printed last."""


@dataclass
class TrialFigures:
    """What a trial took.

    Attributes:
        blows: that fell, by kind.
        killed: processes of stages that were killed, by stage.
        statuses: exit statuses of the driver's processes, in order.
        slowest_stop_s: from the signal to the end of a driver that was told to go.
        wall_s: all of it.
    """

    blows: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    statuses: list[int] = field(default_factory=list)
    slowest_stop_s: float = 0.0
    wall_s: float = 0.0


class Trial:
    """One run and what is done to it.

    Args:
        command: the driver's.
        environment: of the driver.
        log: file that gets what drivers print.
        cluster: that the run uses; has nodes.
        node: what comes after one was lost.
        away_s: for how long a lost node is missed before that.
        num_made: how many clips the output holds.
        seed: of what is struck among equals.
        tell: gets a line for each blow.
        limit_s: the trial may take.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        cluster: LocalCluster,
        node: NodeSize,
        away_s: float,
        num_made: Callable[[], int],
        seed: int,
        tell: Callable[[str], None],
        limit_s: float,
    ):
        self.command, self.environment, self.log = command, environment, log
        self.cluster, self.node, self.away_s, self.num_made = cluster, node, away_s, num_made
        self.tell, self.limit_s = tell, limit_s
        self.figures = TrialFigures()
        self._random = random.Random(seed)
        self._back_at: list[float] = []
        self._told_at: float | None = None

    def run(self, blows: Sequence[Blow]) -> TrialFigures:
        """Start the run, let blows fall, start it again where it ended by them, until it has ended by itself.

        Raises:
            TrialError: a driver ended with a status that is neither, or all took longer than `limit_s`.
        """
        started, pending, next_blow = time.monotonic(), deque(blows), 0.0
        driver = self._start()
        try:
            while True:
                time.sleep(_LOOK_EVERY_S)
                now = time.monotonic()
                if driver.poll() is not None:
                    self._note_end(driver, now)
                    if driver.returncode in _ENDED:
                        break
                    driver = self._start()
                if now - started > self.limit_s:
                    raise TrialError(f"not done within {self.limit_s:g} s; {self._last_words()}")
                if self._back_at and now > self._back_at[0]:
                    self._back_at.pop(0)
                    self.cluster.add_node(self.node)
                if pending and now > next_blow and (made := self.num_made()) >= pending[0].after_clips:
                    victim = self._strike(pending[0], driver)
                    if victim is not None:
                        self.tell(f"{now - started:6.1f} s, {made} clips: {pending[0].kind}{victim}")
                        self.figures.blows[pending.popleft().kind] += 1
                        next_blow = time.monotonic() + self._random.uniform(*_BETWEEN_BLOWS_S)
        finally:
            driver.kill()
            driver.wait()
        self.figures.wall_s = time.monotonic() - started
        return self.figures

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def _note_end(self, driver: subprocess.Popen[bytes], now: float) -> None:
        self.figures.statuses.append(driver.returncode)
        if self._told_at is not None:
            self.figures.slowest_stop_s = max(self.figures.slowest_stop_s, now - self._told_at)
            self._told_at = None
        if driver.returncode not in (*_ENDED, *_RESUMED):
            raise TrialError(f"the driver ended with status {driver.returncode}; {self._last_words()}")

    def _last_words(self) -> str:
        return f"{self.log} ends with:\n" + "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def _strike(self, blow: Blow, driver: subprocess.Popen[bytes]) -> str | None:
        """Let a blow fall; more about what was hit, or None where there is nothing to hit yet."""
        if driver.poll() is not None:
            return None
        match blow.kind:
            case "driver killed":
                driver.kill()
                return ""
            case "driver told to go" if self._told_at is not None:
                return None
            case "driver told to go":
                driver.send_signal(signal.SIGTERM)
                self._told_at = time.monotonic()
                return ""
            case "node replaced" | "node away":
                return self._lose_node(is_replaced=blow.kind == "node replaced")
            case "lane killed":
                return self._kill("_LaneProcess")
            case "board killed":
                return self._kill("_Board")
            case "worker killed":
                return self._kill(*(f"({stage})" for stage in _STAGES))

    def _lose_node(self, is_replaced: bool) -> str | None:
        if not self.cluster.nodes or (not is_replaced and len(self.cluster.nodes) < 2):
            return None
        self.cluster.lose_node(self._random.choice(self.cluster.nodes))
        if is_replaced:
            self.cluster.add_node(self.node)
        else:
            self._back_at.append(time.monotonic() + self.away_s)
        return f", {len(self.cluster.nodes)} left"

    def _kill(self, *names: str) -> str | None:
        found = []
        for process in self.cluster.processes():
            with suppress(psutil.NoSuchProcess):
                title = " ".join(process.cmdline())
                found += [(process, name.strip("()")) for name in names if title.startswith("ray::") and name in title]
        if not found:
            return None
        # Stage by stage: else the stage with most actors gets most of it.
        name = self._random.choice(sorted({name for _, name in found}))
        victim = self._random.choice([process for process, of in found if of == name])
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            self.figures.killed[name] += 1
            return f" ({name})"
        return None
