"""How the driver of a job comes to a Ray cluster and leaves it."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Mapping

import ray
from ray.job_config import JobConfig

from jobs.worker_environment import handing_on

_FORWARDED = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
_LOCAL_LOGICAL_CPUS = 16


class ClusterError(Exception):
    """There is no Ray cluster to run on."""


def connect(address: str | None, metadata: Mapping[str, str] | None = None) -> int:
    """Connect to a Ray cluster, or start one on this machine.

    Workers of a running cluster do not see this process's environment, so the AWS variables are handed to them. They
    log lines of JSON there, which name the clip; on this machine they log plain ones.

    Args:
        address: of the cluster, "local" for one of its own; None: `RAY_ADDRESS`, else one of its own.
        metadata: what Ray shows of the job.

    Returns:
        How many processes keep its CPUs busy.

    Raises:
        ClusterError: if there is no cluster at the address, or it asks for another token.
    """
    # Ray protects a cluster it starts with a token and warns that it does; that is what we want, and no news.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    job = JobConfig(metadata=dict(metadata or {}))
    if address == "local":
        # Logical CPUs: every pool needs a place even on two cores; the system's scheduler shares out the real ones.
        num_cpus = max(os.cpu_count() or 1, _LOCAL_LOGICAL_CPUS)
        ray.init(address="local", num_cpus=num_cpus, job_config=job, logging_level=logging.WARNING, log_to_driver=True)
        return os.cpu_count() or 1
    try:
        # Set here and not through `ray.init`, which would have this process log JSON as well.
        job.set_py_logging_config(ray.LoggingConfig(encoding="JSON", log_level="WARNING"))
        environment = {"worker_process_setup_hook": handing_on(_variables_to_forward())}
        ray.init(address=address, job_config=job, runtime_env=environment, logging_level=logging.WARNING)
    except ConnectionError as error:
        hint = "is it running, and does this process have its token (RAY_AUTH_TOKEN or ~/.ray/auth_token)?"
        raise ClusterError(f"cannot connect to the Ray cluster at {address}: {hint}") from error
    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def disconnect() -> None:
    """Let go of the Ray cluster; where this process is not connected nothing happens.

    Ray ends a process at once, with status 1, when an object reference is given up while it disconnects; Python's
    garbage collector does that in whatever thread happens to allocate, such as a run's heartbeat. So what can be
    collected is collected before, and nothing meanwhile.
    """
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()


def _variables_to_forward() -> dict[str, str]:
    """AWS variables of this process, without those the submitted job hands to its workers itself."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    handed_on = (job.get("runtime_env") or {}).get("env_vars") or {}
    return {name: os.environ[name] for name in _FORWARDED if name in os.environ and name not in handed_on}
