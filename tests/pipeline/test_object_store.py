"""A lane whose rows are larger together than Ray's object store."""

import os
import sys
import time

import pytest
import ray

from actors.request import ClipRequest
from jobs.connection import disconnect
from pipeline.board import StageBoard
from pipeline.chaos.local_cluster import LocalCluster
from pipeline.graph import LaneGraph
from pipeline.patience import Patience
from pipeline.pools import LanePlan, Pool
from pipeline.supervision import LaneWatch
from pipeline.valid_row import ValidRow
from pipeline.worklist import Worklist

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the cluster's workers cannot import tests

pytestmark = pytest.mark.ray
STORE_BYTES, ROW_BYTES, NUM_ROWS = 80_000_000, 8_000_000, 40


class Swelling:
    name = "conditioning"

    def __call__(self, row):
        return {**row, "payload": os.urandom(ROW_BYTES)}


class Slow:
    name = "decoding"

    def __call__(self, row):
        assert len(row["payload"]) == ROW_BYTES
        time.sleep(0.1)
        return {**row, "payload": b""}


@pytest.mark.soak
def test_a_full_object_store_costs_time_alone():
    with LocalCluster("--num-cpus=8", object_store_bytes=STORE_BYTES) as cluster:
        ray.init(address=cluster.address, logging_level="warning", log_to_driver=False)
        try:
            worklist = Worklist()
            for number in range(NUM_ROWS):
                worklist.add(ValidRow.of(number, ClipRequest(id=f"c{number}", prompt="x", language="en")))
            pools = (Pool("conditioning", 2, 0.5, 0), Pool("decoding", 1, 0.5, 0))
            stages = {"conditioning": (Swelling, {}), "decoding": (Slow, {})}
            # In phases all rows wait between the stages: four times what the store holds.
            graph = LaneGraph("full", LanePlan(pools, is_phased=True), stages)
            watch = LaneWatch(graph, StageBoard(), Patience(), lambda: False, lambda deaths: None)
            outcomes = {row["id"]: row["failure"] for row in watch.rows(list(worklist.chunks("256p")))}
        finally:
            disconnect()
    assert outcomes == {f"c{number}": None for number in range(NUM_ROWS)}
