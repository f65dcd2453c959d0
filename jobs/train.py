"""`python -m jobs.train RECIPE`: train one network, on CPUs or GPUs, and add it to a checkpoint.

Exit status: 0 done, 2 wrong usage, 130 interrupted, 1 when the run broke. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import ray
import yaml
from rich.console import Console

from actors.checkpoint_source import CheckpointSource
from actors.training.recipe import RecipeError, load_recipe
from jobs.generate import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, ClusterError, connect
from pipeline.settings import Settings
from pipeline.training import TrainingSpec, train


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong usage ends the process with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.train",
        description="Train one network by its recipe and add it to a checkpoint.",
        epilog="Running the same command again goes on where it stopped. See docs/training.md.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file; local or e.g. s3://")
    parser.add_argument("--data", required=True, metavar="URL", help="folder of clips, or of latents for Transformers")
    parser.add_argument("--checkpoint", required=True, metavar="URL", help="folder that is read from and added to")
    parser.add_argument("--runs", required=True, metavar="URL", help="folder of saved states and figures")
    parser.add_argument("--num-workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each (default: 1)")
    parser.add_argument("--gpu", action="store_true", help="a GPU for every process")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides", help="override one value"
    )
    parser.add_argument("--address", metavar="ADDRESS", help="Ray cluster (default: one of its own)")
    options = parser.parse_args(arguments)
    for name in ("num_workers", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
    return options


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


def absolute(url: str) -> str:
    """A path as workers, which have another working directory, understand it."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    options = parse_arguments(arguments)
    console = Console()
    try:
        spec = TrainingSpec(
            load_recipe(options.recipe, read_overrides(options.overrides)),
            absolute(options.data),
            CheckpointSource(absolute(options.checkpoint), Settings().cache_dir),
            absolute(options.runs),
            options.num_workers,
            options.gpu,
            options.threads,
        )
        connect(options.address)
        history = train(spec)
    except KeyboardInterrupt:
        console.print("interrupted: what is saved is kept, the same command continues", highlight=False)
        return EXIT_INTERRUPTED
    except (RecipeError, OSError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    finally:
        ray.shutdown()
    last = history[-1]
    console.print(f"{spec.recipe.stage}: {last['step']} steps, loss {last['loss']:.4g}", highlight=False)
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
