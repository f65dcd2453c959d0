"""`python -m jobs.train RECIPE`: train one network, on CPUs or GPUs, and add it to a checkpoint."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial

import yaml
from rich.console import Console

from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.training.recipe import Recipe, RecipeError, load_recipe
from jobs.arguments import (
    CONTINUES,
    EXIT_USAGE,
    TRAINING_STATUSES,
    JobParser,
    absolute,
    add_address,
    add_overrides,
    add_report_every,
    positive,
)
from jobs.connection import ClusterError, connect, disconnect
from jobs.generate import EXIT_DONE
from jobs.interruption import end_interrupted
from model.components import read_contents
from model.layout import find_layout
from model.variants import config_from_shapes, release_config
from pipeline.settings import Settings
from pipeline.training import TrainingSpec, train
from pipeline.training_memory import clip_layout, memory_lines, training_memory

PROG = "python -m jobs.train"


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        f"Train one network by its recipe and add it to a checkpoint. {CONTINUES}",
        (
            "recipes/mini/base.yaml --data out/mini/latents --checkpoint out/mini/checkpoint --runs out/mini/runs "
            "--num-workers 2",
            "recipes/release/distillation.yaml --dry-run --num-workers 64",
        ),
        TRAINING_STATUSES,
        "Recipes, data and what must be trained first: docs/training.md.",
    )
    ends, how, cluster = parser.ends, parser.how, parser.cluster
    ends.add_argument("recipe", metavar="RECIPE", help="YAML file; local or e.g. s3://")
    ends.add_argument("--data", metavar="URL", help="folder of clips, or of latents for Transformers")
    ends.add_argument("--checkpoint", metavar="URL", help="folder that is read from and added to")
    ends.add_argument("--runs", metavar="URL", help="folder of saved states and figures")
    add_overrides(parser, "one value of the recipe; may be repeated")
    how.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads of a process (default: 1)")
    cluster.add_argument("--gpu", action="store_true", help="a GPU for every process")
    cluster.add_argument("--num-workers", type=positive, default=1, metavar="N", help="processes (default: 1)")
    add_address(parser)
    add_report_every(parser)
    dry = parser.add_argument_group("dry run", "needs no data and no GPU, and of the checkpoint names and shapes alone")
    dry.add_argument("--dry-run", action="store_true", help="say what memory each GPU needs, and train nothing")
    dry.add_argument("--size", default="448x256", metavar="WxH", help="pixels of a clip (default: 448x256)")
    dry.add_argument("--seconds", type=float, default=5.0, metavar="S", help="length of a clip (default: 5)")
    dry.add_argument("--text-tokens", type=positive, default=300, metavar="N", help="of a prompt (default: 300)")
    return parser


def _require_that_they_go_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.dry_run:
        if missing := [f"--{name}" for name in ("data", "checkpoint", "runs") if getattr(options, name) is None]:
            parser.error(f"{', '.join(missing)} must be given, except with --dry-run")
    elif not re.fullmatch(r"\d+x\d+", options.size):
        parser.error(f"--size must look like 448x256, got {options.size}")


def read_overrides(texts: Sequence[str]) -> dict[str, object]:
    """`name=value` to name and value, values in YAML.

    Raises:
        RecipeError: it does not look so.
    """
    overrides: dict[str, object] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise RecipeError(f"--set {text}: must look like name=value")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {text}: the value is not YAML") from error
    return overrides


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    parser = make_parser(prog)
    options = parser.parse_args(arguments)
    _require_that_they_go_together(parser, options)
    console = Console()
    try:
        recipe = load_recipe(options.recipe, read_overrides(options.overrides))
        if options.dry_run:
            _tell_memory(console, recipe, options)
            return EXIT_DONE
        spec = TrainingSpec(
            recipe,
            absolute(options.data),
            CheckpointSource(absolute(options.checkpoint), Settings().cache_dir),
            absolute(options.runs),
            options.num_workers,
            options.gpu,
            options.threads,
            report_every_s=options.report_every_s,
        )
        connect(options.address)
        history = train(spec)
    except KeyboardInterrupt:
        end_interrupted(partial(console.print, highlight=False))
    except (ValueError, OSError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    finally:
        disconnect()
    last = history[-1]
    console.print(f"{spec.recipe.stage}: {last['step']} steps, loss {last['loss']:.4g}", highlight=False)
    return EXIT_DONE


def _tell_memory(console: Console, recipe: Recipe, options: argparse.Namespace) -> None:
    width, height = map(int, options.size.split("x"))
    base_config = release_config("base")
    if options.checkpoint is not None and recipe.needed_component is not None:
        files = open_checkpoint(absolute(options.checkpoint))
        contents = read_contents(files, find_layout(files), recipe.needed_component)
        base_config = config_from_shapes(contents.shapes, recipe.needed_component, contents.config)
    clip = clip_layout(width, height, options.seconds, options.text_tokens)
    memory = training_memory(recipe, base_config, clip, options.num_workers)
    for name, gigabytes in memory_lines(memory):
        console.print(f"{name:12} {gigabytes:8.1f} GB per GPU", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
