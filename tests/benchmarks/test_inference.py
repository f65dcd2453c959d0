"""The benchmark itself, with networks that take no time and without compiling; the whole of it for `-m soak`."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import inference, stages
from benchmarks.scale import SMALL
from model.graph_cache import CompileError, LocalCompileCache

TINY = replace(
    SMALL,
    full=replace(SMALL.full, num_layers=4, hidden_size=128, expert_layers=(0, 3), gelu_layers=(0,)),
    windowed=replace(
        SMALL.windowed,
        num_layers=4,
        hidden_size=128,
        expert_layers=(0, 3),
        gelu_layers=(0,),
        local_attention_layers=(1,),
    ),
    sizes=dict.fromkeys(SMALL.sizes, (64, 32)),
    seconds=0.2,
    num_repeats=3,
)


@pytest.mark.soak
def test_every_stage_has_a_row_or_a_reason(tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise CompileError("no compiler")

    monkeypatch.setattr(stages, "compile_transformer", refuse)
    monkeypatch.setattr(inference, "SMALL", TINY)
    fast, baseline = tmp_path / "fast.json", tmp_path / "baseline.json"
    assert inference.main(["--output", str(fast), "--baseline", str(baseline)]) == 0
    fast, baseline = json.loads(fast.read_text()), json.loads(baseline.read_text())
    assert fast.keys() == baseline.keys() == {"machine", "scale", "rates", "results", "skipped"}
    assert [row["stage"] for row in baseline["results"]] == ["base 64x32", *["SR 64x32"] * 2, *["video 64x32"] * 3]
    assert {row["stage"] for row in fast["results"]} == {"base 64x32", "SR 64x32", "audio", "text", "load"}
    assert {key for key, reason in fast["skipped"].items() if reason == "no compiler"} == {
        f"{stage}, {way}" for stage in ("base and SR 540p", "SR 1080p") for way in ("compiled", "compiled fp8")
    }
    for row in (*fast["results"], *baseline["results"]):
        assert row["seconds"] > 0
        if row["stage"] != "load":
            assert row["ratio_to_floor"] == pytest.approx(row["seconds"] / row["floor_s"], rel=1e-2)
    assert all(row["difference_from_baseline"] < 1e-5 for row in fast["results"] if "difference_from_baseline" in row)
    assert "times as fast as the baseline" in capsys.readouterr().out


def test_what_there_is_no_time_for_is_said(tmp_path):
    measured = stages.Stages(torch.device("cpu"), TINY, LocalCompileCache(tmp_path), limit_s=0)
    measured.measure_baseline()
    measured.measure_fast()
    assert measured.baseline.rows == measured.fast.rows == []
    assert set(measured.baseline.skipped.values()) == {"out of time"}
    assert {"audio, eager", "text, eager", "SR 1080p, compiled"} <= measured.fast.skipped.keys()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_one_line(capsys):
    assert inference.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "error: --device cuda needs a GPU that PyTorch can use, there is none\n"
