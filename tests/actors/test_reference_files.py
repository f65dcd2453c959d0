"""Reading what rows refer to: real disks, a real server, a real store."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat

import pytest

from actors.reference_files import read_reference
from actors.references import AllowedReferences, ReferenceRefused
from actors.storage import join, write_atomically
from actors.storage_faults import Patience, StorageError


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
    monkeypatch.setattr("actors.storage_faults.PATIENCE", Patience(limit_s=0.1, first_wait_s=0.01))


def allowing(*prefixes):
    return AllowedReferences(prefixes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_bytes(b"picture")
    (tmp_path / "secret.txt").write_bytes(b"secret")
    return tmp_path / "set"


def test_a_file_is_read_up_to_its_limit(folder):
    path, allowed = str(folder / "a.png"), allowing(f"{folder}/")
    assert read_reference(path, 7, allowed) == read_reference(path, 7) == b"picture"
    for limits in ((6, allowed), (6, None)):
        with pytest.raises(ReferenceRefused, match="must be at most 6e-06 MB large"):
            read_reference(path, *limits)
    with pytest.raises(StorageError, match=r"absent\.png: not found"):
        read_reference(str(folder / "absent.png"), 7, allowed)
    with pytest.raises(ReferenceRefused, match="must lie under"):
        read_reference(str(folder.parent / "secret.txt"), 7, allowed)


def test_a_link_that_leads_out_is_not_followed(folder):
    (folder / "out.png").symlink_to(folder.parent / "secret.txt")
    (folder / "up").symlink_to(folder.parent)
    (folder / "in.png").symlink_to(folder / "a.png")
    allowed = allowing(f"{folder}/")
    for name in ("out.png", "up/secret.txt"):
        with pytest.raises(ReferenceRefused, match="is a link that leads out of the folders"):
            read_reference(str(folder / name), 100, allowed)
        assert read_reference(str(folder / name), 100) == b"secret"
    assert read_reference(str(folder / "in.png"), 100, allowed) == b"picture"
    # A folder that is itself reached by a link is the folder that was meant.
    (folder.parent / "link").symlink_to(folder)
    assert read_reference(f"{folder.parent}/link/a.png", 100, allowing(f"{folder.parent}/link/")) == b"picture"


def test_what_is_no_file_is_not_waited_for(folder):
    os.mkfifo(folder / "pipe")
    for name in ("pipe", "../set"):
        with pytest.raises(ReferenceRefused, match="must be a file"):
            read_reference(str((folder / name).resolve()), 100, allowing(f"{folder.parent}/"))
    with pytest.raises(ReferenceRefused, match="must be a file"):
        read_reference("/dev/zero", 100, allowing("/"))


@contextmanager
def serving(answers):
    """A server of its own; gives its port and the paths it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = answers[self.path.partition("?")[0]]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(ConnectionError):
                for block in body if isinstance(body, Iterator) else [body]:
                    self.wfile.write(block)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_web_server_is_read_and_not_believed():
    with serving({"/secret": (200, {}, b"secret")}) as (private_port, private_asked):
        private = f"http://127.0.0.1:{private_port}/secret"
        answers = {
            "/a.png": (200, {"Content-Length": "7"}, b"picture"),
            "/no-length.png": (200, {}, b"picture"),
            "/moved.png": (302, {"Location": "/a.png"}, b""),
            "/out.png": (302, {"Location": private}, b""),
            "/file.png": (301, {"Location": "file:///etc/passwd"}, b""),
            "/round.png": (302, {"Location": "/round.png"}, b""),
            "/large.png": (200, {"Content-Length": "1000000000"}, b""),
            "/lying.png": (200, {}, bytes(5000)),
            "/endless.png": (200, {}, map(bytes, repeat(2**20, 1000))),
            "/short.png": (200, {"Content-Length": "9"}, b"picture"),
            "/absent.png": (404, {}, b""),
            "/busy.png": (503, {}, b""),
        }
        with serving(answers) as (port, asked):
            root = f"http://127.0.0.1:{port}/"
            allowed = allowing(root)

            def read(name):
                return read_reference(root + name, 1000, allowed)

            for name in ("a.png", "no-length.png", "moved.png", "a.png?X-Amz-Signature=1%2F2"):
                assert read(name) == b"picture"
            assert asked[-1] == "/a.png?X-Amz-Signature=1%2F2"
            for name in ("out.png", "file.png"):
                with pytest.raises(ReferenceRefused, match=r"is sent on to .*, which must lie under"):
                    read(name)
            for name in ("large.png", "lying.png", "endless.png"):
                with pytest.raises(ReferenceRefused, match=r"must be at most 0\.001 MB large"):
                    read(name)
            for name, reason in (
                ("round.png", "it is sent on more than 5 times"),
                ("short.png", "its server stops 2 bytes before the end"),
                ("absent.png", r"not found \(the server answers with status 404\)"),
                ("busy.png", r"the store is out of reach after \d tries .*\(the server answers with status 503\)"),
            ):
                with pytest.raises(StorageError, match=reason):
                    read(name)
            assert sum(1 for _ in answers["/endless.png"][2]) > 500, "it was not read to its end"
            num_asked = len(asked)
            # A name says nothing of where it leads: this one leads to this machine.
            with pytest.raises(ReferenceRefused, match=r"leads to (127\.0\.0\.1|::1), which is no public address"):
                read_reference(f"http://localhost:{port}/a.png", 1000, allowing(f"http://localhost:{port}/"))
            assert len(asked) == num_asked
        assert private_asked == []
    with pytest.raises(StorageError, match=r"cannot read http://127\.0\.0\.1:\d+/a\.png: .*refused"):
        read_reference(root + "a.png", 1000, allowed)


def test_a_signature_is_in_no_message():
    with serving({"/a.png": (403, {}, b"")}) as (port, _):
        root = f"http://127.0.0.1:{port}/"
        with pytest.raises(StorageError, match=r"a\.png\?X-Amz-Signature=\*\*\*: ") as caught:
            read_reference(f"{root}a.png?X-Amz-Signature=0f3a", 1000, allowing(root))
        assert "0f3a" not in str(caught.value)


def test_an_object_is_read_up_to_its_limit(s3_bucket):
    url = join(s3_bucket, "in/a.png")
    write_atomically(url, b"picture")
    allowed = allowing(f"{s3_bucket}/")
    assert read_reference(url, 7, allowed) == b"picture"
    with pytest.raises(ReferenceRefused, match="must be at most"):
        read_reference(url, 6, allowed)
    with pytest.raises(ReferenceRefused, match="must lie under"):
        read_reference("s3://another/in/a.png", 7, allowed)
    with pytest.raises(StorageError, match="absent"):
        read_reference(join(s3_bucket, "in/absent.png"), 7, allowed)


def test_memory_of_a_chain_is_read_only_where_the_chain_is_named(folder):
    write_atomically("memory://bucket/a.png", b"picture")
    chained = "simplecache::memory://bucket/a.png"
    with pytest.raises(ReferenceRefused):
        read_reference(chained, 100, allowing("memory://bucket/"))
    assert read_reference(chained, 100, allowing("simplecache::memory://bucket/")) == b"picture"
    assert io.BytesIO(read_reference("memory://bucket/a.png", 100)).read() == b"picture"
