"""The files of a deployment on Kubernetes agree with their schemas, with Ray, with each other and with the project.

KubeRay's own schemas come in no Python package: Ray's autoscaler reads the RayJob instead, as it does in a cluster, and
field names are held against a list. Nothing here reaches a cluster.
"""

import json
import os
import re
import shlex
import subprocess
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.scripts.scripts import start as ray_start

from jobs import generate, synthesize
from pipeline.settings import load_settings
from pipeline.supervision import RELEASE_S

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.37"
MANIFESTS = ("service-account.yaml", "rayjob.yaml", "cronjob.yaml")

FIELDS = {
    "RayJob": "entrypoint submissionMode backoffLimit shutdownAfterJobFinishes ttlSecondsAfterFinished "
    "activeDeadlineSeconds rayClusterSpec",
    "RayCluster": "rayVersion authOptions enableInTreeAutoscaling autoscalerOptions headGroupSpec workerGroupSpecs",
    "autoscaler": "idleTimeoutSeconds resources",
    "head": "rayStartParams template",
    "worker": "groupName replicas minReplicas maxReplicas resources rayStartParams template",
}
"""Of KubeRay, as far as they are used here; a field that is not known to Kubernetes is dropped without a word."""


def documents(name):
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def rayjob():
    (job,) = documents("rayjob.yaml")
    return job


@pytest.fixture(scope="module")
def ray_cluster(rayjob):
    return rayjob["spec"]["rayClusterSpec"]


@pytest.fixture(scope="module")
def pod_templates(ray_cluster):
    groups = {"head": ray_cluster["headGroupSpec"]}
    groups |= {group["groupName"]: group for group in ray_cluster["workerGroupSpecs"]}
    return {name: group["template"] for name, group in groups.items()}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def cron_job():
    (job,) = [item for item in documents("cronjob.yaml") if item["kind"] == "CronJob"]
    return job


@pytest.mark.parametrize("name", ["service-account.yaml", "cronjob.yaml"])
def test_kubernetes_own_kinds_follow_their_schemas(name):
    for item in documents(name):
        kubernetes_validate.validate(item, KUBERNETES, strict=True)


def test_pods_of_the_ray_cluster_follow_their_schema(pod_templates):
    assert set(pod_templates) == {"head", "h100"}
    for template in pod_templates.values():
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **template}, KUBERNETES, strict=True)


def test_no_field_of_the_rayjob_is_unknown(rayjob, ray_cluster):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    parts = [
        ("RayJob", rayjob["spec"]),
        ("RayCluster", ray_cluster),
        ("autoscaler", ray_cluster["autoscalerOptions"]),
        ("head", ray_cluster["headGroupSpec"]),
        *(("worker", group) for group in ray_cluster["workerGroupSpecs"]),
    ]
    for kind, part in parts:
        assert set(part) <= set(FIELDS[kind].split()), kind
    known = {option.lstrip("-") for parameter in ray_start.params for option in parameter.opts}
    for group in (ray_cluster["headGroupSpec"], *ray_cluster["workerGroupSpecs"]):
        assert set(group["rayStartParams"]) <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_rays_autoscaler_sees_a_head_without_work_and_h100_nodes(rayjob, ray_cluster):
    resource = {"metadata": {"name": "magihuman", "namespace": rayjob["metadata"]["namespace"]}, "spec": ray_cluster}
    seen = _derive_autoscaling_config_from_ray_cr(resource)
    head, workers = (seen["available_node_types"][name] for name in ("headgroup", "h100"))
    assert (head["resources"]["CPU"], head["resources"].get("GPU", 0)) == (0, 0)
    assert workers["resources"]["GPU"] == 8
    assert workers["resources"]["accelerator_type:H100"] == 1
    assert (workers["min_workers"], workers["max_workers"]) == (0, 8)
    assert seen["idle_timeout_minutes"] == 10


