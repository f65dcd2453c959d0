"""The image agrees with the project, with the RayJob and with the nodes of the launcher. It is not built here."""

import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def dockerfile():
    """Instruction and words of every line, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line.split()[0], shlex.split(line.partition(" ")[2])) for line in lines]


def is_in_context(path):
    """Whether .dockerignore lets a top-level entry into the image: the last pattern that fits decides."""
    kept = True
    for pattern in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if pattern and not pattern.startswith("#") and fnmatch.fnmatch(path, pattern.removeprefix("!")):
            kept = pattern.startswith("!")
    return kept


def test_pods_run_as_the_images_user():
    cluster = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text(encoding="utf-8"))["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    (user,) = [words[0] for instruction, words in dockerfile() if instruction == "USER"]
    for group in groups:
        security = group["template"]["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == int(user) != 0
    assert any("useradd" in words and user in words for instruction, words in dockerfile() if instruction == "RUN")


def test_the_image_holds_the_project_and_nothing_else(project):
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    needed = {package.split(".")[0] for package in packages}
    needed |= {"pyproject.toml", "constraints.txt", "LICENSE", project["readme"]}
    assert {path.name for path in ROOT.iterdir() if is_in_context(path.name)} == needed
    copies = [words for instruction, words in dockerfile() if instruction == "COPY"]
    for *sources, _ in copies:
        for source in sources:
            assert source == "." or (source in needed and (ROOT / source).exists())
    assert [".", "."] in copies


def test_the_image_installs_what_the_project_asks_for(project):
    """The line that lists the dependencies is run as it stands; pip would get them from the package index."""
    (step,) = [words for instruction, words in dockerfile() if instruction == "RUN" and "requirements.txt" in words]
    assert step[:2] == ["python", "-c"]
    assert step[3:5] == [">", "requirements.txt"]
    pip = step[step.index("pip") :]
    assert pip[pip.index("--constraint") + 1] == "constraints.txt"
    assert pip[pip.index("--requirement") + 1] == "requirements.txt"
    listed = subprocess.run([sys.executable, "-c", step[2]], capture_output=True, text=True, check=True, cwd=ROOT)
    wanted = [one for extra in ("gpu", "synthesis", "c2pa") for one in project["optional-dependencies"][extra]]
    assert listed.stdout.split("\n")[:-1] == [*project["dependencies"], *wanted]
    (base,) = [words for instruction, words in dockerfile() if instruction == "FROM"]
    version = tuple(int(part) for part in re.search(r"python:(\d+)\.(\d+)-", base[0]).groups())
    assert version >= tuple(int(part) for part in project["requires-python"].removeprefix(">=").split("."))


def test_files_beside_the_code_are_installed_with_it():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in setuptools["packages"]:
        patterns = setuptools["package-data"].get(package, [])
        for path in (ROOT / package.replace(".", "/")).iterdir():
            if path.is_file() and path.suffix != ".py":
                assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path


def test_image_and_launcher_bring_the_same_compilers():
    (line,) = [
        line
        for line in yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["setup_commands"]
        if " install " in line and "apt-get" in line
    ]
    apt = [words for instruction, words in dockerfile() if instruction == "RUN" and "apt-get" in words]
    for compiler in ("gcc", "g++"):
        assert compiler in line.split()
        assert compiler in apt[0]
