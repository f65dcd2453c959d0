"""Clips that wait for the same network, put through it together."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from actors.turns import WaitedSeconds

_POLL_S = 0.02

Clip = TypeVar("Clip")
Result = TypeVar("Result")


@dataclass
class _Waiting(Generic[Clip, Result]):
    clip: Clip
    num_tokens: int
    result: Future[Result] = field(default_factory=Future)
    own_s: float = 0.0


class ClipPacker(Generic[Clip, Result]):
    """Runs one batch at a time; whoever's turn it is takes those along that came meanwhile, in their order.

    Args:
        run: computes a batch, one result per clip.
        max_tokens: of a batch of several clips; 0 runs every clip alone.
        waited: gets all seconds of a call but the clip's own. Of a batch, a clip's own are in proportion to its tokens.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Clip]], Sequence[Result]],
        max_tokens: int,
        waited: WaitedSeconds | None = None,
    ):
        self._run, self._max_tokens, self._waited = run, max_tokens, waited or WaitedSeconds()
        self._computing, self._changing = threading.Lock(), threading.Lock()
        self._waiting: list[_Waiting[Clip, Result]] = []

    def __call__(self, clip: Clip, num_tokens: int) -> Result:
        """Compute one clip, possibly with others; may be called from several threads at once.

        Args:
            clip: what `run` takes.
            num_tokens: its share of a batch; at least 1.

        Raises:
            Exception: what `run` raised for this clip alone.
        """
        began = time.perf_counter()
        own: _Waiting[Clip, Result] = _Waiting(clip, num_tokens)
        with self._changing:
            self._waiting.append(own)
        while not own.result.done():  # not a plain wait for the lock: others may take it again and again
            if not self._computing.acquire(timeout=_POLL_S):
                continue
            try:
                if not own.result.done():
                    self._compute(self._next_batch())
            finally:
                self._computing.release()
        self._waited.total += time.perf_counter() - began - own.own_s
        return own.result.result()

    def _next_batch(self) -> list[_Waiting[Clip, Result]]:
        with self._changing:
            batch = [self._waiting.pop(0)]
            num_tokens = batch[0].num_tokens
            while self._waiting and num_tokens + self._waiting[0].num_tokens <= self._max_tokens:
                batch.append(self._waiting.pop(0))
                num_tokens += batch[-1].num_tokens
            return batch

    def _compute(self, batch: list[_Waiting[Clip, Result]]) -> None:
        failure: BaseException | None = None
        began = time.perf_counter()
        try:
            results = list(self._run([waiting.clip for waiting in batch]))
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results came of {len(batch)} clips")
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # else what it computed so far stays in memory
            failure = error
        seconds_per_token = (time.perf_counter() - began) / sum(waiting.num_tokens for waiting in batch)
        for waiting in batch:
            waiting.own_s += seconds_per_token * waiting.num_tokens
        if failure is None:
            for waiting, result in zip(batch, results, strict=True):
                waiting.result.set_result(result)
        elif isinstance(failure, Exception) and len(batch) > 1:
            for waiting in batch:  # the fault is one clip's, or that of all of them together
                self._compute([waiting])
        else:
            for waiting in batch:
                waiting.result.set_exception(failure)
