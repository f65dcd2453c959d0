"""The documentation names what there is."""

import re
from pathlib import Path

import pytest

from actors.request import ClipRequest
from jobs import generate
from model.geometry import PIXEL_SIZES
from pipeline.settings import EncodingSettings, PoolSettings, PoolsSettings, SamplingSettings, Settings

ROOT = Path(__file__).parent.parent


def test_every_request_field_and_size_is_documented():
    text = (ROOT / "docs/manifest.md").read_text()
    for name in ClipRequest.model_fields:
        assert f"| `{name}` |" in text
    for width, height in PIXEL_SIZES.values():
        assert f"{width}x{height}" in text


def test_every_row_of_the_evaluation_is_documented():
    text = (ROOT / "docs/evaluation.md").read_text()
    for name in re.findall(r'\("([a-zA-Z -]+)", \[', (ROOT / "pipeline/evaluation_report.py").read_text()):
        assert name == "clips" or name.strip() in text, name


def test_every_setting_and_exit_status_is_documented():
    text = (ROOT / "docs/settings.md").read_text()
    sections = (Settings, SamplingSettings, EncodingSettings, PoolSettings, PoolsSettings)
    for name in {name for section in sections for name in section.model_fields}:
        assert re.search(rf"\b{name}\b", text), name
    for name, status in vars(generate).items():
        if name.startswith("EXIT_"):
            assert f"| {status} |" in text, name


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "checkpoints/mini/README.md",
        "docs/manifest.md",
        "docs/settings.md",
        "docs/operations.md",
        "docs/planning.md",
        "SECURITY.md",
        "docs/parity.md",
        "docs/performance.md",
        "docs/checkpoints.md",
        "docs/small_world.md",
        "docs/evaluation.md",
        "docs/training.md",
        "docs/localization.md",
    ],
)
def test_links_inside_the_project_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_line_of_the_failure_table_names_tests_that_there_are():
    text = (ROOT / "docs/operations.md").read_text()
    table = text.partition("| what breaks |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) > 15
    known = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for marks, name in re.findall(r"\n\n\n((?:[@ \])].*\n)*)def (test_\w+)", path.read_text()):
            known[name] = "mark.soak" in marks
    for line in table:
        named = {name: bool(soak) for name, soak in re.findall(r"`(test_\w+)[^`]*`( \(soak\))?", line)}
        files = re.findall(r"`(tests/\w+/test_\w+\.py)`", line)
        assert named or files, line
        assert named.items() <= known.items(), line
        assert all((ROOT / file).exists() for file in files), line
