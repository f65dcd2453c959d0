import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.jobs.rows_of_every_kind import DECODING_CPUS, mixed_rows, write_manifest, write_references
from tests.jobs.small_recipes import write_small_recipes
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> str:
    """A tiny checkpoint, made once for all tests."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return str(folder)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """The kept recipes of the small checkpoint, much smaller."""
    folder = tmp_path_factory.mktemp("recipes")
    write_small_recipes(folder)
    return folder


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


@pytest.fixture
def manifest(tmp_path):
    """Make a manifest from rows."""
    return lambda rows, name="manifest.jsonl": write_manifest(tmp_path / name, rows)


@dataclass(frozen=True)
class MixedRun:
    """A run that ended by itself, of a manifest with rows of every kind, good and bad ones; its clips are signed.

    Attributes:
        folder: of the manifest and of what it refers to.
        output: of the run; not to be changed.
        status: the job's exit status.
        printed: its standard output.
        authority: issued what they are signed with.
    """

    folder: Path
    output: Path
    status: int
    printed: str
    authority: Authority


@pytest.fixture(scope="session")
def mixed_run(cluster, tiny_checkpoint, tmp_path_factory) -> MixedRun:
    """One for all tests: starting the actors of its two lanes takes most of the time."""
    from jobs.generate import main

    folder = tmp_path_factory.mktemp("mixed")
    write_references(folder)
    path, output, printed = write_manifest(folder / "manifest.jsonl", mixed_rows()), folder / "out", io.StringIO()
    arguments = ["--manifest", str(path), "--output", str(output), "--checkpoint", tiny_checkpoint]
    arguments += ["--set", f"pools.decoding.num_cpus={DECODING_CPUS}"]
    authority = Authority()
    credentials = authority.credentials(folder / "credentials")
    arguments += ["--set", f"provenance.certificate={credentials.certificate}"]
    arguments += ["--set", f"provenance.private_key={credentials.private_key}"]
    with redirect_stdout(printed):
        status = main([*arguments, "--address", cluster.address])
    return MixedRun(folder, output, status, printed.getvalue(), authority)
