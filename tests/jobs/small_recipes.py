"""The kept recipes of the small checkpoint made much smaller."""

from pathlib import Path

import yaml

from tests.actors.training.test_recipe import RECIPES, STAGES

RATES = {"num_steps": 12, "num_warmup_steps": 1, "final_share": 1.0}
NOISY_RATES = RATES | {"num_steps": 120, "learning_rate": 3e-3}
"""Of losses that depend on the drawn noise level: more of them are compared."""
TRANSFORMER = {"num_layers": 3, "hidden_size": 64, "head_dim": 16, "expert_layers": [0, 2]}
HALF = {"channels": 4, "multiples": [1, 1, 1, 2, 2]}
CHANGES = {
    "audio_codec": {
        "network": {"encoder": HALF, "decoder": HALF},
        "training": {"optimiser": RATES, "window_latents": 4, "is_compiled": False},
    },
    "video_autoencoder": {
        "encoder": {"base_dim": 4},
        "decoder": {"decoder_block_out_channels": [8, 8, 12, 16]},
        "training": {"optimiser": RATES | {"learning_rate": 2e-3}, "crop": 32, "num_frames": 5, "still_share": 0.9},
    },
    "base": {"network": TRANSFORMER, "training": {"optimiser": NOISY_RATES}},
    "super_resolution": {"network": TRANSFORMER, "training": {"optimiser": NOISY_RATES}},
    "distillation": {
        "training": {
            "student": RATES | {"learning_rate": 1e-3},
            "fake": RATES | {"learning_rate": 1e-3},
            "sampling": {"num_steps": 2},
            "num_fake_updates": 1,
            "warm_up": {"num_steps": 10, "num_substeps": 2},
        }
    },
}
"""What makes the kept recipes small: few steps, the last two of the distillation by distribution matching."""


def changed(values, changes):
    return values | {
        name: changed(values[name], change) if isinstance(change, dict) and name in values else change
        for name, change in changes.items()
    }


def write_small_recipes(folder: Path) -> None:
    """Write a recipe of every stage, and that of the whole checkpoint."""
    for stage in STAGES:
        values = yaml.safe_load((RECIPES / "mini" / f"{stage}.yaml").read_text())
        values = changed(values, CHANGES[stage] | {"batch_size": 4, "max_clips": 4, "save_every": 5})
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(values))
    values = yaml.safe_load((RECIPES / "mini" / "checkpoint.yaml").read_text())
    values["clips"] = {"num_clips": 4, "clips_per_shard": 2, "seed": 1}
    values["config"]["sampling"]["base"]["num_steps"] = 2
    (folder / "checkpoint.yaml").write_text(yaml.safe_dump(values))
