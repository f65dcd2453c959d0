"""Tutorials are run as they are written: each block of bash, and what the block of text behind it says comes out."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.command import load_job

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "out", "__pycache__", ".*_cache", "*.egg-info")
LONGEST_S = 3000


@dataclass(frozen=True)
class Step:
    """A block of bash and lines that come out, in this order."""

    script: str
    expected: tuple[str, ...]


def steps(page):
    blocks = re.findall(r"```(\w+)[^\n]*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    found = []
    for number, (language, text) in enumerate(blocks):
        if language == "bash":
            after = blocks[number + 1] if number + 1 < len(blocks) else ("", "")
            found.append(Step(text, tuple(after[1].splitlines()) if after[0] == "text" else ()))
    return found


def commands(page):
    """Commands of the project, as words."""
    for step in steps(page):
        for line in step.script.replace("\\\n", " ").splitlines():
            written = re.search(r"\b(?:magihuman (\S+)|python -m jobs\.(\w+)) (.*?)(?: \|\| .*)?$", line)
            if written:
                yield (written[1] or written[2].replace("_", "-")), shlex.split(written[3])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_is_one_the_project_understands(page):
    found = list(commands(page))
    assert found
    for name, arguments in found:
        load_job(name).make_parser().parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_a_tutorial_links_are_there(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def _spaced(text):
    """With one space where there are several, or the end of a line: columns are as wide as what stands in them."""
    return " ".join(text.split())


@pytest.mark.soak
@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_as_it_is_written(page, cluster, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    environment = {
        **os.environ,
        "RAY_ADDRESS": cluster.address,
        "RAY_API_SERVER_ADDRESS": cluster.dashboard_url,
        "COLUMNS": "200",
    }
    for step in steps(page):
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.script],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        assert ran.returncode == 0, f"{step.script}\n{ran.stdout}"
        rest = _spaced(ran.stdout)
        for line in step.expected:
            _, found, rest = rest.partition(_spaced(line))
            assert found, f"{step.script}\n{line!r} does not come out, or not in its place:\n{ran.stdout}"
