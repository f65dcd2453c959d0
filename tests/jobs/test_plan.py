import json

import pytest

from jobs.plan import main
from pipeline.costs import CostTable

CLIP = {"prompt": "A woman speaks", "language": "en"}


@pytest.fixture
def plan(capsys):
    """Run the job; gives (exit status, standard output, standard error)."""

    def run(manifest, *more) -> tuple[int, str, str]:
        status = main(["--manifest", str(manifest), *map(str, more)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def rows(**numbers):
    return [
        {"id": f"{label}.{number}", "resolution": label.lstrip("r"), **CLIP}
        for label, count in numbers.items()
        for number in range(count)
    ]


@pytest.mark.slow
def test_every_lane_is_told_and_all_together(plan, manifest):
    status, out, _ = plan(manifest(rows(r256p=300, r540p=200, r1080p=100)), "--gpus", 64, "--price", 2.5)
    assert status == 0
    assert "600 rows, 600 clips, 64 x H100 of 80 GB" in out
    for lane, number in (("256p", 300), ("540p", 200), ("1080p", 100)):
        assert f"lane distill/{lane}: {number} clips, all stages at once (streaming)" in out
    assert out.count("super_resolution") == 2
    assert "all, one after the other" in out
    assert all(len(line.rstrip()) <= 100 for line in out.splitlines()[1:]), "narrow enough for any terminal"


@pytest.mark.slow
def test_the_figures_follow_from_each_other(plan, manifest):
    _, out, _ = plan(manifest(rows(r1080p=1000)), "--gpus", 8, "--gpu", "h200", "--price", 3, "--json")
    forecast = json.loads(out)
    [lane] = forecast["lanes"]
    pools = {pool["stage"]: pool for pool in lane["pools"]}
    assert {stage: pool["seconds_per_clip"] for stage, pool in pools.items()} == {
        "conditioning": 0.1,
        "base_generation": 1.6,
        "super_resolution": 31.0,
        "decoding": 5.8,
        "writing": 0.2,
    }
    per_second = lane["clips_per_hour"] / 3600
    for pool in pools.values():
        assert pool["utilisation"] == pytest.approx(pool["seconds_per_clip"] * per_second / pool["size"], abs=1e-3)
    assert max(pool["utilisation"] for pool in pools.values()) > 0.9
    assert lane["wall_s"] == pytest.approx(38.7 + 999 / per_second, rel=1e-3)
    assert lane["gpu_hours"] == pytest.approx(8 * lane["wall_s"] / 3600, rel=1e-3)
    assert lane["cost"] == forecast["cost"] == pytest.approx(3 * lane["gpu_hours"], abs=0.01)
    assert pools["super_resolution"]["gpu_memory_gb"] == pytest.approx(42.2, abs=0.1), "as docs/performance.md has it"
    assert any("no figure is of H200" in note for note in forecast["notes"])


@pytest.mark.slow
def test_what_does_not_fit_together_is_planned_in_phases(plan, manifest):
    path = manifest(rows(r1080p=5))
    _, out, _ = plan(path, "--gpus", 1)
    assert "stage after stage (phased)" in out
    status, out, err = plan(path, "--gpus", 1, "--set", "gpu_memory_gb=40")
    assert (status, out) == (2, "")
    assert err.startswith("error: lane distill/1080p: pool super_resolution needs 42.2 GB of GPU memory, a GPU has 40")
    assert err.count("\n") == 1


def test_where_phases_are_much_faster_it_says_so(plan, manifest):
    _, out, _ = plan(manifest(rows(r1080p=100)), "--gpus", 3)
    assert "lane distill/1080p: execution=phased would take" in out
    _, out, _ = plan(manifest(rows(r1080p=100)), "--gpus", 3, "--gpu", "h200")
    assert "phased" not in out


def test_rows_that_would_be_dead_letters_are_counted_and_told(plan, manifest):
    bad = [{**CLIP, "id": f"bad.{n}", "language": "xx"} for n in range(7)]
    status, out, _ = plan(manifest(rows(r256p=3) + bad), "--gpus", 8)
    assert status == 3
    assert "10 rows, 3 clips" in out
    assert "7 rows would not become a clip, the first:" in out
    assert out.count('language "xx"') == 5
    assert 'line 4: language "xx": must be one of' in out
    status, out, _ = plan(manifest(bad), "--gpus", 8)
    assert status == 3
    assert "7 rows, 0 clips" in out


@pytest.mark.slow
def test_recordings_of_unknown_length_are_told(plan, manifest):
    audio = [{**CLIP, "id": f"a{n}", "audio": "a.wav"} for n in range(2)] + [
        {**CLIP, "id": "b", "audio": "a.wav", "seconds": 9}
    ]
    _, out, _ = plan(manifest(audio), "--gpus", 8)
    assert "2 clips as long as the recording: 5 s are taken" in out


def test_a_lane_is_planned_for_the_average_of_its_clips(plan, manifest):
    lengths = [{**CLIP, "id": f"{n}", "seconds": 10 if n == 0 else 5} for n in range(10)]
    [lane] = json.loads(plan(manifest(lengths), "--gpus", 8, "--json")[1])["lanes"]
    decoding = {pool["stage"]: pool["seconds_per_clip"] for pool in lane["pools"]}["decoding"]
    assert decoding == pytest.approx((9 * 0.4 + 0.8) / 10, abs=0.002)


@pytest.mark.slow
def test_mode_and_settings_count(plan, manifest):
    path = manifest(rows(r256p=10))

    def seconds(*more):
        [lane] = json.loads(plan(path, "--gpus", 8, "--json", *more)[1])["lanes"]
        return {pool["stage"]: pool["seconds_per_clip"] for pool in lane["pools"]}["base_generation"]

    assert seconds() == 1.6
    assert seconds("--mode", "base") == pytest.approx(8 * 1.6)
    assert seconds("--set", "sampling.distill_steps=4") == pytest.approx(0.8)
    _, out, _ = plan(path, "--gpus", 8, "--set", "precision=fp8")
    assert "published figures are of bf16" in out


def test_pinned_pools_are_planned_as_pinned(plan, manifest):
    path = manifest(rows(r540p=50))
    _, out, _ = plan(path, "--gpus", 8, "--json", "--set", "pools.decoding.size=2")
    assert {p["stage"]: p["size"] for p in json.loads(out)["lanes"][0]["pools"]}["decoding"] == 2
    status, _, err = plan(path, "--gpus", 8, "--set", "pools.decoding.size=9")
    assert status == 2
    assert "lane distill/540p: pools need 12 GPUs" in err


def test_measured_costs_and_a_checkpoint_of_its_own(plan, manifest, tiny_checkpoint, tmp_path):
    path, costs = manifest(rows(r256p=10)), tmp_path / "costs.yaml"
    figures = [
        {"stage": stage, "resolution": "256p", "seconds": 2.0, "passes": passes, "source": "measured"}
        for stage, passes in (("conditioning", 1), ("base_generation", 8), ("decoding", 1))
    ]
    costs.write_bytes(CostTable.model_validate({"device": "cpu", "figures": figures}).to_yaml())
    status, out, _ = plan(path, "--gpus", 0, "--checkpoint", tiny_checkpoint, "--costs", costs)
    assert status == 0
    assert "10 rows, 10 clips, no GPU" in out
    assert "on one cpu" in out
    status, _, err = plan(path, "--gpus", 8, "--costs", costs)
    assert status == 2
    assert "--gpus 8 needs figures of a GPU, these are of cpu" in err
    status, out, _ = plan(path, "--gpus", 8, "--checkpoint", tiny_checkpoint, "--json")
    needed = [pool["gpu_memory_gb"] for pool in json.loads(out)["lanes"][0]["pools"] if pool["num_gpus"]]
    assert status == 0
    assert max(needed) < 5, "a small model"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--gpus", "0"], "--gpus 0 needs figures of a CPU, these are of H100"),
        (["--gpus", "8", "--set", "colour=red"], "colour"),
        (["--gpus", "8", "--costs", "nowhere.yaml"], "nowhere.yaml"),
        (["--gpus", "8", "--checkpoint", "nowhere"], "nowhere"),
        (["--gpus", "8", "--manifest", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(plan, manifest, more, message):
    status, out, err = plan(manifest(rows(r256p=1)), *more)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("more", [["--gpus", "-1"], ["--gpus", "8", "--price", "-2"], ["--gpus", "8", "--gpu", "tpu"]])
def test_wrong_arguments_end_with_status_2(plan, manifest, more, capsys):
    with pytest.raises(SystemExit) as ended:
        plan(manifest(rows(r256p=1)), *more)
    assert ended.value.code == 2
    assert more[-1].lstrip("-") in capsys.readouterr().err
