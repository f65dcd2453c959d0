import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.tiny_checkpoint import write_tiny_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """Load a recording of the original by file name (safetensors or JSON)."""

    def load(name: str):
        if name.endswith(".json"):
            return json.loads((GOLDEN / name).read_text())
        return load_file(GOLDEN / name)

    return load


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny checkpoint; tests that change it take `copy`."""
    target = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(target, seed=0)
    return target


@pytest.fixture
def copy(folder, tmp_path):
    """A tiny checkpoint of a test's own."""
    return shutil.copytree(folder, tmp_path / "copy")
