"""What Ray Data runs in every actor of a pool; imports little, since each worker process imports it anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.row import ClipRow
from actors.stage import Stage


class StageActor:
    """A stage inside a Ray actor; tells the board when a clip comes and goes.

    Args:
        stage_class: the stage.
        arguments: of its constructor.
        board: handle of `pipeline.progress.StageBoard`.
    """

    def __init__(self, stage_class: type[Stage], arguments: Mapping[str, Any], board: Any):
        self.board = board
        self.stage = stage_class(**arguments)

    def __call__(self, row: ClipRow) -> ClipRow:
        """Process one row."""
        if row["failure"] is not None:
            return row
        name = self.stage.name
        self.board.enter.remote(name)
        result = None
        try:
            result = self.stage(row)
            return result
        finally:
            is_healthy = result is not None and result["failure"] is None
            self.board.leave.remote(name, is_healthy)
