"""What a stage inside an actor does when it cannot start."""

import json
from types import SimpleNamespace

import pytest

from actors.row import ACTOR_START, Failure, new_row
from actors.storage import StorageError
from model.graph_cache import CompileError
from pipeline import stage_actor
from pipeline.stage_actor import StageActor


class Board:
    def __init__(self):
        self.calls = []
        self.enter = SimpleNamespace(remote=lambda name: self.calls.append(name))
        self.leave = SimpleNamespace(remote=lambda name, is_healthy: self.calls.append(is_healthy))


class Stage:
    name = "decoding"

    def __init__(self, errors):
        if errors:
            raise errors.pop(0)

    def __call__(self, row):
        return row | {"notes": "made"}


def started(*errors):
    return StageActor(Stage, {"errors": list(errors)}, Board())


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    slept = []
    monkeypatch.setattr(stage_actor.time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("precision fp8 needs another GPU"), "precision fp8 needs another GPU"),
        (CompileError("torch.compile failed:\n no g++"), "torch.compile failed: no g++"),
        (RuntimeError("no memory"), "RuntimeError: no memory"),
    ],
)
def test_the_first_row_brings_the_reason_and_nothing_is_raised(error, reason):
    actor = started(error)
    row = actor(new_row("a", "{}"))
    failure = Failure.from_json(row["failure"])
    assert (failure.stage, failure.field, failure.reason) == ("decoding", ACTOR_START, reason)
    assert json.loads(row["request"]) == {}
    assert actor.board.calls == []


def test_a_store_gets_other_chances(waits):
    actor = started(StorageError("out of reach"), StorageError("out of reach"))
    assert actor(new_row("a", "{}"))["notes"] == "made"
    assert actor.board.calls == ["decoding", True]
    row = started(*(StorageError("out of reach") for _ in range(3)))(new_row("a", "{}"))
    assert Failure.from_json(row["failure"]).reason == "out of reach"
    assert waits == [2, 8, 2, 8]


def test_a_fault_of_ours_is_loud():
    with pytest.raises(KeyError):
        started(KeyError("a bug"))


def test_a_failed_row_passes_an_actor_that_could_not_start():
    row = new_row("a", "{}") | {"failure": "earlier"}
    assert started(ValueError("no"))(row) is row
