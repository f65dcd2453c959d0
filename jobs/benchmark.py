"""`python -m jobs.benchmark`: measure what clips cost on this machine, for `jobs.plan` and for runs.

Makes a few clips of a checkpoint at each resolution, stage by stage in this process, one clip at a time, and writes
`costs.yaml` into the output; the clips lie beside it. Exit status: 0 measured, 1 a clip failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from actors.storage import join, write_atomically
from jobs.arguments import positive
from model.capabilities import BASE_RESOLUTION
from model.geometry import MAX_SECONDS, RESOLUTIONS
from pipeline.benchmark import Benchmark, BenchmarkError
from pipeline.forecast import Model
from pipeline.run_spec import RunSpec
from pipeline.settings import load_settings

EXIT_DONE = 0
EXIT_BROKEN = 1
EXIT_USAGE = 2

COSTS_NAME = "costs.yaml"
_MANIFEST_NAME = "manifest.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.benchmark",
        description="Measure what clips cost on this machine: a file of figures for jobs.plan and for runs.",
        epilog="Exit status: 0 measured, 1 a clip failed, 2 wrong usage.",
    )
    parser.add_argument("--checkpoint", required=True, metavar="URL", help="checkpoint folder; local or e.g. s3://")
    parser.add_argument("--output", required=True, metavar="URL", help=f"folder that gets {COSTS_NAME} and the clips")
    parser.add_argument(
        "--resolution",
        action="append",
        choices=RESOLUTIONS,
        help="measure only this one; may be repeated (default: all that the checkpoint has)",
    )
    parser.add_argument(
        "--clips", type=positive, default=3, metavar="N", help="clips per resolution, besides the first (default: 3)"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a clip (default: the checkpoint's)")
    parser.add_argument("--mode", choices=("base", "distill"), help="as in jobs.generate")
    parser.add_argument("--settings", metavar="FILE", help="YAML file of settings, as in jobs.generate")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides", help="override one setting"
    )
    options = parser.parse_args(arguments)
    overrides = [*options.overrides, *([f"mode={options.mode}"] if options.mode else [])]
    try:
        settings = load_settings(options.settings, overrides)
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
        print(f"error: {error}", file=sys.stderr)
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
