import json

import ray

from jobs.generate import _variables_to_forward, connect, main


def test_processes_are_as_many_as_the_cluster_has_cpus_not_this_machine(cluster):
    num_processes = connect(cluster.address)
    ray.shutdown()
    assert num_processes == 16, "as the fixture starts it"


def test_storage_variables_are_forwarded_once(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_PROFILE", "SECRET_OF_MINE"):
        monkeypatch.setenv(name, name.lower())
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    forwarded = _variables_to_forward()
    assert forwarded["AWS_ACCESS_KEY_ID"] == "aws_access_key_id"
    assert forwarded["AWS_ENDPOINT_URL"] == "aws_endpoint_url"
    assert not forwarded.keys() & {"AWS_PROFILE", "SECRET_OF_MINE"}, "a profile names a file other nodes do not have"
    # Ray refuses a variable that the submitted job sets as well.
    job = {"runtime_env": {"env_vars": {"AWS_ACCESS_KEY_ID": "x"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    assert "AWS_ACCESS_KEY_ID" not in _variables_to_forward()
    assert "AWS_ENDPOINT_URL" in _variables_to_forward()


def test_without_a_single_good_row_no_cluster_is_needed(tmp_path, capsys):
    (tmp_path / "m.jsonl").write_text('{"id": "a"}\n')
    arguments = ["--manifest", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "out"), "--checkpoint", "/nowhere"]
    assert main([*arguments, "--address", "127.0.0.1:1"]) == 3
    assert "0 made, 0 skipped, 1 dead-lettered" in capsys.readouterr().out
