"""What the benchmark of the driver lays out is what a run takes for its own."""

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.driver_scale import main
from benchmarks.earlier_run import write_earlier_run, write_manifest
from pipeline.ledger import PART_ROWS
from pipeline.run import Run
from pipeline.run_spec import RunSpec
from pipeline.settings import Settings

MINI = Path(__file__).parents[2] / "checkpoints" / "mini"


def test_a_run_finds_what_the_earlier_one_has_done(tmp_path, caplog):
    """More than a part of the table holds; the rest is known by commit markers alone."""
    manifest, output, num_done = tmp_path / "manifest.jsonl", tmp_path / "out", PART_ROWS + 20
    write_manifest(manifest, num_done + 30)
    write_earlier_run(output, manifest, MINI, num_done)
    assert len(list((output / "ledger").glob("*.parquet"))) == 1
    assert len(list((output / "clips").iterdir())) == 3 * num_done
    run = Run(RunSpec(str(manifest), str(output), str(MINI), Settings()), Console(quiet=True))
    [work] = run.find_work()
    assert run.result.counts.num_skipped == num_done
    assert sum(work.counts) == run.result.counts.num_left == 30
    assert not run.result.dead_letters
    assert not caplog.records


def test_rows_are_as_long_as_real_ones(tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", 100)
    assert 600 < (tmp_path / "manifest.jsonl").stat().st_size / 100 < 900


def test_too_few_rows_are_told(capsys):
    with pytest.raises(SystemExit):
        main(["--rows", "9"])
    assert "--rows must be at least 10, got 9" in capsys.readouterr().err
