"""What Ray Data runs in every actor of a pool; imports little, since each worker process imports it anew."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import torch

from actors.row import ACTOR_START, ClipRow, Failure
from actors.stage import Stage
from actors.storage import StorageError
from model.graph_cache import CompileError
from pipeline.board import OUT_OF_MEMORY, StageBoard
from pipeline.clip_logging import at_work, make_logs_tell_of_clips
from pipeline.gate import Gate

logger = logging.getLogger(__name__)

# What is wrong with a machine, a checkpoint or a setting; anything else is a fault of ours and ends the actor.
_START_ERRORS = (ValueError, OSError, RuntimeError, ImportError)
_BEFORE_ANOTHER_START_S = 30.0


class StageActor:
    """A stage inside a Ray actor; tells the board when a clip comes and goes.

    A stage that cannot start does not end the actor, which Ray would try again and tell of in pages of tracebacks:
    the board and every row get the reason, and the driver ends the run by the first. Where other actors of the stage
    have started, this machine is at fault: the process waits and ends, and Ray starts it anew where there is room.
    A process whose GPU is in a broken state ends at once, and its clips are tried again.

    A clip whose worker died, by whatever cause, comes back by Ray's doing. It is processed alone from then on, so that
    it takes no other clip with it, and not any more when `max_attempts` workers have died. A clip that finds no
    memory on the GPU is tried once more, alone.

    Args:
        stage_class: the stage.
        arguments: of its constructor.
        board: where to report.
        max_attempts: how often a clip's processing is begun in one stage.
    """

    def __init__(self, stage_class: type[Stage], arguments: Mapping[str, Any], board: StageBoard, max_attempts: int):
        self.board, self.name, self.max_attempts = board, stage_class.name, max_attempts
        self.gate = Gate()
        self.stage: Stage | None = None
        self.start_failure: str | None = None
        began = time.perf_counter()
        make_logs_tell_of_clips()
        try:
            with at_work(self.name):
                self.stage = stage_class(**arguments)
        except _START_ERRORS as error:
            kind = "" if isinstance(error, ValueError | StorageError | CompileError) else f"{type(error).__name__}: "
            self.start_failure = " ".join(f"{kind}{error}".split())
        make_logs_tell_of_clips()  # of libraries that loading has imported, too
        self.is_started_elsewhere = board.report_start(self.name, self.start_failure, time.perf_counter() - began)

    def __call__(self, row: ClipRow) -> ClipRow:
        """Process one row."""
        if row["failure"] is not None:
            return row
        with at_work(self.name, row["id"]):
            return self._pass(row)

    def _pass(self, row: ClipRow) -> ClipRow:
        if self.stage is None:
            if self.is_started_elsewhere:
                time.sleep(_BEFORE_ANOTHER_START_S)
                _end_this_process(f"{self.name} cannot start here: {self.start_failure}")
            return self._failed(row, self.start_failure or "", ACTOR_START)
        num_died = self.board.enter(self.name, row["id"])
        started, result = time.perf_counter(), None
        try:
            result = self._give_up(row, num_died) if num_died >= self.max_attempts else self._process(row, num_died)
            return result
        finally:
            is_healthy = result is not None and result["failure"] is None
            # 0 where there is no GPU.
            peak_bytes = torch.cuda.max_memory_allocated()
            self.board.leave(self.name, row["id"], is_healthy, time.perf_counter() - started, peak_bytes)

    def _process(self, row: ClipRow, num_died: int) -> ClipRow:
        if not num_died:
            with self.gate.shared():
                self.board.begin(self.name, row["id"])
                try:
                    return self._run(row)
                except torch.OutOfMemoryError:
                    self.board.retry(self.name, OUT_OF_MEMORY)  # others may hold what this one lacks
        with self.gate.alone():
            if num_died:
                self.board.begin(self.name, row["id"])
            elif torch.cuda.is_available():
                torch.cuda.empty_cache()
            try:
                return self._run(row)
            except torch.OutOfMemoryError as error:
                reason = " ".join(str(error).split())
                return self._failed(row, f"does not fit the GPU's memory, even alone: {reason}")

    def _run(self, row: ClipRow) -> ClipRow:
        assert self.stage is not None
        try:
            return self.stage(row)
        except torch.OutOfMemoryError:
            raise
        except torch.AcceleratorError as error:
            _end_this_process(f"{row['id']} in {self.name}: the GPU is in a broken state: {error}")

    def _give_up(self, row: ClipRow, num_died: int) -> ClipRow:
        return self._failed(row, f"its worker process died {num_died} times while at work on it")

    def _failed(self, row: ClipRow, reason: str, field: str = "") -> ClipRow:
        return {**row, "payload": b"", "failure": Failure(self.name, field, None, reason).to_json()}


def _end_this_process(reason: str) -> NoReturn:
    logger.error("%s; this process ends, Ray starts it anew", reason)
    logging.shutdown()
    os._exit(1)
