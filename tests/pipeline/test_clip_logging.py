"""Lines in the logs of a real cluster say which clip they are about."""

import json
import logging
import sys
import time
import warnings
from pathlib import Path

import pytest
import ray

from actors.request import ClipRequest
from jobs.connection import connect, disconnect
from pipeline.board import StageBoard
from pipeline.clip_logging import at_work, make_logs_tell_of_clips
from pipeline.graph import LaneGraph
from pipeline.patience import Patience
from pipeline.pools import LanePlan, Pool
from pipeline.supervision import LaneWatch
from pipeline.valid_row import ValidRow
from pipeline.worklist import Worklist

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the cluster's workers cannot import tests

IDS = [f"clip-{number}" for number in range(6)]


class Talking:
    """Two clips are in it at once, and each is spoken of by this stage, by a library and by a warning."""

    name = "decoding"

    def __init__(self):
        from transformers.utils.logging import get_logger

        self.library = get_logger("transformers.talking")
        logging.getLogger("actors.talking").warning("marked loading")

    def __call__(self, row):
        for _ in range(3):
            logging.getLogger("actors.talking").warning("marked stage %s", row["id"])
            self.library.warning("marked library %s", row["id"])
            time.sleep(0.05)
        warnings.warn(f"marked warning {row['id']}", stacklevel=1)
        return row


def lines_written(since: float, number: int) -> list[dict]:
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    end = time.monotonic() + 30
    while True:
        found = []
        for path in logs.glob("worker-*.err"):
            if path.stat().st_mtime >= since:
                text = path.read_text()
                found += [json.loads(line) for line in text.splitlines() if line.startswith("{") and "marked" in line]
        if len(found) >= number or time.monotonic() > end:
            return found
        time.sleep(0.2)


@pytest.mark.slow
def test_every_line_about_a_clip_names_it_whoever_wrote_it(cluster):
    since = time.time()
    connect(cluster.address)
    try:
        worklist = Worklist()
        for line, clip_id in enumerate(IDS):
            worklist.add(ValidRow.of(line, ClipRequest(id=clip_id, prompt="x", language="en")))
        graph = LaneGraph("test", LanePlan((Pool("decoding", 1, 1, 0),), False), {"decoding": (Talking, {})})
        watch = LaneWatch(graph, StageBoard(), Patience(), lambda: False, lambda deaths: None)
        assert len(list(watch.rows(list(worklist.chunks("256p"))))) == len(IDS)
        lines = lines_written(since, 7 * len(IDS) + 1)
    finally:
        disconnect()
    assert {line["stage"] for line in lines} == {"decoding"}
    (loading,) = [line for line in lines if "marked loading" in line["message"]]
    assert loading["clip_id"] == ""
    about = [line for line in lines if line is not loading]
    assert len(about) == 7 * len(IDS)
    for line in about:
        assert f" {line['clip_id']}" in line["message"], line
        assert line["levelname"] == "WARNING"
    assert {line["clip_id"] for line in about} == set(IDS)
    assert all(line["actor_id"] and line["node_id"] for line in about)


def test_without_rays_json_a_line_is_plain_and_names_the_clip_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    make_logs_tell_of_clips()
    make_logs_tell_of_clips()
    logging.captureWarnings(False)  # this process has other tests to run
    with at_work("writing", "clip-7"):
        logging.getLogger("actors.storage").warning("cannot write for now")
        logging.getLogger("actors.storage").info("of no interest")
    assert capsys.readouterr().err == "WARNING writing clip-7 actors.storage: cannot write for now\n"
