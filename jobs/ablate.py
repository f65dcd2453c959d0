"""`python -m jobs.ablate`: train variants of the base model under one budget, and say what its parts are worth."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.table import Table

from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.small_world.speech import SpeechError
from jobs.arguments import (
    CONTINUES,
    EXIT_USAGE,
    TRAINING_STATUSES,
    JobParser,
    absolute,
    add_address,
    add_checkpoint,
    add_num_workers,
    add_output,
    positive,
)
from jobs.connection import ClusterError, connect, disconnect
from jobs.generate import EXIT_DONE
from jobs.interruption import end_interrupted
from model.capabilities import read_capabilities
from model.layout import find_layout
from pipeline.ablation import Ablation, ablation_table, run_ablation, write_ablation
from pipeline.extras import require_libraries
from pipeline.settings import Settings

PROG = "python -m jobs.ablate"


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Train the base model as it is, without experts, without gates and with a timestep embedding, each for as many "
        f"steps, and compare loss and right words on held-out clips of the small world. {CONTINUES}",
        (
            "--data out/mini/latents --held-out out/held-out --checkpoint out/mini/checkpoint --output out/ablation",
            "--data out/mini/latents --held-out out/held-out --checkpoint out/mini/checkpoint --output out/ablation "
            "--num-steps 200 --seeds 1 --num-clips 49",
        ),
        TRAINING_STATUSES,
        "How to train: docs/training.md.",
    )
    ends, made = parser.ends, parser.made
    ends.add_argument("--recipe", default="recipes/mini/base.yaml", metavar="URL", help="of the base model")
    ends.add_argument("--data", required=True, metavar="URL", help="folder of latents to train on")
    ends.add_argument("--held-out", required=True, metavar="URL", help="folder of latents of another seed")
    add_checkpoint(parser, "has the audio autoencoder")
    add_output(parser, "folder of runs, table and plot")
    made.add_argument("--num-steps", type=positive, default=1200, metavar="N", help="of every run (default: 1200)")
    made.add_argument(
        "--seeds", type=_seeds, default="1,2", metavar="N,N", help="of the runs of every variant (default: 1,2)"
    )
    made.add_argument("--num-clips", type=positive, default=196, metavar="N", help="to judge by (default: 196)")
    add_num_workers(parser, "runs")
    add_address(parser)
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between them, got {text}") from error


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
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
        disconnect()
    header, *rows = ablation_table(runs)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"table and plot in {ablation.output_url}", highlight=False)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
