"""Keys reach the workers, and nobody who looks at the dashboard, the logs or the results."""

import json
import os
import urllib.request
import uuid
from pathlib import Path

import ray

from actors.storage import join, write_atomically
from jobs.connection import connect, disconnect

PAGES = [
    "/api/jobs/",
    "/logical/actors",
    *(f"/api/v0/{kind}?detail=1&limit=10000" for kind in ("actors", "tasks", "workers", "runtime_envs")),
]


def page(cluster, path: str) -> str:
    token = {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    with urllib.request.urlopen(
        urllib.request.Request(cluster.dashboard_url + path, headers=token), timeout=30
    ) as answer:
        return answer.read().decode()


def test_keys_are_handed_to_workers_and_shown_nowhere(cluster, monkeypatch):
    key, secret, token = (uuid.uuid4().hex for _ in range(3))
    for name, value in (("ACCESS_KEY_ID", key), ("SECRET_ACCESS_KEY", secret), ("SESSION_TOKEN", token)):
        monkeypatch.setenv(f"AWS_{name}", value)
    connect(cluster.address)
    try:

        @ray.remote
        class Reader:
            def read(self):
                return [os.environ[f"AWS_{name}"] for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")]

        reader = Reader.options(name="reader-of-keys").remote()
        assert ray.get(reader.read.remote()) == [key, secret, token]
        shown = {path: page(cluster, path) for path in PAGES}
        logs = Path(ray._private.worker._global_node.get_logs_dir_path())
        written = {str(path): path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    finally:
        disconnect()
    assert "reader-of-keys" in shown["/api/v0/actors?detail=1&limit=10000"], "the right cluster was asked"
    assert any(b"worker" in data for data in written.values())
    for value in (key, secret, token):
        assert [path for path, text in shown.items() if value in text] == []
        assert [path for path, data in written.items() if value.encode() in data] == []


def test_what_opens_a_url_is_in_no_result(generate, tmp_path):
    """A row's own reference stays in its dead letter, which is fed back; nothing else says it."""
    url = "https://host.example/a.png?X-Amz-Signature=0f3a"
    row = {"id": "a", "prompt": "A person speaks.", "language": "en", "image": url}
    write_atomically(join(str(tmp_path), "manifest.jsonl"), json.dumps(row).encode())
    status, printed, errors = generate(tmp_path / "manifest.jsonl", tmp_path / "out")
    assert status == 3
    assert "0f3a" not in printed + errors
    (letter,) = [json.loads(line) for line in (tmp_path / "out/dead_letter.jsonl").read_text().splitlines()]
    assert letter["image"] == url
    assert letter["dead_letter"]["value"] == "https://host.example/a.png?X-Amz-Signature=***"
    for name in ("run.json", "index.html"):
        assert "0f3a" not in (tmp_path / "out" / name).read_text()
