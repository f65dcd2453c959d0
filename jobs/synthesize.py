"""`python -m jobs.synthesize`: a recipe becomes a dataset, one partition at a time.

Exit status: 0 when the partition is in the dataset, 3 when some of its clips failed, others as `jobs.generate` has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.plain_text import printable
from actors.references import AllowedReferences, folder_of
from actors.request import ClipRequest
from actors.storage import join, write_atomically
from jobs.arguments import absolute, natural, positive
from jobs.generate import EXIT_DEAD_LETTERS, EXIT_DONE, EXIT_USAGE, ClusterError, run
from jobs.plan import price_per_hour
from pipeline.extras import require_libraries
from pipeline.images import find_image
from pipeline.preview import GPUS, Fleet, print_plan, print_prompts
from pipeline.run_lock import RunLock
from pipeline.run_spec import RunSpec
from pipeline.settings import Settings, load_settings
from pipeline.synthesis.card import write_card
from pipeline.synthesis.dataset import Dataset, with_shards
from pipeline.synthesis.recipe import NAME_PATTERN, Recipe, RecipeError, read_recipe
from pipeline.synthesis.sampling import SampledClip, expected_counts, sample
from pipeline.synthesis.shards import MAX_SHARD_MB, write_shards

PART_NAME = "part.jsonl"
"""Manifest of a run that makes some of a partition's clips."""
_SHOWN_PROMPTS = 3
_SHOWN_VALUES = 12


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong usage ends the process with status 2."""
    parser = argparse.ArgumentParser(prog="python -m jobs.synthesize", description="Make a partition of a dataset.")
    parser.add_argument("--recipe", required=True, metavar="URL", help="YAML file; local or s3://")
    parser.add_argument("--output", required=True, metavar="URL", help="folder of the dataset; local or e.g. s3://")
    parser.add_argument("--checkpoint", metavar="URL", help="checkpoint folder; a dry run can do without")
    what = parser.add_argument_group("what is made")
    what.add_argument(
        "--partition",
        type=_name,
        default="all",
        metavar="NAME",
        help="such as 2026-11-22, or today (UTC; default: all)",
    )
    what.add_argument(
        "--shard-mb", type=_shard_mb, metavar="MB", help="write WebDataset shards of about this size, too"
    )
    what.add_argument("--limit", type=positive, metavar="N", help="only the first N clips, to try")
    what.add_argument("--only", type=_names, metavar="ID,...", help="only these clips")
    what.add_argument("--retry-failed", action="store_true", help="try clips of a finished partition again that failed")
    what.add_argument("--overwrite", action="store_true", help="make a clip anew where the model or settings changed")
    what.add_argument("--dry-run", action="store_true", help="show what would be drawn, planned and paid; make nothing")
    how = parser.add_argument_group("how, as in jobs.generate")
    how.add_argument("--mode", choices=("base", "distill"))
    how.add_argument("--settings", metavar="FILE")
    how.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides")
    how.add_argument("--address", metavar="ADDRESS")
    how.add_argument("--gpus", type=natural, default=1, metavar="N")
    how.add_argument("--gpu", choices=GPUS, default=GPUS[0])
    how.add_argument("--price", type=price_per_hour, metavar="P")
    return parser.parse_args(arguments)


def _name(text: str) -> str:
    if text == "today":
        return datetime.now(UTC).date().isoformat()
    if not NAME_PATTERN.fullmatch(text):
        allowed = "1 to 40 letters, digits, underscores or hyphens, starting with a letter or digit"
        raise argparse.ArgumentTypeError(f"must be {allowed}, got {printable(text)}")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _shard_mb(text: str) -> int:
    value = positive(text)
    if value > MAX_SHARD_MB:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_SHARD_MB}, got {value}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    options = parse_arguments(arguments)
    overrides = [*options.overrides, *([f"mode={options.mode}"] if options.mode else [])]
    console = Console()
    try:
        if options.checkpoint is None and not options.dry_run:
            raise ValueError("--checkpoint is missing: the model to make clips with; --dry-run can do without")
        settings = load_settings(options.settings, overrides)
        recipe_url, dataset = absolute(options.recipe), Dataset(absolute(options.output))
        recipe = read_recipe(recipe_url)
        references = AllowedReferences.of_manifest(recipe_url, settings.allowed_references)
        images = _find_images(recipe, references, folder_of(recipe_url))
        if options.dry_run:
            return _preview(options, console, settings, recipe, dataset, images)
        require_libraries("synthesis", "matplotlib", *(["webdataset"] if options.shard_mb else []))
        settings = settings.model_copy(update={"allowed_references": references.prefixes})
        return _make(options, console, settings, recipe, dataset, images)
    except (ValueError, OSError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE


def _find_images(recipe: Recipe, references: AllowedReferences, folder_url: str) -> dict[str, str]:
    images = {}
    for one in recipe.axes.get("image", ()):
        try:
            images[str(one.value)] = find_image(str(one.value), references, folder_url)
        except ValueError as error:
            raise RecipeError(f"recipe axes.image {printable(str(one.value))}: {error}") from error
    return images


def _make(
    options: argparse.Namespace,
    console: Console,
    settings: Settings,
    recipe: Recipe,
    dataset: Dataset,
    images: dict[str, str],
) -> int:
    partition, is_part = options.partition, bool(options.only or options.limit)
    with dataset.alone():  # two partitions drawn side by side could draw the same
        if dataset.is_drawn(partition):
            dataset.require_same_recipe(partition, recipe)
        else:
            dataset.store(partition, recipe, sample(recipe, partition, images, dataset.taken_contents(partition)))
    if dataset.is_finished(partition) and not options.retry_failed:
        return _tell(console, dataset, partition, "finished already, nothing was made")
    folder_url = dataset.partition_url(partition)
    manifest_url = join(folder_url, PART_NAME) if is_part else dataset.manifest_url(partition)
    spec = RunSpec(manifest_url, folder_url, options.checkpoint, settings, options.overwrite)
    with RunLock(folder_url) as lock:
        if is_part:
            rows = _selected(dataset.requests(partition), options)
            lines = "".join(f"{row.model_dump_json(exclude_none=True)}\n" for row in rows)
            write_atomically(manifest_url, lines.encode(), "application/x-ndjson")
        status = run(spec, lock, options.address)
        if lock.lost is not None or status not in (EXIT_DONE, EXIT_DEAD_LETTERS):
            return status
        if is_part:
            console.print(f"partition {partition}: a part was made; without --only and --limit it is finished")
            return status
        table = dataset.made(partition)
        if options.shard_mb:
            shards = write_shards(dataset.url, partition, table, options.shard_mb * 1_000_000)
            table = with_shards(table, shards)
        with dataset.alone():
            card_url = write_card(dataset, partition, table)
            dataset.write_index(partition, table)  # last: it says that the partition is finished
    console.print(f"data card: {card_url}", highlight=False, soft_wrap=True)
    return _tell(console, dataset, partition, "is in the dataset")


def _tell(console: Console, dataset: Dataset, partition: str, what: str) -> int:
    """Say how a finished partition stands; the exit status follows from that."""
    num_made, num_failed = dataset.num_made(partition), dataset.num_drawn(partition)
    num_failed -= num_made
    failed = f", {num_failed:,} failed (--retry-failed tries them again)" if num_failed else ""
    console.print(f"partition {partition} {what}: {num_made:,} clips{failed}", highlight=False, soft_wrap=True)
    return EXIT_DEAD_LETTERS if num_failed else EXIT_DONE


def _selected(requests: Sequence[ClipRequest], options: argparse.Namespace) -> list[ClipRequest]:
    """What is to be made now.

    Raises:
        ValueError: a name that no clip has.
    """
    if options.only:
        known = {request.id for request in requests}
        if wrong := next((name for name in options.only if name not in known), None):
            raise ValueError(f"--only {printable(wrong)}: no clip of partition {options.partition} has this id")
        requests = [request for request in requests if request.id in options.only]
    return list(requests[: options.limit])


def _preview(
    options: argparse.Namespace,
    console: Console,
    settings: Settings,
    recipe: Recipe,
    dataset: Dataset,
    images: dict[str, str],
) -> int:
    partition, drawn = options.partition, None
    if dataset.is_drawn(partition):
        dataset.require_same_recipe(partition, recipe)
        requests = dataset.requests(partition)
    else:
        drawn = sample(recipe, partition, images, dataset.taken_contents(partition))
        requests = [clip.request for clip in drawn]
    requests = _selected(requests, options)
    shown = requests if options.only else requests[: min(len(requests), options.limit or _SHOWN_PROMPTS)]
    print_prompts(console, shown, len(requests), sum(request.seconds or 0.0 for request in requests))
    if drawn is not None and not options.only and not options.limit:
        console.print(_spread(recipe, drawn))
        console.print()
    fleet = Fleet(options.gpus, options.gpu, options.price)
    return (
        EXIT_DEAD_LETTERS
        if print_plan(console, partition, requests, settings, fleet, options.checkpoint)
        else EXIT_DONE
    )


def _spread(recipe: Recipe, clips: Sequence[SampledClip]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("axis")
    table.add_column("value", overflow="fold")
    table.add_column("by weight", justify="right")
    table.add_column("drawn", justify="right")
    for axis, counts in expected_counts(recipe, clips).items():
        for number, (value, wanted, found) in enumerate(counts[:_SHOWN_VALUES]):
            table.add_row("" if number else axis, escape(printable(value, 60)), f"{wanted:.1f}", f"{found:,}")
        if (more := len(counts) - _SHOWN_VALUES) > 0:
            table.add_row("", f"... and {more} more", "", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
