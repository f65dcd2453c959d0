import json
from pathlib import Path

import pytest

from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> str:
    """A tiny checkpoint, made once for all tests."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return str(folder)


@pytest.fixture
def generate(cluster, tiny_checkpoint, capsys):
    """Run the job in this process on the shared cluster; gives (exit status, standard output, standard error)."""
    from jobs.generate import main

    def run(manifest, output, *more: str) -> tuple[int, str, str]:
        checkpoint = [] if "--checkpoint" in more else ["--checkpoint", tiny_checkpoint]
        arguments = ["--manifest", str(manifest), "--output", str(output), *checkpoint, "--address", cluster.address]
        status = main([*arguments, *more])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def write_manifest(path: Path, rows) -> Path:
    """Write rows as JSONL; bytes and text are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def manifest(tmp_path):
    """Make a manifest from rows."""
    return lambda rows, name="manifest.jsonl": write_manifest(tmp_path / name, rows)
