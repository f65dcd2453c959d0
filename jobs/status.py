"""`python -m jobs.status`: how the run into an output stands, from anywhere the output can be read."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live

from actors.redaction import redact
from jobs.arguments import EXIT_USAGE, JobParser, absolute, add_json, add_output
from pipeline.late_books import write_late_books
from pipeline.run_status import RunStatus, read_status
from pipeline.status_report import status_line, status_lines

PROG = "python -m jobs.status"

EXIT_WELL = 0
EXIT_DEAD_LETTERS = 3
EXIT_CONTINUE = 75
EXIT_INTERRUPTED = 130

_WIDEST = 500
"""Columns of output that does not go to a terminal: lines stay whole, for those who search them."""


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Say how the run into an output stands: from the output alone, without a cluster.",
        ("--output out/demo", "--output s3://bucket/run-1 --watch 30", "--output s3://bucket/run-1 --json"),
        {
            EXIT_WELL: "it runs, or every row is a clip",
            EXIT_USAGE: "wrong usage, or no run that can be read",
            EXIT_DEAD_LETTERS: "it has ended and rows failed",
            EXIT_CONTINUE: "it ended before its time; the same command of the run continues",
            EXIT_INTERRUPTED: "watching was interrupted",
        },
    )
    add_output(parser)
    add_json(parser, "; with --watch an object a line")
    once = parser.told.add_mutually_exclusive_group()
    once.add_argument("--watch", type=interval, metavar="SECONDS", help="look again and again until the run has ended")
    once.add_argument(
        "--write", action="store_true", help="first make results.parquet anew, where a run was killed before it could"
    )
    return parser


def interval(text: str) -> float:
    """Seconds from 1 to a day.

    Raises:
        argparse.ArgumentTypeError: it is less or more.
        ValueError: it is no number.
    """
    value = float(text)
    if not 1 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"must be from 1 to 86400, got {text}")
    return value


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Look and print; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        output_url = absolute(options.output, "output")
        status = read_status(output_url)
        if options.watch:
            status = _watch(output_url, status, options.watch, options.json)
        else:
            if options.write:
                num_clips = write_late_books(output_url, status)
                print(f"results.parquet: {num_clips:,} clips", file=sys.stderr)
                status = read_status(output_url)
            _show(status, options.json)
    except (ValueError, OSError) as error:
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if status.is_alive:
        return EXIT_WELL
    if status.state != "complete":
        return EXIT_CONTINUE
    return EXIT_DEAD_LETTERS if status.has_dead_letters else EXIT_WELL


def _show(status: RunStatus, as_json: bool) -> None:
    if as_json:
        print(json.dumps(status.as_json(), ensure_ascii=False, indent=1))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=_WIDEST)
    console.print(status_lines(status, with_bar=console.is_terminal), highlight=False)


def _watch(output_url: str, status: RunStatus, every_s: float, as_json: bool) -> RunStatus:
    """Look until the run has ended; the last status is left on the screen."""
    console = Console()
    if as_json or not console.is_terminal:
        while True:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            told = json.dumps({"at": now, **status.as_json()}, ensure_ascii=False) if as_json else status_line(status)
            print(told if as_json else f"{now} {told}", flush=True)
            if not status.is_alive:
                return status
            time.sleep(every_s)
            status = read_status(output_url)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(status_lines(status, with_bar=True), refresh=True)
            if not status.is_alive:
                return status
            time.sleep(every_s)
            status = read_status(output_url)


if __name__ == "__main__":
    sys.exit(main())
