"""What Ray Data runs in every actor of a pool; imports little, since each worker process imports it anew."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from actors.row import ACTOR_START, ClipRow, Failure
from actors.stage import Stage
from actors.storage import StorageError
from model.graph_cache import CompileError

# What is wrong with a machine, a checkpoint or a setting; anything else is a fault of ours and ends the actor.
_START_ERRORS = (ValueError, OSError, RuntimeError, ImportError)
_WAITS_S = (2.0, 8.0)
"""Before another try, where a store let the start down."""


class StageActor:
    """A stage inside a Ray actor; tells the board when a clip comes and goes.

    A stage that cannot start does not end the actor, which Ray would try again and tell of in pages of tracebacks:
    every row comes back with the reason, and the driver ends the run by the first.

    Args:
        stage_class: the stage.
        arguments: of its constructor.
        board: handle of `pipeline.progress.StageBoard`.
    """

    def __init__(self, stage_class: type[Stage], arguments: Mapping[str, Any], board: Any):
        self.board, self.name = board, stage_class.name
        self.stage: Stage | None = None
        for wait_s in (*_WAITS_S, None):
            try:
                self.stage = stage_class(**arguments)
                break
            except _START_ERRORS as error:
                if isinstance(error, StorageError) and wait_s is not None:  # a store may answer the next time
                    time.sleep(wait_s)
                    continue
                kind = (
                    "" if isinstance(error, ValueError | StorageError | CompileError) else f"{type(error).__name__}: "
                )
                reason = " ".join(f"{kind}{error}".split())
                self.start_failure = Failure(self.name, ACTOR_START, None, reason).to_json()
                break

    def __call__(self, row: ClipRow) -> ClipRow:
        """Process one row."""
        if row["failure"] is not None:
            return row
        if self.stage is None:
            return {**row, "failure": self.start_failure}
        self.board.enter.remote(self.name)
        result = None
        try:
            result = self.stage(row)
            return result
        finally:
            is_healthy = result is not None and result["failure"] is None
            self.board.leave.remote(self.name, is_healthy)
