"""The books of a run that was killed before it could write them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from pipeline.ledger import INTERRUPTED, RUNNING, Ledger
from pipeline.run_lock import RunLock
from pipeline.run_status import RunStatus, Standing


def write_late_books(output_url: str, status: RunStatus) -> int:
    """Make `results.parquet` of what is there, and let `run.json` say that its run has ended.

    All commit markers are listed; those that no part of the results' table holds are read. Dead letters lay with the
    run and are gone: the same command finds them again.

    Args:
        output_url: local folder or any fsspec URL.
        status: of the output, as it was before; the killed run's last heartbeat is known from it alone.

    Returns:
        How many clips the output has.

    Raises:
        LockedError: a run is going on there.
        StorageError: the output cannot be read or written.
    """
    ledger = Ledger(output_url)
    with RunLock(output_url):
        committed = ledger.fingerprints(ledger.committed_ids())
        counts = ledger.write_results(committed)
        run = ledger.read_run()
        if run.get("state") == RUNNING:
            lock, standing = status.lock, status.standing
            is_told = lock is not None and lock.run_id == run.get("run_id")
            ended: dict[str, Any] = {
                "state": INTERRUPTED,
                "reason": "killed",
                "clips": [asdict(count) for count in counts],
            }
            if lock is not None and is_told:
                ended |= {"finished_at": lock.heartbeat_at}
            if standing is not None and (is_told or lock is None):
                ended |= {"totals": _totals(ledger, standing, str(run.get("started_at")))}
            ledger.write_run(run | ended)
    return len(committed)


def _totals(ledger: Ledger, standing: Standing, started_at: str) -> dict[str, Any]:
    """As the run told last, with what it had made since."""
    made = Counter[str]()
    for count in ledger.clip_counts(since=started_at):
        made[count.resolution] += count.num_clips
    lanes = {
        name: asdict(replace(lane, num_done=max(lane.num_done, made[name.rpartition("/")[2]])))
        for name, lane in standing.lanes.items()
    }
    standing = standing.model_copy(update={"num_done": max(standing.num_done, made.total())})
    told = standing.model_dump(exclude={"num_failed", "lane", "lanes", "in_flight"})
    return {**told, "num_dead_lettered": standing.num_failed, "num_left": standing.num_left, "lanes": lanes}
