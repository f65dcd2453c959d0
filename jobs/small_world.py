"""`python -m jobs.small_world`: make training data of the small world, and manifests to judge a model by.

Shards that are there are left alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actors.checkpoint_source import CheckpointSource
from actors.small_world.shards import ClipShards
from actors.small_world.speech import SpeechError
from jobs.arguments import (
    EXIT_USAGE,
    TRAINING_STATUSES,
    JobParser,
    absolute,
    add_address,
    add_checkpoint,
    add_num_workers,
    add_output,
    natural,
    positive,
)
from jobs.connection import ClusterError, connect, disconnect
from jobs.generate import EXIT_DONE, EXIT_INTERRUPTED
from pipeline.settings import DEFAULT_NEGATIVE_PROMPT, Settings
from pipeline.small_world import make_clips, make_latents, write_manifest, write_small_text_encoder

PROG = "python -m jobs.small_world"


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Training data and manifests of the small world: drawn heads that say one word by espeak-ng. Running the same "
        "command again makes what is still missing.",
        ("clips --output out/clips --num-clips 6000", "manifest --output out/judge --num-clips 400"),
        TRAINING_STATUSES,
        "The small world: docs/small_world.md.",
    )
    commands = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", prog=prog, parser_class=JobParser
    )

    def add_command(name: str, about: str, *examples: str) -> JobParser:
        description = f"{about[0].upper()}{about[1:]}."
        return commands.add_parser(
            name, help=about, description=description, examples=examples, statuses=TRAINING_STATUSES
        )

    _add_clips(add_command("clips", "render clips into shards", "--output out/clips --num-clips 6000"))
    _add_latents(
        add_command(
            "latents",
            "encode shards of clips with a checkpoint's encoders",
            "--clips out/clips --checkpoint checkpoints/mini --output out/latents",
        )
    )
    _add_text_encoder(
        add_command(
            "text-encoder",
            "add a small text encoder to a checkpoint",
            "--clips out/clips --output out/mini/checkpoint",
        )
    )
    _add_manifest(
        add_command(
            "manifest",
            "write prompts to judge a model by",
            "--output out/judge --num-clips 400",
            "--output out/judge-540p --num-clips 98 --resolution 540p --conditions image",
        )
    )
    return parser


def _add_clips(parser: JobParser) -> None:
    add_output(parser, "folder of the shards")
    parser.made.add_argument("--num-clips", type=positive, default=6000, metavar="N", help="in all (default: 6000)")
    parser.made.add_argument(
        "--per-shard", type=positive, default=250, metavar="N", help="clips per file (default: 250)"
    )
    _add_seed(parser, 1)
    add_num_workers(parser, "tasks")
    add_address(parser)


def _add_latents(parser: JobParser) -> None:
    parser.ends.add_argument("--clips", required=True, metavar="URL", help="folder of clip shards")
    add_checkpoint(parser, "has both autoencoders and a text encoder")
    add_output(parser, "folder of the latents")
    parser.made.add_argument(
        "--large-shards", type=positive, metavar="N", help="files with the latents of 540p too (default: all)"
    )
    add_num_workers(parser, "tasks")
    add_address(parser)


def _add_text_encoder(parser: JobParser) -> None:
    made = parser.made
    parser.ends.add_argument("--clips", required=True, metavar="URL", help="folder of clip shards, whose prompts count")
    add_output(parser, "checkpoint folder that gets it")
    made.add_argument("--vocabulary", type=positive, default=2048, metavar="N", help="most tokens (default: 2048)")
    made.add_argument(
        "--min-frequency", type=positive, default=40, metavar="N", help="of phrases that are tokens (default: 40)"
    )
    made.add_argument("--width", type=positive, default=256, metavar="N", help="of features (default: 256)")
    _add_seed(parser, 0)


def _add_manifest(parser: JobParser) -> None:
    add_output(parser, "folder of the manifest and its images")
    parser.made.add_argument("--num-clips", type=positive, default=400, metavar="N", help="rows (default: 400)")
    parser.made.add_argument("--resolution", choices=("256p", "540p"), default="256p", help="of all (default: 256p)")
    parser.made.add_argument(
        "--conditions", choices=("text", "image"), default="text", help="what tells the look (default: text)"
    )
    _add_seed(parser, 1_000_000)


def _add_seed(parser: JobParser, default: int) -> None:
    parser.made.add_argument("--seed", type=natural, default=default, metavar="N", help=f"default: {default}")


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    console = Console()
    try:
        if options.command == "manifest":
            url = write_manifest(
                options.output, options.seed, options.num_clips, options.resolution, options.conditions
            )
            console.print(f"{options.num_clips} rows in {url}", highlight=False)
            return EXIT_DONE
        if options.command == "text-encoder":
            sizes = (options.vocabulary, options.min_frequency, options.width, options.seed)
            write_small_text_encoder(options.clips, options.output, DEFAULT_NEGATIVE_PROMPT, *sizes)
            console.print(f"text encoder in {options.output}", highlight=False)
            return EXIT_DONE
        num_cpus = connect(options.address)
        _show(console, _make(options, options.num_workers or num_cpus))
    except KeyboardInterrupt:
        console.print("interrupted: what is done is kept, the same command continues", highlight=False)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, ClusterError, SpeechError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    finally:
        disconnect()
    return EXIT_DONE


def _make(options: argparse.Namespace, num_workers: int) -> Iterator[int]:
    output = absolute(options.output)
    if options.command == "clips":
        shards = ClipShards(output, options.seed, options.num_clips, options.per_shard)
        return make_clips(shards, num_workers)
    source = CheckpointSource(absolute(options.checkpoint), Settings().cache_dir)
    how_many = (num_workers, options.large_shards)
    return make_latents(absolute(options.clips), output, source, DEFAULT_NEGATIVE_PROMPT, *how_many)


def _show(console: Console, finished: Iterator[int]) -> None:
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    num_clips = 0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("clips", total=None)
        for num_more in finished:
            num_clips += num_more
            progress.update(task, completed=num_clips)
    console.print(f"{num_clips} clips made", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
