"""Pools that would take every CPU of the cluster."""

import json

from tests.jobs.rows_of_every_kind import DECODING_CPUS

CLIP = {"id": "a", "language": "en", "prompt": "hello", "seconds": 0.2}


def test_a_run_leaves_a_cpu(mixed_run):
    pools = json.loads((mixed_run.output / "run.json").read_text())["pools"]["distill/256p"]
    assert {pool["stage"]: pool["num_cpus"] for pool in pools} == {
        "conditioning": 0.16,
        "base_generation": 0.16,
        "decoding": DECODING_CPUS,
        "writing": 0.16,
    }


def test_pinned_cpus_that_leave_none_are_refused(generate, manifest, tmp_path):
    status, _, err = generate(manifest([CLIP]), tmp_path / "out", "--set", "pools.decoding.num_cpus=15")
    assert status == 2
    assert "1 stays free, the cluster has 16: 17 CPUs would do, or a lower pools.decoding.num_cpus" in err
