"""Reading the files that rows refer to: only what is allowed, and no more of it than fits."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import stat
import time
from urllib.parse import urljoin, urlsplit

from fsspec.implementations.local import LocalFileSystem

from actors.redaction import redact
from actors.references import AllowedReferences, ReferenceRefused, canonical
from actors.storage import open_filesystem
from actors.storage_faults import naming_the_url, persist

_MAX_REDIRECTS = 5
_SILENCE_S = 30.0
_WHOLE_S = 600.0
_BLOCK_BYTES = 2**20
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 429, 500, 502, 503, 504)
_FINAL = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError, 410: FileNotFoundError}


def read_reference(url: str, max_bytes: int, allowed: AllowedReferences | None = None) -> bytes:
    """The whole content of one file.

    Args:
        url: absolute path or URL.
        max_bytes: of the file; of a larger one little more than this is read, whatever its server says.
        allowed: where it may lie, also behind links and redirections; None: anywhere that fsspec reaches.

    Raises:
        ReferenceRefused: it lies elsewhere, is larger, or no file.
        StorageError: it is missing, forbidden or out of reach.
    """
    if allowed is not None:
        url = canonical(url)
        _require_allowed(allowed.refusal(url))
    shown = redact(url)
    with naming_the_url("read", shown):
        fs, path = open_filesystem(url)

    def read() -> bytes:
        if allowed is not None and url.startswith(("http://", "https://")):
            return _download(url, max_bytes, allowed)
        if isinstance(fs, LocalFileSystem):
            return _read_local(path, max_bytes, allowed)
        return fs.cat_file(path, start=0, end=max_bytes + 1)  # one request, and never more than that

    data = persist("read", shown, fs, read)
    if len(data) > max_bytes:
        raise _too_large(max_bytes)
    return data


def _read_local(path: str, max_bytes: int, allowed: AllowedReferences | None) -> bytes:
    true_path = os.path.realpath(path)
    if allowed is not None and true_path != path:
        folders = [os.path.realpath(prefix).rstrip("/") + "/" for prefix in allowed.prefixes if prefix.startswith("/")]
        if not true_path.startswith(tuple(folders)):
            raise ReferenceRefused("is a link that leads out of the folders of setting allowed_references")
    # A pipe would be waited for; a link that was put here a moment ago is not followed.
    descriptor = os.open(true_path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ReferenceRefused("must be a file")
        if facts.st_size > max_bytes:
            raise _too_large(max_bytes)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes + 1)
    finally:
        os.close(descriptor)


def _download(url: str, max_bytes: int, allowed: AllowedReferences) -> bytes:
    """GET, over connections of our own: whoever looks a name up twice can be given two answers."""
    for _ in range(_MAX_REDIRECTS + 1):
        connection = _connect(url, allowed)
        try:
            parts = urlsplit(url)
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "magihuman-ray"})
            response = connection.getresponse()
            location = response.getheader("Location")
            if response.status in _REDIRECTS and location:
                url = canonical(urljoin(url, location))
                _require_allowed(allowed.refusal(url), f"is sent on to {redact(url)[:200]}, which ")
                continue
            if response.status != http.client.OK:
                kind = ConnectionError if response.status in _PASSING else _FINAL.get(response.status, OSError)
                raise kind(f"the server answers with status {response.status}")
            return _receive(response, max_bytes)
        except http.client.HTTPException as error:
            raise OSError(f"the server's answer is no HTTP ({type(error).__name__})") from error
        finally:
            connection.close()
    raise OSError(f"it is sent on more than {_MAX_REDIRECTS} times")


def _receive(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    if response.length is not None and response.length > max_bytes:
        raise _too_large(max_bytes)
    end, blocks, num_bytes = time.monotonic() + _WHOLE_S, [], 0
    while num_bytes <= max_bytes and (block := response.read1(_BLOCK_BYTES)):
        blocks.append(block)
        num_bytes += len(block)
        if time.monotonic() > end:
            raise OSError(f"its server takes longer than {_WHOLE_S:g} s")
    if response.length:
        raise ConnectionError(f"its server stops {response.length:,} bytes before the end")
    return b"".join(blocks)


def _connect(url: str, allowed: AllowedReferences) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    host, is_secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)
    addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in addresses:
        _require_allowed(allowed.address_refusal(address))
    connection: http.client.HTTPConnection
    if is_secure:
        connection = http.client.HTTPSConnection(host, port, timeout=_SILENCE_S)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_SILENCE_S)
    connection.auto_open = 0
    connection.sock = _first_that_answers(addresses, port)
    if is_secure:
        connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
    return connection


def _first_that_answers(addresses: list[str], port: int) -> socket.socket:
    problem = OSError("its host has no address")
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=_SILENCE_S)
        except OSError as error:
            problem = error
    raise problem


def _require_allowed(reason: str | None, about: str = "") -> None:
    if reason is not None:
        raise ReferenceRefused(about + reason)


def _too_large(max_bytes: int) -> ReferenceRefused:
    return ReferenceRefused(f"must be at most {max_bytes / 1e6:g} MB large")
