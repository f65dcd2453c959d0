import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """Load a recording of the original by file name (safetensors or JSON)."""

    def load(name: str):
        if name.endswith(".json"):
            return json.loads((GOLDEN / name).read_text())
        return load_file(GOLDEN / name)

    return load
