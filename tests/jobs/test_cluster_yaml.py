import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    """The file as Ray's launcher sees it: defaults filled in, checked by Ray itself, no call to AWS."""
    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8")))
    validate_config(config)
    return config


@pytest.fixture(scope="module")
def gpu_groups(cluster):
    groups = {name: group for name, group in cluster["available_node_types"].items() if group["resources"].get("GPU")}
    assert groups
    return groups


def start_commands(cluster):
    commands = {}
    for role in ("head", "worker"):
        (commands[role],) = [line for line in cluster[f"{role}_start_ray_commands"] if "ray start" in line]
    return commands


def test_head_offers_neither_gpus_nor_cpus(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert not re.match(r"[pg]\d", head["node_config"]["InstanceType"])
    command = start_commands(cluster)["head"]
    assert "--num-cpus=0" in command
    assert "--num-gpus=0" in command
    assert "--autoscaling-config=" in command


def test_workers_declare_the_cards_the_pools_ask_for(cluster, gpu_groups):
    for group in gpu_groups.values():
        assert group["node_config"]["InstanceType"] == "p5.48xlarge"
        assert group["resources"]["GPU"] == 8
        assert group["resources"]["accelerator_type:H100"] == 1


def test_fleet_scales_from_nothing_within_its_limit(cluster):
    workers = {name: g for name, g in cluster["available_node_types"].items() if name != cluster["head_node_type"]}
    assert all(group["min_workers"] == 0 for group in workers.values())
    assert sum(group["max_workers"] for group in workers.values()) == cluster["max_workers"]
    assert cluster["available_node_types"][cluster["head_node_type"]]["max_workers"] == 0
    assert cluster["idle_timeout_minutes"] > 0


def test_no_worker_is_a_spot_instance(cluster):
    # A node that goes with no replacement stalls the run until it is planned anew.
    for group in cluster["available_node_types"].values():
        assert "InstanceMarketOptions" not in group["node_config"]


def test_every_node_may_reach_the_bucket(cluster):
    for group in cluster["available_node_types"].values():
        assert group["node_config"]["IamInstanceProfile"]["Name"]


def test_every_node_installs_the_project_from_the_copied_tree(cluster):
    for role in ("head", "worker"):
        (install,) = [line for line in cluster[f"{role}_setup_commands"] if "'.[gpu,synthesis,c2pa]'" in line]
        assert install.startswith("cd ~/magihuman-ray ")
        assert "pip install" in install
        assert "-c constraints.txt" in install
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "gpu" in project["project"]["optional-dependencies"]
    folders = {package.split(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    needed = {*folders, "pyproject.toml", "constraints.txt"}
    needed.add(project["project"]["readme"])
    mounts = cluster["file_mounts"]
    assert {mounts.get(f"~/magihuman-ray/{name}") for name in needed} == needed


def test_objects_spill_to_the_instance_store(cluster):
    (prepare,) = [line for line in cluster["setup_commands"] if "/mnt/ray-spill" in line]
    assert "/opt/dlami/nvme" in prepare
    for command in start_commands(cluster).values():
        assert "--object-spilling-directory=/mnt/ray-spill" in command
        assert "--object-store-memory=" in command


def test_workers_give_a_tenth_of_their_memory_to_objects(cluster, tmp_path):
    (expression,) = re.findall(r"--object-store-memory=\$\((.*?/proc/meminfo)\)", start_commands(cluster)["worker"])
    # 2 TiB: some awks print %d no further than 2**31 - 1.
    (tmp_path / "meminfo").write_text("MemTotal:       2147483648 kB\nMemFree:  1 kB\n")
    expression = expression.replace("/proc/meminfo", str(tmp_path / "meminfo"))
    num_bytes = int(subprocess.run(["sh", "-c", expression], capture_output=True, text=True, check=True).stdout)
    assert num_bytes == pytest.approx(2**41 / 10, rel=1e-6)


def test_every_node_asks_for_the_token_it_was_given(cluster):
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for command in start_commands(cluster).values():
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in start_commands(cluster)["head"]


def test_shell_commands_parse(cluster):
    keys = ("initialization_commands", "head_setup_commands", "worker_setup_commands")
    keys += ("head_start_ray_commands", "worker_start_ray_commands")
    for command in [line for key in keys for line in cluster[key]]:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{command}: {checked.stderr}"
