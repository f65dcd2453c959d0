"""The store's keys for the worker processes of a running cluster, which do not see this process's environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping


def handing_on(variables: Mapping[str, str]) -> Callable[[], None]:
    """What sets environment variables in every worker process of a job, as Ray's `worker_process_setup_hook`.

    Ray shows the variables of a runtime environment on its dashboard and writes them to its logs; of a hook it shows
    the name alone.
    """

    def set_variables_of_the_store() -> None:
        os.environ.update(variables)

    return set_variables_of_the_store
