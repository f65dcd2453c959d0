"""Pools that would take every CPU of the cluster: the tasks that read the manifest need one, too."""

import json

CLIP = {"id": "a", "language": "en", "prompt": "hello", "seconds": 0.2}


def test_a_run_leaves_a_cpu_for_reading(generate, manifest, tmp_path):
    """The cluster of the tests has 16: with 14.5 pinned, half a one for each of the other three would leave none."""
    output = tmp_path / "out"
    status, _, err = generate(manifest([CLIP]), output, "--set", "pools.decoding.num_cpus=14.5")
    assert status == 0, err
    [pools] = json.loads((output / "run.json").read_text())["pools"].values()
    assert {pool["stage"]: pool["num_cpus"] for pool in pools} == {
        "conditioning": 0.16,
        "base_generation": 0.16,
        "decoding": 14.5,
        "writing": 0.16,
    }


def test_pinned_cpus_that_leave_none_are_refused(generate, manifest, tmp_path):
    status, _, err = generate(manifest([CLIP]), tmp_path / "out", "--set", "pools.decoding.num_cpus=15")
    assert status == 2
    assert "reading the manifest 1, the cluster has 16: 17 CPUs would do, or a lower pools.decoding.num_cpus" in err
