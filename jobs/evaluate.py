"""`python -m jobs.evaluate`: figures about the finished clips of a run, or about a checkpoint's super-resolution."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actors.checkpoint_source import CheckpointSource, open_checkpoint
from actors.small_world.enlarging import Enlarging
from actors.small_world.speech import SpeechError
from actors.storage import join
from jobs.arguments import EXIT_USAGE, JobParser, add_num_workers, add_settings, positive, settings_of
from jobs.generate import EXIT_DONE, EXIT_INTERRUPTED
from model.capabilities import read_capabilities
from model.layout import find_layout
from pipeline.evaluation import EvaluationBrokenError, EvaluationError, EvaluationSpec, evaluate
from pipeline.evaluation_report import REPORT_FOLDER, print_evaluation, write_evaluation
from pipeline.extras import require_libraries
from pipeline.super_resolution_evaluation import evaluate_super_resolution, print_figures, write_figures

PROG = "python -m jobs.evaluate"

EXIT_BROKEN = 1

_LIBRARIES = ("jiwer", "matplotlib", "pocketsphinx")
_SEED = 2_000_000
_NUM_CLIPS = 50
_OF_A_RUN = {"--output": "output", "--whisper": "whisper", "--num-workers": "num_workers"}
_OF_SUPER_RESOLUTION = {
    "--checkpoint": "checkpoint",
    "--num-clips": "num_clips",
    "--seed": "seed",
    "--settings": "settings",
    "--set": "overrides",
}


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Judge the finished clips of a run: words, mouths, colours, lengths. With --super-resolution: compare a "
        "checkpoint's super-resolution with bilinear enlargement.",
        (
            "--output out/demo",
            "--super-resolution --checkpoint checkpoints/mini --report out/super_resolution --num-clips 50",
        ),
        {
            EXIT_DONE: "done",
            EXIT_BROKEN: "the evaluation broke",
            EXIT_USAGE: "wrong usage, or nothing that can be evaluated",
            EXIT_INTERRUPTED: "interrupted",
        },
        "What every figure means: docs/evaluation.md.",
    )
    ends, made = parser.ends, parser.made
    ends.add_argument("--output", metavar="URL", help="folder of a run; local or e.g. s3://")
    ends.add_argument("--report", metavar="URL", help="folder of the figures (default: evaluation/ in --output)")
    ends.add_argument(
        "--whisper", metavar="FOLDER", help="Whisper checkpoint for WER and CER, as transformers saves it"
    )
    ends.add_argument("--checkpoint", metavar="URL", help="with --super-resolution: checkpoint folder")
    made.add_argument("--super-resolution", action="store_true", help="evaluate a checkpoint instead of a run")
    made.add_argument(
        "--num-clips", type=positive, metavar="N", help=f"with --super-resolution: clips (default: {_NUM_CLIPS})"
    )
    made.add_argument("--seed", type=int, metavar="N", help=f"with --super-resolution: of the world (default: {_SEED})")
    add_settings(parser, "with --super-resolution: ")
    add_num_workers(parser, default="all cores")
    return parser


def _require_that_they_go_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    needed = ("checkpoint", "report") if options.super_resolution else ("output",)
    if missing := [f"--{name}" for name in needed if getattr(options, name) is None]:
        mode = " with --super-resolution" if options.super_resolution else ""
        parser.error(f"{' and '.join(missing)} must be given{mode}")
    others = _OF_A_RUN if options.super_resolution else _OF_SUPER_RESOLUTION
    if unused := [option for option, name in others.items() if getattr(options, name) not in (None, [])]:
        mode = "with" if options.super_resolution else "without"
        parser.error(f"{' and '.join(unused)} must not be given {mode} --super-resolution")


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the job; returns the exit status."""
    parser = make_parser(prog)
    options = parser.parse_args(arguments)
    _require_that_they_go_together(parser, options)
    console = Console()
    try:
        (_evaluate_super_resolution if options.super_resolution else _evaluate_run)(options, console)
    except KeyboardInterrupt:
        console.print("interrupted: no figures were written", highlight=False)
        return EXIT_INTERRUPTED
    except EvaluationBrokenError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BROKEN
    except (ValueError, OSError, EvaluationError, SpeechError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return EXIT_DONE


def _evaluate_run(options: argparse.Namespace, console: Console) -> None:
    require_libraries("evaluation", *_LIBRARIES)
    report_url = options.report or join(options.output, REPORT_FOLDER)
    spec = EvaluationSpec(options.output, options.num_workers or os.cpu_count() or 1, options.whisper)
    with _progress(console) as on_judged:
        evaluation = evaluate(spec, on_judged)
    write_evaluation(report_url, evaluation)
    print_evaluation(console, evaluation)
    console.print(f"figures: {report_url}", highlight=False, soft_wrap=True)


def _evaluate_super_resolution(options: argparse.Namespace, console: Console) -> None:
    settings = settings_of(options)
    seed = _SEED if options.seed is None else options.seed
    source = CheckpointSource(options.checkpoint, settings.cache_dir)
    files = open_checkpoint(options.checkpoint)
    samplers = settings.sampling.samplers(read_capabilities(files, find_layout(files)).samplers)
    enlarging = Enlarging(source, samplers.super_resolution, settings.sampling.negative_prompt)
    with _progress(console) as on_compared:
        clips = evaluate_super_resolution(enlarging, seed, options.num_clips or _NUM_CLIPS, on_compared)
    write_figures(options.report, options.checkpoint, seed, clips)
    print_figures(console, clips)
    console.print(f"figures: {options.report}", highlight=False, soft_wrap=True)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar, and what moves it on."""
    columns = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("clips", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
