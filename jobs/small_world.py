"""`python -m jobs.small_world`: make training data of the small world, and manifests to judge a model by.

Exit status: 0 done, 2 wrong usage, 130 interrupted, 1 when the run broke. Shards that are there are left alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actors.checkpoint_source import CheckpointSource
from actors.small_world.shards import ClipShards
from actors.small_world.speech import SpeechError
from jobs.arguments import absolute, natural, positive
from jobs.generate import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, ClusterError, connect
from pipeline.settings import DEFAULT_NEGATIVE_PROMPT, Settings
from pipeline.small_world import make_clips, make_latents, write_manifest, write_small_text_encoder


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; wrong usage ends the process with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.small_world",
        description="Training data and manifests of the small world: drawn heads that say one word by espeak-ng.",
        epilog="Running the same command again makes what is still missing. See docs/small_world.md.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    clips = commands.add_parser("clips", help="render clips into shards")
    clips.add_argument("--num-clips", type=positive, default=6000, metavar="N", help="in all (default: 6000)")
    clips.add_argument("--per-shard", type=positive, default=250, metavar="N", help="clips per file (default: 250)")
    latents = commands.add_parser("latents", help="encode shards of clips with a checkpoint's encoders")
    latents.add_argument("--clips", required=True, metavar="URL", help="folder of clip shards")
    latents.add_argument("--checkpoint", required=True, metavar="URL", help="has both autoencoders and a text encoder")
    latents.add_argument(
        "--large-shards", type=positive, metavar="N", help="files with the latents of 540p too (default: all)"
    )
    text_encoder = commands.add_parser("text-encoder", help="add a small text encoder to a checkpoint")
    text_encoder.add_argument(
        "--clips", required=True, metavar="URL", help="folder of clip shards, whose prompts count"
    )
    text_encoder.add_argument(
        "--vocabulary", type=positive, default=2048, metavar="N", help="most tokens (default: 2048)"
    )
    text_encoder.add_argument(
        "--min-frequency", type=positive, default=40, metavar="N", help="of phrases that are tokens (default: 40)"
    )
    text_encoder.add_argument("--width", type=positive, default=256, metavar="N", help="of features (default: 256)")
    manifest = commands.add_parser("manifest", help="write prompts to judge a model by")
    manifest.add_argument("--num-clips", type=positive, default=400, metavar="N", help="rows (default: 400)")
    manifest.add_argument("--resolution", choices=("256p", "540p"), default="256p")
    manifest.add_argument(
        "--conditions", choices=("text", "image"), default="text", help="what tells the look (default: text)"
    )
    for command in (clips, latents, text_encoder, manifest):
        command.add_argument("--output", required=True, metavar="URL", help="folder of the results")
    for command, default in ((clips, 1), (text_encoder, 0), (manifest, 1_000_000)):
        command.add_argument("--seed", type=natural, default=default, help=f"default: {default}")
    for command in (clips, latents):
        command.add_argument("--address", metavar="ADDRESS", help="Ray cluster (default: one of its own)")
        command.add_argument("--num-workers", type=positive, metavar="N", help="tasks at a time (default: all CPUs)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status."""
    options = parse_arguments(arguments)
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
        ray.shutdown()
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
