"""`python -m jobs.benchmark`: measure what clips cost on this machine, for `jobs.plan` and for runs.

Makes a few clips of a checkpoint at each resolution, stage by stage in this process, one clip at a time, and writes
`costs.yaml` into the output; the clips lie beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from actors.storage import join, write_atomically
from jobs.arguments import (
    EXIT_USAGE,
    JobParser,
    add_checkpoint,
    add_mode,
    add_output,
    add_settings,
    positive,
    settings_of,
)
from jobs.next_steps import with_next_step
from model.capabilities import BASE_RESOLUTION
from model.geometry import MAX_SECONDS, RESOLUTIONS
from pipeline.benchmark import Benchmark, BenchmarkError
from pipeline.forecast import Model
from pipeline.run_spec import RunSpec

PROG = "python -m jobs.benchmark"

EXIT_DONE = 0
EXIT_BROKEN = 1

COSTS_NAME = "costs.yaml"
_MANIFEST_NAME = "manifest.jsonl"


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Measure what clips cost on this machine: a file of figures for plans and for runs.",
        (
            "--checkpoint checkpoints/mini --output out/benchmark --resolution 256p --clips 1",
            "--checkpoint checkpoints/release --output out/benchmark --mode base",
        ),
        {EXIT_DONE: "measured", EXIT_BROKEN: "a clip failed", EXIT_USAGE: "wrong usage"},
        "What is measured: docs/planning.md.",
    )
    add_checkpoint(parser)
    add_output(parser, f"folder that gets {COSTS_NAME} and the clips; local or e.g. s3://")
    parser.made.add_argument(
        "--resolution",
        action="append",
        choices=RESOLUTIONS,
        help="measure only this one; may be repeated (default: all that the checkpoint has)",
    )
    parser.made.add_argument(
        "--clips", type=positive, default=3, metavar="N", help="clips per resolution, besides the first (default: 3)"
    )
    parser.made.add_argument("--seconds", type=float, metavar="S", help="length of a clip (default: the checkpoint's)")
    add_mode(parser)
    add_settings(parser)
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Measure and write; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        settings = settings_of(options)
        # Clips of an earlier benchmark are made anew: what counts is the time.
        spec = RunSpec(
            join(options.output, _MANIFEST_NAME), options.output, options.checkpoint, settings, overwrite=True
        )
        model = Model.at(spec.checkpoint_url)
        seconds, resolutions = _clip_seconds(model, options.seconds), _resolutions(model, options.resolution)
        benchmark = Benchmark(spec, model, options.clips, seconds, lambda line: print(line, flush=True))
        return _measure(benchmark, resolutions)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BROKEN
    except (ValueError, OSError) as error:
        print(f"error: {with_next_step(error)}", file=sys.stderr)
        return EXIT_USAGE


def _clip_seconds(model: Model, wanted: float | None) -> float:
    shortest, longest = model.capabilities.min_seconds, min(model.capabilities.max_seconds, MAX_SECONDS)
    if wanted is not None and not shortest <= wanted <= longest:
        raise ValueError(f"--seconds {wanted:g}: must be between {shortest:g} and {longest:g} here")
    return model.capabilities.default_seconds if wanted is None else wanted


def _resolutions(model: Model, wanted: Sequence[str] | None) -> list[str]:
    """Those wanted, smallest first; otherwise all that the checkpoint has the networks for."""
    capabilities, layout = model.capabilities, model.layout
    for name in wanted or ():
        if name not in capabilities.resolutions:
            raise ValueError(f"--resolution {name}: must be one of {', '.join(capabilities.resolutions)} here")
    if wanted is None and layout is not None:
        return [name for name in capabilities.resolutions if name == BASE_RESOLUTION or layout.has(f"sr_{name}")]
    return [name for name in RESOLUTIONS if name in (wanted or capabilities.resolutions)]


def _measure(benchmark: Benchmark, resolutions: Sequence[str]) -> int:
    requests = [request for resolution in resolutions for request in benchmark.requests(resolution)]
    lines = [json.dumps(request.model_dump(mode="json", exclude_none=True)) + "\n" for request in requests]
    write_atomically(benchmark.spec.manifest_url, "".join(lines).encode())
    table = benchmark.measure(resolutions)
    url = join(benchmark.spec.output_url, COSTS_NAME)
    write_atomically(url, table.to_yaml())
    print(f"{url}: {len(table.figures)} figures of {table.device}; jobs.plan --costs {url} plans with them")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
