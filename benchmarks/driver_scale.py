"""`python -m benchmarks.driver_scale`: a million rows: how soon the first becomes a clip, and what the driver holds.

The real job with the small checkpoint, on this machine and its disk, on a new output and on one where nine of ten clips
are done, as an earlier run that was killed has left them (see `benchmarks.earlier_run`). It is told to stop (SIGTERM)
when it has made a clip: then it writes its books over all there is, which counts towards its memory.

Times are from the start of the process. Memory is the largest resident memory (`VmHWM`) of the driver, and of the
process that runs the lane.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import ray

from actors.writing import clip_name
from benchmarks.earlier_run import write_earlier_run, write_manifest
from benchmarks.machine import describe_machine, process_memory_bytes
from jobs.generate import EXIT_CONTINUE

LIMIT_S = 1800.0
SHARE_DONE = 0.9
_LOOK_EVERY_S = 0.2
_FIRST_CLIPS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.driver_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the manifest (default: 1000000)")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/mini"))
    parser.add_argument("--folder", type=Path, help="where several GB are written and removed (default: temporary)")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args(arguments)
    if options.rows < 10:
        parser.error(f"--rows must be at least 10, got {options.rows}")
    folder = Path(tempfile.mkdtemp(prefix="driver-scale-", dir=options.folder))
    try:
        results = _measure_both(folder, options.rows, options.checkpoint.absolute())
    finally:
        shutil.rmtree(folder)
    if options.output:
        report = {
            "machine": describe_machine() | {"ray": ray.__version__},
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "results": results,
        }
        options.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _measure_both(folder: Path, num_rows: int, checkpoint: Path) -> list[dict[str, Any]]:
    manifest, results = folder / "manifest.jsonl", []
    write_manifest(manifest, num_rows)
    for num_done in (0, int(SHARE_DONE * num_rows)):
        output = folder / f"done-{num_done}"
        if num_done:
            write_earlier_run(output, manifest, checkpoint, num_done)
        figures = measure(manifest, output, checkpoint, num_done)
        results.append({"num_rows": num_rows, "num_done": num_done, **figures})
        print(", ".join(f"{name} {value}" for name, value in results[-1].items()), flush=True)
    return results


def measure(manifest: Path, output: Path, checkpoint: Path, num_done: int) -> dict[str, float]:
    """Run the job until it has made a clip.

    Raises:
        RuntimeError: if it ends before, or not as it should.
    """
    job = ["--manifest", str(manifest), "--output", str(output), "--checkpoint", str(checkpoint)]
    log_path = output.parent / f"{output.name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "jobs.generate", *job], stdout=log, stderr=log)
    figures = _watch(process, log_path, _next_markers(manifest, output, num_done))
    if process.returncode != EXIT_CONTINUE or "first_clip_s" not in figures:
        raise RuntimeError(f"jobs.generate ended with status {process.returncode}: {log_path.read_text()[-2000:]}")
    return figures


def _next_markers(manifest: Path, output: Path, num_done: int) -> list[Path]:
    """Commit markers of the clips that are made next, one of which is the first."""
    with manifest.open(encoding="utf-8") as file:
        ids = [json.loads(line)["id"] for line in islice(file, num_done, num_done + _FIRST_CLIPS)]
    return [output / clip_name(clip_id, "json") for clip_id in ids]


def _watch(process: subprocess.Popen[bytes], log: Path, markers: Sequence[Path]) -> dict[str, float]:
    started = time.monotonic()
    times: dict[str, float] = {}
    peaks = {"driver_gb": 0, "lane_gb": 0}
    while process.poll() is None:
        seconds = round(time.monotonic() - started, 1)
        if "lane_begins_s" not in times and b"lane " in log.read_bytes():
            times["lane_begins_s"] = seconds
        if "first_clip_s" not in times and any(marker.exists() for marker in markers):
            times["first_clip_s"] = seconds
            process.send_signal(signal.SIGTERM)
        if seconds > LIMIT_S:
            process.kill()
        peaks["driver_gb"] = max(peaks["driver_gb"], process_memory_bytes("VmHWM", process.pid))
        if lane := _lane_process(process.pid):
            peaks["lane_gb"] = max(peaks["lane_gb"], process_memory_bytes("VmHWM", lane))
        time.sleep(_LOOK_EVERY_S)
    ends_s = round(time.monotonic() - started, 1)
    return {**times, "ends_s": ends_s, **{name: round(peak / 1e9, 3) for name, peak in peaks.items()}}


def _lane_process(driver: int) -> int | None:
    """The worker that runs the lane, by the title that Ray gives it."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(driver).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if "_LaneProcess" in " ".join(child.cmdline()):
                    return child.pid
    return None


if __name__ == "__main__":
    sys.exit(main())
