"""What a stage inside an actor does when it cannot start, or its worker dies, or its GPU is full."""

import json
import threading
import time

import pytest
import torch

from actors.row import ACTOR_START, Failure, new_row
from actors.storage import StorageError
from model.graph_cache import CompileError
from pipeline import stage_actor
from pipeline.board import _Board
from pipeline.stage_actor import StageActor


class Board:
    """The board itself, in this process."""

    def __init__(self, earlier=()):
        self.board = _Board(dict(earlier))
        self.report_start, self.enter, self.begin, self.retry, self.leave = (
            getattr(self.board, name) for name in ("start", "enter", "begin", "retry", "leave")
        )

    @property
    def counts(self):
        return self.board.snapshot()


class Stage:
    name = "decoding"

    def __init__(self, errors):
        if errors:
            raise errors.pop(0)

    def __call__(self, row):
        return row | {"notes": "made"}


def leave(status):
    raise SystemExit(status)


def started(*errors):
    return StageActor(Stage, {"errors": list(errors)}, Board(), max_attempts=3)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(stage_actor, "_BEFORE_ANOTHER_START_S", 0.0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("precision fp8 needs another GPU"), "precision fp8 needs another GPU"),
        (CompileError("torch.compile failed:\n no g++"), "torch.compile failed: no g++"),
        (RuntimeError("no memory"), "RuntimeError: no memory"),
        (StorageError("s3://b/x is out of reach"), "s3://b/x is out of reach"),
    ],
)
def test_board_and_rows_get_the_reason_and_nothing_is_raised(error, reason):
    actor = started(error)
    assert actor.board.counts.start_failures == {"decoding": reason}
    row = actor(new_row("a", "{}"))
    failure = Failure.from_json(row["failure"])
    assert (failure.stage, failure.field, failure.reason) == ("decoding", ACTOR_START, reason)
    assert json.loads(row["request"]) == {}
    assert not actor.board.counts.in_flight


def test_a_fault_of_ours_is_loud():
    with pytest.raises(KeyError):
        started(KeyError("a bug"))


def test_a_failed_row_passes_an_actor_that_could_not_start():
    row = new_row("a", "{}") | {"failure": "earlier"}
    assert started(ValueError("no"))(row) is row


def test_one_machine_that_cannot_start_does_not_end_the_run(monkeypatch):
    board = Board()
    StageActor(Stage, {"errors": []}, board, 3)
    assert len(board.counts.load_seconds["decoding"]) == 1
    actor = StageActor(Stage, {"errors": [RuntimeError("no GPU")]}, board, 3)
    assert board.counts.start_failures == {}
    monkeypatch.setattr(stage_actor.os, "_exit", leave)
    with pytest.raises(SystemExit):
        actor(new_row("a", "{}"))


def test_a_clip_over_which_workers_died_is_tried_alone_and_then_given_up():
    board = Board({"a": {"decoding": 1}, "b": {"decoding": 3}})
    actor = StageActor(Stage, {"errors": []}, board, max_attempts=3)
    assert actor(new_row("a", "{}"))["notes"] == "made"
    row = actor(new_row("b", "{}"))
    failure = Failure.from_json(row["failure"])
    assert failure.reason == "its worker process died 3 times while at work on it"
    assert (board.counts.passed, board.counts.failed) == ({"decoding": 1}, {"decoding": 1})
    assert board.counts.died == {}, "what has come to an end is forgotten"


def test_the_board_counts_a_death_when_the_clip_comes_back():
    board = _Board({})
    for _ in range(2):
        assert board.enter("decoding", "a") == 0
        assert board.enter("decoding", "b") == 0
    board.begin("decoding", "a")
    assert board.snapshot().died == {}, "it is at work, and nobody has died yet"
    assert board.snapshot().in_flight == {"decoding": 2}
    assert board.enter("decoding", "a") == 1
    assert board.enter("decoding", "b") == 0, "waiting is no attempt"
    assert board.snapshot().died == {"a": {"decoding": 1}}
    board.begin("decoding", "a")
    assert board.snapshot().died == {"a": {"decoding": 1}}
    assert board.snapshot().attempts == {"a": {"decoding": 2}}
    board.leave("decoding", "a", True, 1.5, 7)
    board.leave("decoding", "b", False, 9.0, 5)
    counts = board.snapshot()
    assert counts.retries == {("decoding", "worker died"): 1}
    assert counts.gpu_peak_bytes == {"decoding": 7}
    assert counts.num_entered("decoding") == 2
    assert (counts.attempts, counts.died, counts.in_flight) == ({}, {}, {})
    assert counts.seconds == {"decoding": 1.5}


class Hungry(Stage):
    """Finds no memory while another clip is here, or ever for the clip called greedy."""

    def __init__(self):
        self.lock, self.num_inside, self.num_calls = threading.Lock(), 0, 0

    def __call__(self, row):
        with self.lock:
            self.num_inside += 1
            self.num_calls += 1
            is_full = self.num_inside > 1 or row["id"] == "greedy"
        try:
            time.sleep(0.2)
            if is_full:
                raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
            return row
        finally:
            with self.lock:
                self.num_inside -= 1


def test_a_clip_that_finds_no_memory_beside_others_finds_it_alone():
    actor = StageActor(Hungry, {}, Board(), 3)
    rows = []
    threads = [threading.Thread(target=lambda n=n: rows.append(actor(new_row(n, "{}")))) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["failure"] for row in rows] == [None, None]
    assert actor.stage.num_calls == 3
    assert actor.board.counts.retries == {("decoding", "out of memory"): 1}


def test_a_clip_that_finds_no_memory_alone_fails_and_is_not_tried_for_ever():
    actor = StageActor(Hungry, {}, Board(), 3)
    failure = Failure.from_json(actor(new_row("greedy", "{}"))["failure"])
    expected = "does not fit the GPU's memory, even alone: CUDA out of memory. Tried to allocate"
    assert (failure.stage, failure.reason) == ("decoding", expected)
    assert actor.stage.num_calls == 2
    assert actor(new_row("modest", "{}"))["failure"] is None


class BrokenGpu(Stage):
    def __init__(self):
        pass

    def __call__(self, row):
        raise torch.AcceleratorError("unspecified launch failure")


def test_a_broken_gpu_ends_the_process(monkeypatch, caplog):
    monkeypatch.setattr(stage_actor.os, "_exit", leave)
    with pytest.raises(SystemExit):
        StageActor(BrokenGpu, {}, Board(), 3)(new_row("a", "{}"))
    assert "a in decoding: the GPU is in a broken state: unspecified launch failure" in caplog.text