def test_what_ray_is_told_of_a_node_is_what_its_pod_has(pod_templates, ray_cluster):
    for group, template in zip(ray_cluster["workerGroupSpecs"], list(pod_templates.values())[1:], strict=True):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
        objects = int(group["rayStartParams"]["object-store-memory"])
        assert objects / memory == pytest.approx(0.1, rel=0.1)
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert any(group["rayStartParams"]["object-spilling-directory"].startswith(f"{path}/") for path in mounts)


def test_entrypoint_is_a_command_this_project_understands(rayjob, ray_cluster, pod_templates):
    command = shlex.split(rayjob["spec"]["entrypoint"])
    assert command[:3] == ["python", "-m", "jobs.generate"]
    options = generate.make_parser().parse_args(command[3:])
    settings = load_settings(options.settings, options.overrides)
    gpus = [
        group["maxReplicas"] * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group in ray_cluster["workerGroupSpecs"]
    ]
    assert settings.num_gpus == sum(gpus) == 64
    for group in ray_cluster["workerGroupSpecs"]:
        assert group["resources"] == {f"accelerator_type:{settings.accelerator_type}": "1"}
    mounts = pod_templates["h100"]["spec"]["containers"][0]["volumeMounts"]
    assert settings.cache_dir in [mount["mountPath"] for mount in mounts]


def test_scheduled_synthesis_is_a_command_this_project_understands(rayjob):
    (patch,) = documents("synthesis.yaml")
    assert patch.keys() == {"spec"}
    assert patch["spec"].keys() == {"entrypoint", "backoffLimit"}
    assert patch["spec"]["backoffLimit"] == 0
    crontab = (DEPLOY / "synthesis.crontab").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in crontab if line and not line.startswith("#")]
    assert not re.search(r"(?<!\\)%", line), "cron takes it for the end of a line"
    by_clock = line.partition("python -m ")[2].partition(" >>")[0].replace('"$(date -u +\\%F)"', "today")
    assert "today" in by_clock, "the date is that of the moment the line is run, not of that its turn comes"
    for written in (patch["spec"]["entrypoint"].removeprefix("python -m "), by_clock):
        job, *arguments = shlex.split(written)
        assert job == "jobs.synthesize"
        options = synthesize.make_parser().parse_args(arguments)
        assert options.partition == datetime.now(UTC).date().isoformat()
        settings = load_settings(options.settings, options.overrides)
    ours = generate.make_parser().parse_args(shlex.split(rayjob["spec"]["entrypoint"])[3:]).overrides
    assert synthesize.make_parser().parse_args(shlex.split(patch["spec"]["entrypoint"])[3:]).overrides == ours
    assert settings.num_gpus is None, "cron's machine has the GPUs it has"


def test_every_exit_status_is_explained_beside_the_entrypoint():
    text = (DEPLOY / "rayjob.yaml").read_text(encoding="utf-8")
    ends = text[text.index("# How the entrypoint ends:") : text.index("apiVersion:")]
    for name, status in vars(generate).items():
        if name.startswith("EXIT_"):
            assert re.search(rf"\b{status} ", ends), name


