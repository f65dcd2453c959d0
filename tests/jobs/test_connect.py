import json
import subprocess
import sys

from jobs.connection import _variables_to_forward, connect, disconnect
from jobs.generate import main


def test_processes_are_as_many_as_the_cluster_has_cpus_not_this_machine(cluster):
    num_processes = connect(cluster.address)
    disconnect()
    assert num_processes == 16, "as the fixture starts it"


BUSY = """
import sys, threading, time
import ray
from jobs.connection import connect, disconnect

def allocate():
    while True:
        cycle = []
        cycle.append(cycle)
        time.sleep(0)

threading.Thread(target=allocate, daemon=True).start()
for _ in range(4):
    connect(sys.argv[1])
    for number in range(300):
        cycle = [ray.put(number)]
        cycle.append(cycle)
    disconnect()
print("alive")
"""


def test_a_process_whose_other_threads_are_busy_outlives_its_disconnecting(cluster):
    """With `ray.shutdown` alone it ended in the first or second round: Ray exits where another thread collects."""
    done = subprocess.run([sys.executable, "-c", BUSY, cluster.address], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


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
