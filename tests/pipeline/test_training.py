import pytest

from actors.checkpoint_source import CheckpointSource
from actors.training.recipe import RecipeError, load_recipe
from pipeline.training import History, TrainingSpec, check_fit
from tests.actors.training.test_recipe import RECIPES


def test_muon_with_sharding_is_refused_before_data_is_read(tmp_path):
    recipe = load_recipe(str(RECIPES / "mini" / "distillation.yaml"), {"is_sharded": True})
    absent = str(tmp_path / "absent")
    spec = TrainingSpec(recipe, absent, CheckpointSource(absent, tmp_path), absent, num_workers=2)
    with pytest.raises(RecipeError, match=r"^training\.student\.method must be adamw with is_sharded, got muon$"):
        check_fit(spec)


def test_lines_are_told_in_time_however_often_states_are_saved(capsys):
    history = History("base", num_steps=30, report_every_s=5.0)
    for step in range(30):
        history.add(step + 1, {"loss": float(step), "step_s": 1.0}, is_shown=True)
        if (step + 1) % 3 == 0:
            history.close(step + 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"base {number}/30" for number in range(5, 31, 5)]
    assert lines[0] == "base 5/30: loss 3.5; 0.4 min left at this pace"
    assert [row["step"] for row in history.rows] == sorted({*range(3, 31, 3), *range(5, 31, 5)})


def test_a_row_has_means_of_steps_that_report_the_same():
    history = History("distillation", num_steps=6, report_every_s=100.0)
    for step in range(6):
        other = {"fake_loss": 10.0 * step} if step >= 4 else {}
        history.add(step + 1, {"loss": float(step), "step_s": 1.0} | other, is_shown=False)
    assert history.rows == [
        {"step": 4, "loss": 1.5, "step_s": 1.0},
        {"step": 6, "loss": 4.5, "step_s": 1.0, "fake_loss": 45.0},
    ]
