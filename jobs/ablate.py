"""`python -m jobs.ablate`: train variants of the base model under one budget, and say what its parts are worth.

Exit status: 0 done, 2 wrong usage, 130 interrupted, 1 when training broke. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import ray
from rich.console import Console
from rich.table import Table

from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.small_world.speech import SpeechError
from jobs.arguments import absolute, positive
from jobs.generate import EXIT_DONE, EXIT_USAGE, ClusterError, connect
from jobs.interruption import end_interrupted
from model.capabilities import read_capabilities
from model.layout import find_layout
from pipeline.ablation import Ablation, ablation_table, run_ablation, write_ablation
from pipeline.extras import require_libraries
from pipeline.settings import Settings


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong usage ends the process with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.ablate",
        description="Train the base model as it is, without experts, without gates and with a timestep embedding, "
        "each for as many steps, and compare loss and right words on held-out clips of the small world.",
        epilog="Running the same command again goes on where it stopped. See docs/training.md.",
    )
    parser.add_argument("--recipe", default="recipes/mini/base.yaml", metavar="URL", help="of the base model")
    parser.add_argument("--data", required=True, metavar="URL", help="folder of latents to train on")
    parser.add_argument("--held-out", required=True, metavar="URL", help="folder of latents of another seed")
    parser.add_argument("--checkpoint", required=True, metavar="URL", help="has the audio autoencoder")
    parser.add_argument("--output", required=True, metavar="URL", help="folder of runs, table and plot")
    parser.add_argument("--num-steps", type=positive, default=1200, metavar="N", help="of every run (default: 1200)")
    parser.add_argument("--seeds", default="1,2", metavar="N,N", help="of the runs of every variant (default: 1,2)")
    parser.add_argument("--num-clips", type=positive, default=196, metavar="N", help="to judge by (default: 196)")
    parser.add_argument("--num-workers", type=positive, metavar="N", help="runs at a time (default: all CPUs)")
    parser.add_argument("--address", metavar="ADDRESS", help="Ray cluster (default: one of its own)")
    options = parser.parse_args(arguments)
    try:
        options.seeds = tuple(int(seed) for seed in options.seeds.split(","))
    except ValueError:
        parser.error(f"--seeds must be whole numbers with commas between them, got {options.seeds}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    options = parse_arguments(arguments)
    console = Console()
    try:
        require_libraries("evaluation", "matplotlib")
        files = open_checkpoint(absolute(options.checkpoint))
        num_cpus = connect(options.address)
        ablation = Ablation(
            absolute(options.recipe),
            absolute(options.data),
            absolute(options.held_out),
            CheckpointSource(absolute(options.checkpoint), Settings().cache_dir),
            absolute(options.output),
            options.num_steps,
            options.seeds,
            options.num_clips,
            options.num_workers or num_cpus,
            read_capabilities(files, find_layout(files)).samplers.base,
        )
        runs = run_ablation(ablation, lambda line: console.print(line, highlight=False))
        write_ablation(ablation, runs)
    except KeyboardInterrupt:
        end_interrupted(partial(console.print, highlight=False))
    except (ValueError, OSError, ClusterError, SpeechError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    finally:
        ray.shutdown()
    header, *rows = ablation_table(runs)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"table and plot in {ablation.output_url}", highlight=False)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
