"""The parts of an ablation that need no training; a whole one is in `tests/jobs/test_small_checkpoint.py`."""

import json
from pathlib import Path

from actors.checkpoint_source import CheckpointSource
from actors.training.held_out import HeldOut
from actors.training.recipe import load_recipe
from model.sampling import GuidedSampling
from model.training.networks import on_meta
from pipeline.ablation import VARIANTS, Ablation, VariantRun, write_ablation
from tests.actors.training.test_recipe import RECIPES


def num_parameters(variant: str) -> int:
    recipe = load_recipe(str(RECIPES / "mini" / "base.yaml"), VARIANTS[variant])
    return sum(parameter.numel() for parameter in on_meta(recipe.network).parameters())


def test_the_variants_are_networks_of_their_own():
    counts = {variant: num_parameters(variant) for variant in VARIANTS}
    assert counts["without sandwich"] < counts["without gates"] < counts["as the release"] < counts["with timestep"]


def test_runs_become_a_table_and_a_plot(tmp_path):
    source = CheckpointSource(str(tmp_path), "unused")
    ablation = Ablation("r", "d", "h", source, str(tmp_path), 9, (1, 2), 4, 1, GuidedSampling(num_steps=2))
    runs = [
        VariantRun(variant, seed, 2_000_000, 0.5, ((3, 0.9), (9, 0.4)), HeldOut(4, 0.5 * seed, 0.25, 0.5, 0.75))
        for variant in VARIANTS
        for seed in (1, 2)
    ]
    write_ablation(ablation, runs)
    lines = (tmp_path / "ablation.md").read_text().splitlines()
    assert len(lines) == 2 + len(VARIANTS)
    assert lines[2].startswith("| as the release | 2.00 M | 0.50 | 0.7500 (0.5000 to 1.0000) |")
    assert Path(tmp_path, "ablation.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((tmp_path / "ablation.json").read_text())
    assert [run["variant"] for run in facts["runs"]] == [run.variant for run in runs]
