import io
import json
import time
from collections import Counter

import pytest
from rich.console import Console

from actors.row import Failure
from pipeline.durations import format_duration
from pipeline.lane_counts import LaneCounts
from pipeline.pools import Pool
from pipeline.progress import ProgressDisplay, StageCounts, live_table, plain_line
from pipeline.run_counts import RunCounts
from pipeline.run_lock import RunLock
from pipeline.run_status import Standing

STAGES = StageCounts(in_flight=Counter(base_generation=2, decoding=1, writing=0), passed=Counter(conditioning=9))


@pytest.fixture
def counts():
    """Two minutes into a run."""
    return RunCounts(num_rows=20, num_skipped=5, num_done=6, num_failed=1, started=time.monotonic() - 120)


def test_a_plain_line_tells_everything(counts):
    assert plain_line(counts, STAGES) == (
        "11/20 done, 1 failed, in flight: base_generation 2, decoding 1, 3.0 clips/min, 2 min 40 s left"
    )


def test_the_live_table_tells_everything(counts):
    console = Console(file=io.StringIO(), width=120)
    pools = [Pool("conditioning", 1, 1, 1), Pool("base_generation", 3, 1, 1)]
    console.print(live_table("distill/256p", pools, counts, STAGES))
    printed = console.file.getvalue()
    for words in ("11 of 20 done, 1 failed, 3.0 clips/min", "lane distill/256p", "base_generation"):
        assert words in printed
    row = next(line for line in printed.splitlines() if line.startswith("base_generation"))
    assert row.split() == ["base_generation", "3", "2", "0", "0"]


@pytest.mark.parametrize(
    ("standing", "left"), [(RunCounts(3), "unknown yet"), (RunCounts(3, num_done=2, num_failed=1), "0 s")]
)
def test_time_left_is_not_invented(standing, left):
    assert standing.time_left() == left


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")])
def test_durations_read_as_people_say_them(seconds, words):
    assert format_duration(seconds) == words


def test_without_a_terminal_the_display_prints_lines(monkeypatch, counts):
    class Board:
        def snapshot(self):
            return STAGES

    monkeypatch.setattr("pipeline.progress.PLAIN_LINE_EVERY_S", 0.05)
    console = Console(file=io.StringIO(), width=200)
    with ProgressDisplay(console, counts) as display:
        display.begin_lane("distill/256p", [Pool("decoding", 2, 1, 1)], Board(), 20)
        time.sleep(0.3)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "lane distill/256p: decoding x2"
    assert lines[1].startswith("11/20 done, 1 failed, in flight: base_generation 2")


def test_memory_that_actors_need_of_a_gpu_is_shown(counts):
    console = Console(file=io.StringIO(), width=200)
    pools = [Pool("conditioning", 1, 1, 1, 20.1), Pool("writing", 2, 1, 0)]
    ProgressDisplay(console, counts).begin_lane("distill/256p", pools, None, 20)
    assert console.file.getvalue() == ("lane distill/256p: conditioning x1 (20.1 GB of GPU memory each), writing x2\n")
    console.print(live_table("distill/256p", pools, counts, STAGES))
    rows = console.file.getvalue().splitlines()
    assert rows[-3].split()[-3:] == ["GPU", "memory", "each"]
    assert rows[-2].split() == ["conditioning", "1", "0", "9", "0", "20.1", "GB"]
    assert rows[-1].split() == ["writing", "2", "0", "0", "0"]


def test_others_are_told_at_once_of_lanes_and_failures(counts):
    counts.lanes["distill/256p"] = LaneCounts(12, num_done=6)
    counts.failures.add(Failure("decoding", "", None, "no luck"))
    lock = RunLock("unused")
    with ProgressDisplay(Console(file=io.StringIO()), counts, lock):
        end = time.monotonic() + 5
        while not lock.progress and time.monotonic() < end:
            time.sleep(0.01)
    told = json.loads(json.dumps(lock.progress, allow_nan=False))
    assert told["lanes"] == {"distill/256p": {"num_clips": 12, "num_done": 6, "num_failed": 0}}
    assert told["failures"] == [{"stage": "decoding", "field": "", "reason": "no luck", "num": 1}]
    standing = Standing.model_validate(told)
    assert standing.num_left == counts.num_left
    assert standing.time_left_s == pytest.approx(160, rel=0.01)
