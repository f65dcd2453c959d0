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
from jobs.arguments import (
    EXIT_USAGE,
    JobParser,
    absolute,
    add_address,
    add_checkpoint,
    add_dry_run,
    add_mode,
    add_output,
    add_overwrite,
    add_selection,
    add_settings,
    fleet_of,
    positive,
    require_checkpoint,
    settings_of,
)
from jobs.generate import EXIT_DEAD_LETTERS, EXIT_DONE, STATUSES, ClusterError, run
from jobs.next_steps import with_next_step
from pipeline.extras import require_libraries
from pipeline.images import find_image
from pipeline.preview import print_plan, print_prompts
from pipeline.run_lock import RunLock
from pipeline.run_spec import RunSpec
from pipeline.settings import Settings
from pipeline.synthesis.card import write_card
from pipeline.synthesis.dataset import Dataset, with_shards
from pipeline.synthesis.recipe import NAME_PATTERN, Recipe, RecipeError, read_recipe
from pipeline.synthesis.sampling import SampledClip, expected_counts, sample
from pipeline.synthesis.shards import MAX_SHARD_MB, write_shards

PROG = "python -m jobs.synthesize"

PART_NAME = "part.jsonl"
"""Manifest of a run that makes some of a partition's clips."""
_SHOWN_PROMPTS = 3
_SHOWN_VALUES = 12


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    recipe = "--recipe examples/recipe.yaml --output out/greetings"
    night = f"{recipe} --checkpoint checkpoints/mini --partition 2026-11-22"
    parser = JobParser(
        prog,
        "Make a partition of a dataset by a recipe: clips drawn to its weights, an index, a data card. Running the "
        "same command again continues where it stopped, and does nothing once the partition is finished.",
        (f"{recipe} --partition 2026-11-22 --dry-run --gpus 8 --price 2.5", night, f"{night} --shard-mb 500"),
        {**STATUSES, EXIT_DONE: "the partition is in the dataset", EXIT_DEAD_LETTERS: "some of its clips failed"},
        "Recipes: docs/synthesis.md. Settings: docs/settings.md.",
    )
    parser.ends.add_argument("--recipe", required=True, metavar="URL", help="YAML file; local or e.g. s3://")
    add_output(parser, "folder of the dataset; local or e.g. s3://")
    add_checkpoint(parser, "checkpoint folder; local or e.g. s3://; a dry run can do without", is_required=False)
    made = parser.made
    made.add_argument(
        "--partition",
        type=_name,
        default="all",
        metavar="NAME",
        help="such as 2026-11-22, or today (UTC; default: all)",
    )
    made.add_argument(
        "--shard-mb", type=_shard_mb, metavar="MB", help="write WebDataset shards of about this size, too"
    )
    add_selection(parser, "of a finished partition", "clips")
    add_overwrite(parser, "make a clip anew where the checkpoint or a setting has changed")
    add_mode(parser)
    add_settings(parser)
    add_address(parser)
    add_dry_run(parser)
    return parser


def _name(text: str) -> str:
    if text == "today":
        return datetime.now(UTC).date().isoformat()
    if not NAME_PATTERN.fullmatch(text):
        allowed = "1 to 40 letters, digits, underscores or hyphens, starting with a letter or digit"
        raise argparse.ArgumentTypeError(f"must be {allowed}, got {printable(text)}")
    return text


def _shard_mb(text: str) -> int:
    value = positive(text)
    if value > MAX_SHARD_MB:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_SHARD_MB}, got {value}")
    return value


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    console = Console()
    try:
        require_checkpoint(options)
        settings = settings_of(options)
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
        print(f"error: {with_next_step(error)}", file=sys.stderr)
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
    return (
        EXIT_DEAD_LETTERS
        if print_plan(console, partition, requests, settings, fleet_of(options), options.checkpoint)
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
