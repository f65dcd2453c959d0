import json

import pytest
import yaml

from jobs.benchmark import main
from jobs.plan import main as plan
from pipeline.costs import load_costs

SHORT = ["--seconds", "0.3", "--clips", "2", "--set", "device=cpu", "--set", "sampling.distill_steps=2"]


@pytest.mark.slow
def test_what_is_measured_is_what_the_plan_says(tiny_checkpoint, tmp_path, capsys, manifest):
    arguments = ["--checkpoint", tiny_checkpoint, "--output", str(tmp_path / "bench"), "--resolution", "256p", *SHORT]
    assert main(arguments) == 0
    url = str(tmp_path / "bench" / "costs.yaml")
    assert f"{url}: 4 figures of cpu" in capsys.readouterr().out
    raw = yaml.safe_load((tmp_path / "bench" / "costs.yaml").read_text())
    assert [figure["stage"] for figure in raw["figures"]] == ["conditioning", "base_generation", "decoding", "writing"]
    assert all(figure["source"] == "measured, 2 clips" and figure["clip_seconds"] == 0.3 for figure in raw["figures"])
    table = load_costs(url)
    assert table.figure("base_generation", "256p").passes == 2
    assert table.figure("decoding", "256p").seconds > 0.01
    rows = [{"id": f"{n}", "language": "en", "prompt": "p", "seconds": 0.3} for n in range(5)]
    more = ["--checkpoint", tiny_checkpoint, "--costs", url, "--set", "sampling.distill_steps=4", "--json"]
    assert plan(["--manifest", str(manifest(rows)), "--gpus", "0", *more]) == 0
    [lane] = json.loads(capsys.readouterr().out)["lanes"]
    planned = {pool["stage"]: pool["seconds_per_clip"] for pool in lane["pools"]}
    assert planned["decoding"] == pytest.approx(table.figure("decoding", "256p").seconds, abs=1e-3)
    assert planned["base_generation"] == pytest.approx(2 * table.figure("base_generation", "256p").seconds, abs=1e-3)
    clips = sorted(path.name for path in (tmp_path / "bench" / "clips").glob("*.mp4"))
    assert clips == [f"benchmark-256p-{n}.mp4" for n in range(3)], "one to warm up, two that count"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seconds", "99"], "--seconds 99: must be between 0.2 and 15 here"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--set", "colour=red"], "colour"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(tiny_checkpoint, tmp_path, capsys, more, message):
    assert main(["--checkpoint", tiny_checkpoint, "--output", str(tmp_path), *more]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_resolutions_are_those_of_the_checkpoint(tmp_path, capsys):
    """The small trained one has no 1080p."""
    arguments = ["--checkpoint", "checkpoints/mini", "--output", str(tmp_path), "--resolution", "1080p"]
    assert main(arguments) == 2
    assert "--resolution 1080p: must be one of" in capsys.readouterr().err
