"""`python -m jobs.make_mini_checkpoint --output URL`: make the small trained checkpoint from nothing.

Exit status: 0 done, 2 wrong usage, 130 interrupted, 1 when training broke. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import ray
from rich.console import Console

from actors.small_world.speech import SpeechError
from jobs.arguments import absolute, add_report_every, positive
from jobs.generate import EXIT_DONE, EXIT_USAGE, ClusterError, connect
from jobs.interruption import end_interrupted
from pipeline.settings import Settings
from pipeline.small_checkpoint import SmallCheckpoint, load_checkpoint_recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.make_mini_checkpoint",
        description="Render clips of the small world and train every network of a small checkpoint on them.",
        epilog="Running the same command again goes on where it stopped. See docs/training.md.",
    )
    parser.add_argument("--output", required=True, metavar="URL", help="folder of data, states and the checkpoint")
    parser.add_argument(
        "--recipes", default="recipes/mini", metavar="URL", help="folder of recipes (default: recipes/mini)"
    )
    parser.add_argument("--num-workers", type=positive, metavar="N", help="processes at a time (default: all CPUs)")
    parser.add_argument("--gpu", action="store_true", help="train on the cluster's GPUs")
    add_report_every(parser)
    parser.add_argument("--address", metavar="ADDRESS", help="Ray cluster (default: one of its own)")
    options = parser.parse_args(arguments)
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
        ray.shutdown()
    tell(f"checkpoint in {made.checkpoint_url}")
    return EXIT_DONE


def _num_gpus() -> int:
    num_gpus = int(ray.cluster_resources().get("GPU", 0))
    if not num_gpus:
        raise ClusterError("--gpu needs a GPU in the cluster, found none")
    return num_gpus


if __name__ == "__main__":
    sys.exit(main())
