"""Log records that say which clip they are about, whoever writes them: a stage, or a library on its behalf."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

# Of the thread: two clips may be in one process at once.
_at_work: ContextVar[tuple[str, str]] = ContextVar("at_work", default=("", ""))

_PLAIN_FORMAT = "%(levelname)s %(stage)s %(clip_id)s %(name)s: %(message)s"


@contextmanager
def at_work(stage: str, clip_id: str = "") -> Iterator[None]:
    """Records of this thread have the attributes `stage` and `clip_id` for as long as this lasts."""
    token = _at_work.set((stage, clip_id))
    try:
        yield
    finally:
        _at_work.reset(token)


def make_logs_tell_of_clips() -> None:
    """Let every handler of this process know stage and clip; may be called again.

    Where Ray has set up JSON lines for the job, which hold all attributes of a record, they hold these two as well.
    Elsewhere lines are plain. Libraries that print by handlers of their own give them up, and warnings are logged.
    """
    root = logging.getLogger()
    if not root.handlers:
        plain = logging.StreamHandler()
        plain.setLevel(logging.WARNING)
        plain.setFormatter(logging.Formatter(_PLAIN_FORMAT))
        root.addHandler(plain)
    logging.captureWarnings(True)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and not logger.propagate and name.split(".")[0] != "ray":
            _give_up_printing(logger)
    for handler in root.handlers:
        handler.addFilter(_add_clip)


def _give_up_printing(logger: logging.Logger) -> None:
    # Those of subclasses write elsewhere, as PyTorch's traces do.
    for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
        logger.removeHandler(handler)
        logger.propagate = True


def _add_clip(record: logging.LogRecord) -> bool:
    record.stage, record.clip_id = _at_work.get()
    return True