def test_a_stopped_job_has_time_to_end_in_order(pod_templates):
    (container,) = pod_templates["head"]["spec"]["containers"]
    limits_s = [int(item["value"]) for item in container["env"] if item["name"] == "RAY_JOB_STOP_WAIT_TIME_S"]
    start = "\n".join(yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))["head_start_ray_commands"])
    limits_s += [int(value) for value in re.findall(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", start)]
    assert len(limits_s) == 2
    assert min(limits_s) > 2 * RELEASE_S


def test_the_cluster_asks_for_a_token_and_keys_stand_nowhere(ray_cluster):
    assert ray_cluster["authOptions"] == {"mode": "token"}
    for name in (*MANIFESTS, "../cluster.yaml", "../Dockerfile"):
        assert not re.search(r"AWS_SECRET|aws_secret|AKIA|RAY_AUTH_TOKEN", (DEPLOY / name).read_text(encoding="utf-8"))


def test_pods_are_the_service_account_that_reaches_the_bucket(pod_templates):
    (account,) = documents("service-account.yaml")
    for template in pod_templates.values():
        assert template["spec"]["serviceAccountName"] == account["metadata"]["name"]


def test_all_is_in_one_namespace():
    for name in MANIFESTS:
        for item in documents(name):
            assert item["metadata"]["namespace"] == "magihuman"


def test_ray_is_the_tested_version_and_the_image_the_projects(ray_cluster, pod_templates, project):
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={ray_cluster['rayVersion']}" in constraints
    assert f"'ray[default]=={ray_cluster['rayVersion']}'" in (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    images = {container["image"] for t in pod_templates.values() for container in t["spec"]["containers"]}
    (image,) = images
    assert image.endswith(f"/magihuman-ray:{project['version']}")
    assert image in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_scheduler_may_do_what_its_script_does_and_no_more(cron_job):
    by_kind = {item["kind"]: item for item in documents("cronjob.yaml")}
    name = by_kind["ServiceAccount"]["metadata"]["name"]
    pod = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == name
    assert by_kind["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "magihuman"}]
    assert by_kind["RoleBinding"]["roleRef"]["name"] == by_kind["Role"]["metadata"]["name"]
    (rule,) = by_kind["Role"]["rules"]
    assert (rule["apiGroups"], rule["resources"]) == (["ray.io"], ["rayjobs"])
    assert rule["verbs"] == ["get", "list", "watch", "create", "delete"]
    assert cron_job["spec"]["concurrencyPolicy"] == "Forbid"


KUBECTL = r"""#!/bin/sh
# Knows one RayJob: $STATE holds its status, one line for each time it is asked, absent where there is no RayJob.
echo "$1" >> "$STATE.log"
case "$1" in
  get)
    [ -e "$STATE" ] || exit 0
    [ "$(head -n 1 "$STATE")" != unreachable ] || { sed -i 1d "$STATE"; echo "no route to host" >&2; exit 1; }
    printf 'RayJob/%s' "$(head -n 1 "$STATE")"
    if [ "$(wc -l < "$STATE")" -gt 1 ]; then sed -i 1d "$STATE"; fi ;;
  create) cp "$STATE.new" "$STATE" ;;
  delete) rm "$STATE" ;;
esac
"""
"""Stands in for the command line of a Kubernetes cluster, which cannot be had here."""

CASES = {
    "none yet": (None, ["", "Running", "Complete"], 0, {"create": 1}),
    "the last one is done": (["Complete"], ["Initializing", "Complete"], 0, {"delete": 1, "create": 1}),
    "the last one failed": (["Failed"], ["Complete"], 0, {"delete": 1, "create": 1}),
    "one is running: this pod took another's place": (["Running", "Complete"], [], 0, {}),
    "retried by KubeRay": (None, ["Running", "Retrying", "Running", "Complete"], 0, {"create": 1}),
    "Kubernetes does not answer for a moment": (None, ["Running", "unreachable", "Complete"], 0, {"create": 1}),
    "it fails": (None, ["Running", "Failed"], 10, {"create": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_scheduled_run_starts_one_rayjob_and_waits_for_its_end(cron_job, tmp_path, case):
    before, after, status, calls = CASES[case]
    kubectl, state = tmp_path / "kubectl", tmp_path / "state"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    if before is not None:
        state.write_text("".join(f"{line}\n" for line in before))
    (tmp_path / "state.new").write_text("".join(f"{line}\n" for line in after))
    (container,) = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "STATE": str(state), "POLL_S": "0"}
    command = [*container["command"], *container["args"]]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == status, ended.stderr
    done = (tmp_path / "state.log").read_text().split()
    assert {verb: done.count(verb) for verb in done if verb != "get"} == calls


def test_a_failed_rayjob_fails_the_scheduled_job_at_once(cron_job):
    spec = cron_job["spec"]["jobTemplate"]["spec"]
    (rule,) = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert rule["onExitCodes"] == {"containerName": "launch", "operator": "In", "values": [10]}
    assert json.dumps(spec).count("exit 10") == 2
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
