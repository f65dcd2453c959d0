"""`python -m jobs.plan`: how a manifest would be run, how long it takes and what it costs, before anything starts.

Needs no cluster, and no checkpoint: without one the release's sizes count.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console

from actors.references import AllowedReferences
from jobs.arguments import (
    EXIT_USAGE,
    MANIFEST_HELP,
    JobParser,
    absolute,
    add_fleet,
    add_json,
    add_mode,
    add_settings,
    fleet_of,
    settings_of,
)
from jobs.next_steps import with_next_step
from pipeline.forecast_report import Forecast
from pipeline.manifest import read_manifest
from pipeline.preview import NARROWEST, forecast

PROG = "python -m jobs.plan"

EXIT_DONE = 0
EXIT_DEAD_LETTERS = 3


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Say how a manifest would be run: pools, clips per hour, hours, GPU-hours, cost. Needs no cluster and no GPU.",
        (
            "--manifest examples/release.jsonl --gpus 64 --price 2.5",
            "--manifest examples/release.jsonl --gpus 8 --gpu h200 --mode base --json",
        ),
        {
            EXIT_DONE: "every row would become a clip",
            EXIT_USAGE: "wrong usage, or pools that do not fit",
            EXIT_DEAD_LETTERS: "some rows would be dead letters",
        },
        "What the figures are: docs/planning.md.",
    )
    parser.ends.add_argument("--manifest", required=True, metavar="URL", help=MANIFEST_HELP)
    parser.ends.add_argument("--checkpoint", metavar="URL", help="plan for this one (default: the release's sizes)")
    parser.ends.add_argument(
        "--costs", metavar="URL", help="figures of your own machine, as jobs.benchmark writes them"
    )
    add_mode(parser)
    add_settings(parser)
    add_fleet(parser.cluster, is_required=True)
    add_json(parser)
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Plan and print; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        found = _forecast(options)
    except (ValueError, OSError) as error:
        print(f"error: {with_next_step(error)}", file=sys.stderr)
        return EXIT_USAGE
    if options.json:
        print(json.dumps(found.as_json(), ensure_ascii=False, indent=1))
    else:
        console = Console()
        found.print(console if console.is_terminal else Console(width=NARROWEST))
    return EXIT_DEAD_LETTERS if found.summary.num_refused else EXIT_DONE


def _forecast(options: argparse.Namespace) -> Forecast:
    settings, manifest = settings_of(options), absolute(options.manifest)
    references = AllowedReferences.of_manifest(manifest, settings.allowed_references)
    rows = read_manifest(manifest, references)
    return forecast(options.manifest, rows, settings, fleet_of(options), options.checkpoint, options.costs)


if __name__ == "__main__":
    sys.exit(main())
