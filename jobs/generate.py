"""`python -m jobs.generate`: a manifest of prompts becomes finished clips."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from actors.redaction import redact
from actors.storage import StoreUnavailableError
from jobs.arguments import (
    EXIT_USAGE,
    MANIFEST_HELP,
    JobParser,
    add_address,
    add_checkpoint,
    add_mode,
    add_output,
    add_overwrite,
    add_settings,
    settings_of,
)
from jobs.connection import ClusterError, connect, disconnect
from jobs.next_steps import with_next_step
from pipeline.lane import LaneWork
from pipeline.report import begin_books, print_summary, write_books
from pipeline.run import Run
from pipeline.run_lock import RunLock
from pipeline.run_spec import RunSpec
from pipeline.supervision import StartError, StuckError

logger = logging.getLogger(__name__)

PROG = "python -m jobs.generate"

EXIT_DONE = 0
EXIT_BROKEN = 1
EXIT_DEAD_LETTERS = 3
EXIT_CONTINUE = 75
EXIT_INTERRUPTED = 130

STATUSES = {
    EXIT_DONE: "every row is a clip",
    EXIT_BROKEN: "the run broke",
    EXIT_USAGE: "wrong usage",
    EXIT_DEAD_LETTERS: "some rows were dead-lettered",
    EXIT_CONTINUE: "ended before its time; the same command continues",
    EXIT_INTERRUPTED: "interrupted; the same command continues",
}


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Turn a manifest of prompts into multilingual talking-human clips. Running the same command again continues "
        "where it stopped.",
        (
            "--manifest examples/demo.jsonl --output out/demo --checkpoint checkpoints/mini",
            "--manifest s3://bucket/manifest.jsonl --output s3://bucket/run-1 --checkpoint s3://bucket/checkpoints "
            "--set num_gpus=64 --set accelerator_type=H100",
        ),
        STATUSES,
        "Manifests: docs/manifest.md. Settings and exit statuses: docs/settings.md.",
    )
    parser.ends.add_argument("--manifest", required=True, metavar="URL", help=MANIFEST_HELP)
    add_output(parser)
    add_checkpoint(parser)
    add_overwrite(parser, "make a clip anew where the output holds another of the same id")
    add_mode(parser)
    add_settings(parser)
    add_address(parser)
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        settings = settings_of(options)
        spec = RunSpec(options.manifest, options.output, options.checkpoint, settings, options.overwrite)
        with RunLock(spec.output_url) as lock:
            return run(spec, lock, options.address)
    except (ValueError, OSError, ClusterError) as error:
        print(f"error: {with_next_step(error)}", file=sys.stderr)
        return EXIT_USAGE


def run(spec: RunSpec, lock: RunLock, address: str | None) -> int:
    """Run a manifest into an output that is locked, and tell of it on the screen.

    Args:
        spec: what to run.
        lock: of the output.
        address: of a Ray cluster, see `connect`.

    Returns:
        The exit status.

    Raises:
        ClusterError: there is no cluster to run on.
        OSError: the manifest, the checkpoint or the output cannot be read.
        ValueError: they, or the settings, are not as they should be.
    """
    console, stop = Console(), threading.Event()
    the_run = Run(spec, console, lambda: stop.is_set() or lock.lost is not None, lock.run_id)
    works = the_run.find_work()
    try:
        if works:
            connect(address, _metadata(the_run, lock))
            the_run.plan(works)
        with _stopping_on_sigterm(stop):
            return _run_and_report(the_run, works, lock, console)
    finally:
        disconnect()


def _metadata(run: Run, lock: RunLock) -> dict[str, str]:
    counts = run.result.counts
    return {
        "run_id": lock.run_id,
        "output": redact(run.spec.output_url),
        "manifest": redact(run.spec.manifest_url),
        "checkpoint": redact(run.spec.checkpoint_url),
        "mode": run.spec.settings.mode,
        "rows": str(counts.num_rows),
        "rows_skipped": str(counts.num_skipped),
        "rows_refused": str(counts.num_failed),
        "clips_to_make": str(counts.num_left),
    }


@contextmanager
def _stopping_on_sigterm(stop: threading.Event) -> Iterator[None]:
    """SIGTERM means that this machine goes, or that `ray job stop` was called: end in order, and soon."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_and_report(run: Run, works: Sequence[LaneWork], lock: RunLock, console: Console) -> int:
    interrupted = False
    try:
        if works:
            begin_books(run)
        run.execute(works, lock)
    except KeyboardInterrupt:
        interrupted = True
    except (StartError, StuckError, StoreUnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        _try_to_write_books(run, str(error))
        return EXIT_BROKEN if isinstance(error, StartError) else EXIT_CONTINUE
    except Exception as error:
        _try_to_write_books(run, " ".join(f"{type(error).__name__}: {error}".split()))
        raise
    finally:
        disconnect()
    if lock.lost is not None:  # the books are another run's now
        print(f"error: {lock.lost}", file=sys.stderr)
        return EXIT_CONTINUE
    gallery_url = write_books(run, "Ctrl-C" if interrupted else "told to stop (SIGTERM)")
    if not run.result.is_complete:
        console.print("ended before its time: what is done is kept, the same command continues", highlight=False)
        return EXIT_INTERRUPTED if interrupted else EXIT_CONTINUE
    print_summary(console, run, gallery_url)
    return EXIT_DEAD_LETTERS if run.result.dead_letters else EXIT_DONE


def _try_to_write_books(run: Run, reason: str) -> None:
    try:
        write_books(run, reason)
    except Exception:  # told of, but the first error stays the one that ends the process
        logger.exception("results.parquet, dead_letter.jsonl, run.json and index.html could not be written")


if __name__ == "__main__":
    sys.exit(main())
