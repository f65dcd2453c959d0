"""`python -m jobs.make_mini_checkpoint --output URL`: make the small trained checkpoint from nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import ray
from rich.console import Console

from actors.small_world.speech import SpeechError
from jobs.arguments import (
    CONTINUES,
    EXIT_USAGE,
    TRAINING_STATUSES,
    JobParser,
    absolute,
    add_address,
    add_num_workers,
    add_output,
    add_report_every,
)
from jobs.connection import ClusterError, connect, disconnect
from jobs.generate import EXIT_DONE
from jobs.interruption import end_interrupted
from pipeline.settings import Settings
from pipeline.small_checkpoint import SmallCheckpoint, load_checkpoint_recipe

PROG = "python -m jobs.make_mini_checkpoint"


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        f"Render clips of the small world and train every network of a small checkpoint on them. {CONTINUES}",
        ("--output out/mini", "--output s3://bucket/mini --recipes recipes/mini --gpu --address auto"),
        TRAINING_STATUSES,
        "How to train: docs/training.md.",
    )
    add_output(parser, "folder of data, states and the checkpoint")
    parser.ends.add_argument(
        "--recipes", default="recipes/mini", metavar="URL", help="folder of recipes (default: recipes/mini)"
    )
    parser.cluster.add_argument("--gpu", action="store_true", help="train on the cluster's GPUs")
    add_num_workers(parser)
    add_address(parser)
    add_report_every(parser)
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    console = Console()

    def tell(line: str) -> None:
        console.print(line, highlight=False)

    try:
        recipe, stage_recipes = load_checkpoint_recipe(absolute(options.recipes))
        num_cpus = connect(options.address)
        made = SmallCheckpoint(
            absolute(options.output),
            recipe,
            stage_recipes,
            Settings().cache_dir,
            options.num_workers or num_cpus,
            _num_gpus() if options.gpu else None,
            options.report_every_s,
        )
        made.make(tell)
    except KeyboardInterrupt:
        end_interrupted(tell)
    except (ValueError, OSError, ClusterError, SpeechError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    finally:
        disconnect()
    tell(f"checkpoint in {made.checkpoint_url}")
    return EXIT_DONE


def _num_gpus() -> int:
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    if not num_gpus:
        raise ClusterError("--gpu needs a GPU in the cluster, found none")
    return num_gpus


if __name__ == "__main__":
    sys.exit(main())
