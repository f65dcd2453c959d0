"""A lane on a real cluster: what is killed, hangs, cannot start or is told to stop."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from actors.request import ClipRequest
from actors.row import Failure
from pipeline import supervision
from pipeline.board import StageBoard
from pipeline.graph import LaneGraph
from pipeline.patience import Patience
from pipeline.pools import LanePlan, Pool
from pipeline.supervision import LaneWatch, StartError
from pipeline.valid_row import ValidRow
from pipeline.worklist import Worklist

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the cluster's workers cannot import tests


class First:
    name = "conditioning"

    def __init__(self, folder):
        self.folder = Path(folder)

    def __call__(self, row):
        with open(self.folder / f"{self.name}-{row['id']}", "a") as file:
            file.write(f"{os.getpid()}\n")
        if row["id"].startswith("poison"):
            time.sleep(0.5)  # its neighbour is at work, too
            os.kill(os.getpid(), signal.SIGKILL)
        while row["id"].startswith("hanging"):
            time.sleep(1)
        time.sleep(0.1)
        return row


class Second(First):
    name = "decoding"


class Unable(First):
    name = "conditioning"

    def __init__(self, folder):
        raise ValueError("precision fp8 needs another GPU")


class Lane:
    """A go at a lane with two stages."""

    def __init__(
        self, folder, ids, first=First, second_gpus=0.0, patience=None, is_told_to_stop=lambda: False, is_phased=False
    ):
        self.folder = folder
        stages = {"conditioning": (first, {"folder": str(folder)}), "decoding": (Second, {"folder": str(folder)})}
        pools = [Pool("conditioning", 2, 0.5, 0), Pool("decoding", 1, 0.5, second_gpus)]
        worklist = Worklist()
        for line, clip_id in enumerate(ids):
            worklist.add(ValidRow.of(line, ClipRequest(id=clip_id, prompt="x", language="en")))
        self.chunks = list(worklist.chunks("256p"))
        self.deaths = []
        graph = LaneGraph("test", LanePlan(pools, is_phased), stages, max_attempts=3)
        self.watch = LaneWatch(
            graph, StageBoard(), patience or Patience(), is_told_to_stop, lambda deaths: self.deaths.append(deaths)
        )

    def run(self):
        return {row["id"]: row["failure"] and Failure.from_json(row["failure"]) for row in self.watch.rows(self.chunks)}

    def num_tries(self, stage, clip_id):
        return len((self.folder / f"{stage}-{clip_id}").read_text().split())

    def worker(self, clip_id):
        path = self.folder / f"conditioning-{clip_id}"
        return int(path.read_text().split()[-1]) if path.exists() and path.read_text() else None


IDS = [f"c{number}" for number in range(12)]


@pytest.mark.slow
@pytest.mark.usefixtures("driver")
def test_in_phases_a_stage_begins_when_the_one_before_has_ended(tmp_path):
    lane = Lane(tmp_path, IDS, is_phased=True)
    assert lane.run() == dict.fromkeys(IDS)
    assert lane.watch.verdict == "goes on"
    counts = lane.watch.board.snapshot()
    assert counts.passed == {"conditioning": 12, "decoding": 12}
    assert counts.seconds["decoding"] >= 1.2
    assert not counts.in_flight
    assert lane.deaths[-1:] in ([], [{}])
    last_first = max(path.stat().st_mtime for path in tmp_path.glob("conditioning-*"))
    assert last_first < min(path.stat().st_mtime for path in tmp_path.glob("decoding-*"))


@pytest.mark.usefixtures("driver")
def test_a_row_that_kills_its_worker_fails_after_three_tries_and_takes_no_other_with_it(tmp_path):
    lane = Lane(tmp_path, [*IDS, "poison", *(f"d{number}" for number in range(6))])
    outcomes = lane.run()
    assert len(outcomes) == 19
    assert outcomes.pop("poison").reason == "its worker process died 3 times while at work on it"
    assert set(outcomes.values()) == {None}
    counts = lane.watch.board.snapshot()
    # A clip passes again if its worker died after it and before Ray had it, and never without having been tried again.
    assert 18 <= counts.passed.pop("conditioning") <= sum(lane.num_tries("conditioning", clip) for clip in outcomes)
    assert (counts.passed, counts.failed) == ({"decoding": 18}, {"conditioning": 1})
    assert lane.num_tries("conditioning", "poison") == 3
    assert {"poison": {"conditioning": 1}} in [
        {clip: stages for clip, stages in deaths.items() if clip == "poison"} for deaths in lane.deaths
    ], "deaths are told as they happen"


@pytest.mark.soak
@pytest.mark.usefixtures("driver")
def test_workers_killed_from_outside_cost_no_row(tmp_path):
    lane, killed = Lane(tmp_path, [f"c{number}" for number in range(30)]), set()
    outcomes = {}
    for row in lane.watch.rows(lane.chunks):
        outcomes[row["id"]] = row["failure"]
        if len(outcomes) in (3, 10):
            pid = lane.worker(row["id"])
            if pid not in killed and psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
    assert killed
    assert outcomes == dict.fromkeys(f"c{number}" for number in range(30))


@pytest.mark.slow
@pytest.mark.usefixtures("driver")
def test_a_pool_that_cannot_start_ends_the_run_though_another_finds_no_place(tmp_path):
    lane, started = Lane(tmp_path, IDS, first=Unable, second_gpus=1.0), time.monotonic()
    with pytest.raises(StartError, match=r"^conditioning cannot start: precision fp8 needs another GPU$"):
        lane.run()
    assert time.monotonic() - started < 60


@pytest.mark.usefixtures("driver")
def test_a_lane_that_hangs_is_ended_and_the_clip_that_hung_counts_as_one_that_kills(tmp_path):
    lane, outcomes = Lane(tmp_path, ["a", "hanging", "b"]), set()
    for row in lane.watch.rows(lane.chunks):
        outcomes.add(row["id"])
        if len(outcomes) == 2:  # no earlier: actors that start may take longer than this
            lane.watch.patience = Patience(stall_s=2.0)
    assert lane.watch.verdict == "stalled"
    assert outcomes == {"a", "b"}
    assert lane.deaths[-1] == {"hanging": {"conditioning": 1}}


@pytest.mark.slow
@pytest.mark.usefixtures("driver")
def test_told_to_stop_it_ends_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(supervision, "RELEASE_S", 2.0)
    stop = []
    lane = Lane(tmp_path, ["a", "hanging"], is_told_to_stop=lambda: bool(stop))
    told = None
    for _ in lane.watch.rows(lane.chunks):
        stop.append(1)
        told = time.monotonic()
    assert told is not None
    assert 1.5 < time.monotonic() - told < 10


@pytest.mark.usefixtures("driver")
def test_when_the_lanes_own_process_dies_its_actors_go_too(tmp_path):
    lane, seen = Lane(tmp_path, [f"c{number}" for number in range(40)]), {}
    for row in lane.watch.rows(lane.chunks):
        seen[row["id"]] = lane.worker(row["id"])
        if len(seen) == 3:
            lanes = [p for p in psutil.process_iter(["cmdline"]) if "_LaneProcess" in " ".join(p.info["cmdline"] or ())]
            process = max(lanes, key=lambda lane: lane.create_time())
            process.kill()
    assert lane.watch.verdict == "process died"
    assert len(seen) < 40
    end = time.monotonic() + 30
    while any(map(psutil.pid_exists, seen.values())):
        assert time.monotonic() < end
        time.sleep(0.2)
