"""A proxy in front of an S3 server that fails as stores do: for a fraction of the calls, in ways one can choose."""

from __future__ import annotations

import http.client
import random
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_ANSWERS = {
    "internal_error": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
    "expired_token": (400, "ExpiredToken"),
    "access_denied": (403, "AccessDenied"),
    "quota_exceeded": (403, "QuotaExceeded"),
}
PASSING_FAULTS = ("internal_error", "slow_down", "reset", "lost_answer", "cut_body", "hang")
FAULTS = (*PASSING_FAULTS, *(name for name in _ANSWERS if name not in PASSING_FAULTS))
"""What can happen to a call: an error answer; `reset`, closed without an answer before the store heard of it;
`lost_answer`, the same after the store did what was asked; `cut_body`, closed in the middle of the answer; `hang`, no
answer for longer than the client waits."""


class FaultyStore:
    """The proxy; answers from its making until `close`, also used in a `with`.

    Args:
        upstream: URL of the S3 server.
        fraction: share of the calls that fail, 0 to 1.
        faults: what may happen to them, drawn evenly; of `FAULTS`.
        hang_s: how long a `hang` takes; more than the client's read time-out.
        seed: of what is drawn.

    Attributes:
        endpoint: URL of the proxy.
        fraction: see above; may be set at any time, as `faults` may.
        script: what happens to the next calls, one after the other, before anything is drawn: faults, or `passed`.
        expired_keys: access keys whose calls, and all of them, meet an `expired_token`.
        counts: calls by what happened to them: a fault, or `passed`.
    """

    def __init__(
        self,
        upstream: str,
        fraction: float = 0.0,
        faults: Iterable[str] = PASSING_FAULTS,
        hang_s: float = 3.0,
        seed: int = 0,
    ):
        self.fraction, self.faults = fraction, tuple(faults)
        self.script: deque[str] = deque()
        self.expired_keys: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._upstream, self._hang_s = urlsplit(upstream).netloc, hang_s
        self._random, self._lock, self._closed = random.Random(seed), threading.Lock(), threading.Event()
        store = self

        class Handler(_Handler):
            def act(self) -> None:
                store._serve(self)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def __enter__(self) -> FaultyStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more, nor keep anybody waiting."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _draw(self, authorization: str) -> str:
        with self._lock:
            fault = "passed"
            if self.script:
                fault = self.script.popleft()
            elif self._random.random() < self.fraction:
                fault = self._random.choice(self.faults)
            if any(f"Credential={key}/" in authorization for key in self.expired_keys):
                fault = "expired_token"
            self.counts[fault] += 1
            return fault

    def _serve(self, call: _Handler) -> None:
        if self._closed.is_set():
            call.close_connection = True
            return
        fault = self._draw(call.headers.get("Authorization", ""))
        if fault == "hang":
            self._closed.wait(self._hang_s)
            call.close_connection = True
            return
        if call.headers.get("Expect", "").lower() == "100-continue":
            call.send_response_only(100)
            call.end_headers()
        body = call.rfile.read(int(call.headers.get("Content-Length", 0)))
        if fault == "reset":
            call.close_connection = True
        elif fault in _ANSWERS:
            call.answer_error(*_ANSWERS[fault])
        else:
            status, headers, answer = self._forward(call, body)
            if fault == "lost_answer":
                call.close_connection = True
            else:
                call.answer(status, headers, answer, is_cut=fault == "cut_body")

    def _forward(self, call: _Handler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            headers = {name: value for name, value in call.headers.items() if name.lower() != "expect"}
            connection.request(call.command, call.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # who waits no longer goes away, which is no news
            super().handle_error(*_)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def act(self) -> None:
        raise NotImplementedError

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = lambda self: self.act()

    def handle_expect_100(self) -> bool:
        return True  # `act` asks for the content, or does not

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, is_cut: bool = False) -> None:
        """Send it; of a cut answer half the body, or none of an empty one's head."""
        if is_cut and not body:
            self.close_connection = True
            return
        self.send_response_only(status)
        for name, value in headers:
            # The length stays as the store gave it, for the answer to a HEAD has one without a body.
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_cut else body)
        self.wfile.flush()
        self.close_connection = self.close_connection or is_cut

    def answer_error(self, status: int, code: str) -> None:
        """Send an error as S3 does: XML, and nothing but the status to a HEAD."""
        xml = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>a fault on purpose</Message>'
        body = b"" if self.command == "HEAD" else (xml + "</Error>").encode()
        self.answer(status, [("Content-Type", "application/xml")], body)
