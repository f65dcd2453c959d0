"""The demo's manifest with the small trained checkpoint: the words and looks that were asked for."""

import json
from pathlib import Path

import pytest

from jobs.evaluate import main

pytestmark = pytest.mark.usefixtures("espeak")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_clip_of_the_demo_says_its_word_and_wears_its_colours(generate, tmp_path):
    manifest, checkpoint = ROOT / "examples/demo.jsonl", str(ROOT / "checkpoints/mini")
    status, printed, errors = generate(manifest, tmp_path / "out", "--checkpoint", checkpoint)
    assert status == 0, errors
    assert "7 made, 0 skipped, 0 dead-lettered" in printed
    assert main(["--output", str(tmp_path / "out"), "--num-workers", "1"]) == 0
    total = json.loads((tmp_path / "out/evaluation/figures.json").read_text())["figures"]["all"]
    assert total["num_clips"] == 7
    assert total["word_accuracy"] == total["language_accuracy"] == 1
    assert total["colours_right"]["all"] == total["image_colours_right"]["all"] == 1
    assert total["video_length_right"] == total["audio_length_right"] == 1
