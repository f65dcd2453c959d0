"""Four packages, one direction: jobs -> pipeline -> actors -> model. Benchmarks of networks need no Ray."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "model": {"model"},
    "benchmarks": {"benchmarks", "actors", "model"},
    "benchmarks of runs": {"benchmarks", "jobs", "pipeline", "actors", "model"},
    "actors": {"actors", "model"},
    "pipeline": {"pipeline", "actors", "model"},
    "jobs": {"jobs", "pipeline", "actors", "model"},
}
FORBIDDEN_LIBRARIES = {
    "model": {"ray", "pydantic", "av", "fsspec", "s3fs", "pyarrow"},
    "benchmarks": {"ray", "pydantic", "av", "fsspec", "s3fs", "pyarrow"},
    "actors": {"ray"},
    "pipeline": set(),
    "benchmarks of runs": set(),
    "jobs": set(),
}
OF_RUNS = ("pipeline_efficiency", "simulated_lane", "ways_to_run", "driver_scale", "earlier_run")
"""Benchmarks of the pipeline and the driver; no other may need them, since those are copied to a GPU without Ray."""
FILES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]


def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    modules = imported_modules(path)
    if package == "benchmarks" and path.stem in OF_RUNS:
        package = "benchmarks of runs"
    elif package == "benchmarks":
        assert not {module.split(".")[1] for module in modules if module.startswith("benchmarks.")} & set(OF_RUNS)
    names = {module.split(".")[0] for module in modules}
    assert not (names & set(ALLOWED)) - ALLOWED[package]
    assert not names & FORBIDDEN_LIBRARIES[package]


SETS_THE_ENVIRONMENT = Path("model/graph_cache.py")
"""For the time of compiling: PyTorch's compiler takes its folder from there alone."""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_environment_is_read_in_jobs_only(path):
    if path.relative_to(ROOT).parts[0] != "jobs" and path.relative_to(ROOT) != SETS_THE_ENVIRONMENT:
        assert not any(word in path.read_text() for word in ("os.environ", "getenv", "import environ"))


def test_every_package_is_installed():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [path.parent.relative_to(ROOT) for package in ALLOWED for path in (ROOT / package).rglob("__init__.py")]
    shipped = {".".join(path.parts) for path in found} - {"benchmarks"}
    assert set(named) == shipped
