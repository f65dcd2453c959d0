from pipeline.training import History


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
