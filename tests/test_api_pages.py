"""Pages of the API come from the docstrings, by the command that `make api` runs."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("actors", "jobs", "model", "pipeline")


@pytest.mark.slow
def test_pages_have_every_module_and_what_its_docstrings_say(tmp_path):
    (line,) = [line for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines() if "/pdoc " in line]
    command = shlex.split(line.strip().lstrip("@"))
    assert tuple(command[-4:]) == PACKAGES
    options = ["--docformat", "google", "--output-directory"]
    assert command[1:4] == options
    # One package stands for all: each takes seconds.
    made = subprocess.run(
        [sys.executable, "-m", "pdoc", *options, str(tmp_path), "model"], cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert "Warn" not in made.stderr
    for path in (ROOT / "model").rglob("*.py"):
        module = path.relative_to(ROOT).with_suffix("")
        page = tmp_path / (module.parent if module.name == "__init__" else module).with_suffix(".html")
        assert page.exists(), module
    schedule = (tmp_path / "model" / "schedule.html").read_text(encoding="utf-8")
    assert "<h6" in schedule, "sections of docstrings are headings"
    assert "Returns" in schedule
