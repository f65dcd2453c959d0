"""`python -m jobs.synthesize`: a recipe becomes a dataset, one partition at a time.

Exit status: 0 when the partition is in the dataset, 3 when some of its clips failed, others as `jobs.generate` has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.checkpoint_source import open_checkpoint
from actors.plain_text import printable
from actors.redaction import redact
from actors.references import AllowedReferences, folder_of
from actors.request import ClipRequest
from actors.storage import join
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
from jobs.connection import ClusterError
from jobs.generate import EXIT_DEAD_LETTERS, EXIT_DONE, EXIT_INTERRUPTED, STATUSES, run
from jobs.next_steps import with_next_step
from model.layout import find_layout
from pipeline.dead_letters import read_failures
from pipeline.extras import require_libraries
from pipeline.images import find_image
from pipeline.manifest import write_manifest
from pipeline.preview import print_plan, print_prompts
from pipeline.run_lock import RunLock
from pipeline.run_spec import RunSpec
from pipeline.settings import Settings
from pipeline.synthesis.card import write_card
from pipeline.synthesis.dataset import SHARD, Dataset, with_shards
from pipeline.synthesis.draw import SampledClip
from pipeline.synthesis.recipe import NAME_PATTERN, Recipe, RecipeError, read_recipe
from pipeline.synthesis.sampling import expected_counts, sample
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
        {
            **STATUSES,
            EXIT_DONE: "the partition is in the dataset, or the part asked for is made",
            EXIT_DEAD_LETTERS: "some of its clips failed",
        },
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
        recipe_url, dataset = absolute(options.recipe, "recipe"), Dataset(absolute(options.output, "output"))
        references = AllowedReferences.of_manifest(recipe_url, settings.allowed_references)
        recipe = read_recipe(recipe_url, references)
        images = _find_images(recipe, references, folder_of(recipe_url))
        if options.dry_run:
            return _preview(options, console, settings, recipe, dataset, images)
        require_libraries("synthesis", "matplotlib", *(["webdataset"] if options.shard_mb else []))
        if options.checkpoint is not None:
            find_layout(open_checkpoint(options.checkpoint))  # before anything is kept that cannot be made
        settings = settings.model_copy(update={"allowed_references": references.prefixes})
        return _make(options, console, settings, recipe, dataset, images)
    except (ValueError, OSError, ClusterError) as error:
        print(f"error: {with_next_step(error)}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted: what is done is kept, the same command continues", file=sys.stderr)
        return EXIT_INTERRUPTED


def _find_images(recipe: Recipe, references: AllowedReferences, folder_url: str) -> dict[str, str]:
    images: dict[str, str] = {}
    for one in recipe.axes.get("image", ()):
        name = str(one.value)
        try:
            url = find_image(name, references, folder_url)
        except ValueError as error:
            raise RecipeError(f"recipe axes.image {redact(printable(name))}: {error}") from error
        if url.partition("?")[0] in (there.partition("?")[0] for there in images.values()):
            raise RecipeError(f"recipe axes.image {redact(printable(name))}: the axis has this image already")
        images[name] = url
    return images


def _requests(
    options: argparse.Namespace, recipe: Recipe, dataset: Dataset, images: dict[str, str]
) -> tuple[list[ClipRequest], list[SampledClip] | None]:
    """Clips of the partition, and of one that is not drawn yet, or may be drawn anew, the draw.

    Raises:
        RecipeError: it was drawn from another recipe and has clips, or cannot be drawn.
    """
    partition = options.partition
    dataset.require_room_for(partition, recipe)
    if dataset.is_drawn(partition):
        try:
            dataset.require_same_recipe(partition, recipe)
            return dataset.requests(partition), None
        except RecipeError:
            if dataset.has_clips(partition):
                raise
    drawn = sample(recipe, partition, images, dataset.taken_contents(partition))
    return [clip.request for clip in drawn], drawn


def _make(
    options: argparse.Namespace,
    console: Console,
    settings: Settings,
    recipe: Recipe,
    dataset: Dataset,
    images: dict[str, str],
) -> int:
    partition = options.partition
    with dataset.alone():  # two partitions drawn side by side could draw the same
        requests, drawn = _requests(options, recipe, dataset, images)
        selected = _selected(requests, options, dataset)
        if drawn is not None:
            dataset.store(partition, recipe, drawn)
    is_finished = dataset.is_finished(partition)
    shard_mb = options.shard_mb or (dataset.shard_mb(partition) if is_finished else None)
    with RunLock(dataset.partition_url(partition)) as lock:
        if is_finished and not (options.retry_failed or options.overwrite):
            if shard_mb == dataset.shard_mb(partition):
                return _tell(console, dataset, partition, "finished already, nothing was made")
            _finish(console, dataset, partition, dataset.read_index(partition), shard_mb)
            return _tell(console, dataset, partition, "has shards of another size now")
        if not selected:
            console.print(f"partition {partition}: nothing failed that could be tried again")
            return EXIT_DONE
        is_part = len(selected) < len(requests)
        manifest_url = dataset.manifest_url(partition)
        if is_part:
            manifest_url = join(dataset.partition_url(partition), PART_NAME)
            write_manifest(selected, manifest_url)
        spec = RunSpec(manifest_url, dataset.partition_url(partition), options.checkpoint, settings, options.overwrite)
        status = run(spec, lock, options.address)
        if lock.lost is not None or status not in (EXIT_DONE, EXIT_DEAD_LETTERS):
            return status
        if is_part and not is_finished:
            console.print(f"partition {partition}: a part was made; without --only and --limit it is finished")
            return status
        # What the run refused is there perhaps, and made from something else.
        failed = read_failures(spec.output_url).keys()
        earlier = {*dataset.read_index(partition, ["id"])["id"].to_pylist()} if is_part else set()
        wanted = earlier | {request.id for request in selected}
        table = dataset.made(partition, failed | ({request.id for request in requests} - wanted))
        _finish(console, dataset, partition, table, shard_mb)
    return _tell(console, dataset, partition, "is in the dataset")


def _finish(console: Console, dataset: Dataset, partition: str, table: pa.Table, shard_mb: int | None) -> None:
    """Write shards, data card and index; the index last, since it says that the partition is finished."""
    table = table.drop_columns([SHARD]) if SHARD in table.column_names else table
    if shard_mb is not None:
        table = with_shards(table, write_shards(dataset.url, partition, table, shard_mb * 1_000_000))
    with dataset.alone():
        card_url = write_card(dataset, partition, table)
        dataset.write_index(partition, table, shard_mb)
    console.print(f"data card: {card_url}", highlight=False, soft_wrap=True)


def _tell(console: Console, dataset: Dataset, partition: str, what: str) -> int:
    """Say how a finished partition stands; the exit status follows from that."""
    num_made = dataset.num_made(partition)
    num_failed = dataset.num_drawn(partition) - num_made
    failed = f", {num_failed:,} failed (--retry-failed tries them again)" if num_failed else ""
    console.print(f"partition {partition} {what}: {num_made:,} clips{failed}", highlight=False, soft_wrap=True)
    return EXIT_DEAD_LETTERS if num_failed else EXIT_DONE


def _selected(requests: Sequence[ClipRequest], options: argparse.Namespace, dataset: Dataset) -> list[ClipRequest]:
    """What is to be made now.

    Raises:
        ValueError: a name that no clip has.
    """
    selected, partition = list(requests), options.partition
    if options.only:
        known = {request.id for request in requests}
        if wrong := next((name for name in options.only if name not in known), None):
            raise ValueError(f"--only {printable(wrong)}: no clip of partition {partition} has this id")
        selected = [request for request in selected if request.id in options.only]
    if options.retry_failed:
        if dataset.is_finished(partition):
            made = {*dataset.read_index(partition, ["id"])["id"].to_pylist()}
            selected = [request for request in selected if request.id not in made]
        else:
            failed = read_failures(dataset.partition_url(partition))
            selected = [request for request in selected if request.id in failed]
    return selected[: options.limit]


def _preview(
    options: argparse.Namespace,
    console: Console,
    settings: Settings,
    recipe: Recipe,
    dataset: Dataset,
    images: dict[str, str],
) -> int:
    partition = options.partition
    requests, drawn = _requests(options, recipe, dataset, images)
    selected = _selected(requests, options, dataset)
    if dataset.is_finished(partition) and not (options.retry_failed or options.overwrite):
        return _tell(console, dataset, partition, "finished already, nothing would be made")
    shown = selected if options.only else selected[: options.limit or _SHOWN_PROMPTS]
    print_prompts(console, shown, len(selected), sum(request.seconds or 0.0 for request in selected))
    if drawn is not None and len(selected) == len(requests):
        console.print(_spread(recipe, drawn))
        console.print()
    num_refused = print_plan(console, partition, selected, settings, fleet_of(options), options.checkpoint)
    return EXIT_DEAD_LETTERS if num_refused else EXIT_DONE


def _spread(recipe: Recipe, clips: Sequence[SampledClip]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("axis")
    table.add_column("value", overflow="fold")
    table.add_column("by weight", justify="right")
    table.add_column("drawn", justify="right")
    for axis, counts in expected_counts(recipe, clips).items():
        for number, (value, wanted, found) in enumerate(counts[:_SHOWN_VALUES]):
            table.add_row("" if number else axis, escape(redact(printable(value, 60))), f"{wanted:.1f}", f"{found:,}")
        if (more := len(counts) - _SHOWN_VALUES) > 0:
            table.add_row("", f"... and {more} more", "", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
