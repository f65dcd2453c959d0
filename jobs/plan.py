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
    add_json,
    add_mode,
    add_settings,
    natural,
    settings_of,
)
from jobs.next_steps import with_next_step
from pipeline.costs import CostError, CostTable, load_costs
from pipeline.forecast import Forecaster, Model, summarise
from pipeline.forecast_report import Forecast
from pipeline.gpu_memory import known_gpu_memory_gb
from pipeline.manifest import read_manifest

PROG = "python -m jobs.plan"

EXIT_DONE = 0
EXIT_DEAD_LETTERS = 3

_GPUS = ("h100", "h200")
_NARROWEST = 100
"""Columns of output that does not go to a terminal."""


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
    parser.cluster.add_argument("--gpus", required=True, type=natural, metavar="N", help="GPUs the run may use")
    parser.cluster.add_argument("--gpu", choices=_GPUS, default=_GPUS[0], help="their type (default: h100)")
    parser.cluster.add_argument(
        "--price", type=price_per_hour, metavar="P", help="of one GPU-hour, in whatever currency"
    )
    add_json(parser)
    return parser


def price_per_hour(text: str) -> float:
    """A price from 0.

    Raises:
        argparse.ArgumentTypeError: it is less, or without end.
        ValueError: it is no number.
    """
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number from 0, got {text}")
    return value


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Plan and print; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        forecast = _forecast(options)
    except (ValueError, OSError) as error:
        print(f"error: {with_next_step(error)}", file=sys.stderr)
        return EXIT_USAGE
    if options.json:
        print(json.dumps(forecast.as_json(), ensure_ascii=False, indent=1))
    else:
        console = Console()
        forecast.print(console if console.is_terminal else Console(width=_NARROWEST))
    return EXIT_DEAD_LETTERS if forecast.summary.num_refused else EXIT_DONE


def _forecast(options: argparse.Namespace) -> Forecast:
    settings = settings_of(options)
    table = load_costs(options.costs or settings.costs)
    _require_costs_of_the_machine(table, options.gpus)
    model, gpu = Model.at(options.checkpoint), options.gpu.upper()
    manifest = absolute(options.manifest)
    references = AllowedReferences.of_manifest(manifest, settings.allowed_references)
    summary = summarise(read_manifest(manifest, references), model)
    return Forecast(
        manifest_url=options.manifest,
        summary=summary,
        lanes=Forecaster(settings, model, table, options.gpus, gpu).forecast(summary),
        table=table,
        gpu=gpu,
        gpu_gb=known_gpu_memory_gb(settings.gpu_memory_gb, gpu),
        num_gpus=options.gpus,
        price=options.price,
        precision=settings.precision,
        default_seconds=model.capabilities.default_seconds,
    )


def _require_costs_of_the_machine(table: CostTable, num_gpus: int) -> None:
    if table.is_of_cpu == (num_gpus == 0):
        return
    wanted = "a GPU" if num_gpus else "a CPU"
    reason = f"needs figures of {wanted}, these are of {table.device}"
    raise CostError(f"--gpus {num_gpus} {reason}: --costs names a file that jobs.benchmark wrote on such a machine")


if __name__ == "__main__":
    sys.exit(main())
