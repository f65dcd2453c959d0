"""`python -m jobs.check_checkpoint URL`: say what a checkpoint holds, what is wrong with it, and what it can make."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

from actors.checkpoint_source import open_checkpoint
from jobs.arguments import EXIT_USAGE, JobParser
from model.capabilities import Capabilities
from model.checkpoint_files import CheckpointError
from model.components import Contents
from model.geometry import RESOLUTIONS
from model.inspection import MODES, Inspection, inspect, parameter_counts
from model.layout import COMPONENTS, CONFIG_NAME

PROG = "python -m jobs.check_checkpoint"

EXIT_SOUND = 0
EXIT_FAULTY = 1

_SHORT_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}
_LANES = [f"{mode}/{resolution}" for mode in MODES for resolution in RESOLUTIONS]


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        "Say what a checkpoint holds, what is missing or wrong, and which modes can run. Only names, shapes and sizes "
        "are read, so a bucket with hundreds of gigabytes takes seconds.",
        ("checkpoints/mini", "s3://bucket/checkpoints --lane distill/540p"),
        {
            EXIT_SOUND: "everything needed is sound",
            EXIT_FAULTY: "something is absent or wrong",
            EXIT_USAGE: "wrong usage, or a store out of reach",
        },
        "Layouts of checkpoints: docs/checkpoints.md.",
    )
    parser.ends.add_argument("url", metavar="URL", help="checkpoint folder; local or e.g. s3://")
    parser.made.add_argument(
        "--lane",
        action="append",
        choices=_LANES,
        metavar="MODE/RESOLUTION",
        help=f"need only what this lane needs; may be repeated ({', '.join(_LANES)}; default: all that belongs there)",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Look and print; returns the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        files = open_checkpoint(options.url)
        inspection = inspect(files)
    except CheckpointError as error:
        print(f"error: checkpoint {options.url}: {error}", file=sys.stderr)
        return EXIT_FAULTY
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return _report(files.url, inspection, options.lane)


def _report(url: str, inspection: Inspection, lanes: Sequence[str] | None) -> int:
    layout = inspection.layout
    needed = inspection.needed
    if lanes:
        needed = tuple(dict.fromkeys(name for lane in lanes for name in layout.components_for(*lane.split("/"))))
    print(f"{url}: {layout.name}")
    for remark in layout.remarks:
        print(f"  {remark}")
    rows = [("component", "parameters", "types", "files")]
    for component in COMPONENTS:
        if component in inspection.contents:
            rows.append((component, *_describe(inspection.contents[component])))
        elif component in inspection.problems or component in needed:
            rows.append((component, "faulty" if component in inspection.problems else "absent", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, parameters, *others in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(others, widths[2:], strict=True))
        print(f"  {name:<{widths[0]}}  {parameters:>{widths[1]}}  {'  '.join(cells)}".rstrip())
    absent = [name for name in inspection.missing(needed) if name not in inspection.problems]
    unlabelled = [lane for lane in lanes or () if lane.split("/")[1] not in inspection.capabilities.resolutions]
    for problem in (
        *inspection.problems.values(),
        *(f"{name}: {layout.absence(name)}" for name in absent),
        *(f"{lane}: {CONFIG_NAME} names no size for this resolution" for lane in unlabelled),
    ):
        print(f"error: {problem}")
    modes = [f"{mode} at {', '.join(resolutions)}" for mode, resolutions in inspection.lanes().items()]
    print(f"can make: {'; '.join(modes) or 'nothing'}")
    if modes:
        print(f"from: {', '.join(inspection.conditions())}")
        if layout.config is not None:
            _report_capabilities(inspection.capabilities)
    is_told_soundly = CONFIG_NAME not in inspection.problems and not unlabelled
    is_sound = is_told_soundly and not inspection.missing(needed) and (bool(lanes) or not inspection.problems)
    return EXIT_SOUND if is_sound else EXIT_FAULTY


def _report_capabilities(capabilities: Capabilities) -> None:
    for resolution in capabilities.resolutions:
        sizes = {aspect: capabilities.pixel_size(resolution, aspect) for aspect in capabilities.aspects(resolution)}
        shown = ", ".join(f"{width}x{height} ({aspect})" for aspect, (width, height) in sizes.items())
        print(f"{resolution}: {shown}")
    shortest, longest = capabilities.min_seconds, capabilities.max_seconds
    print(f"seconds: {shortest:g} to {longest:g}, {capabilities.default_seconds:g} where a row does not say")


def _describe(contents: Contents) -> tuple[str, str, str]:
    counts = parameter_counts(contents)
    dtypes = [f"{_SHORT_DTYPES.get(dtype, str(dtype))} {_number(count)}" for dtype, count in counts.items()]
    weights = contents.files.weights
    where = weights[0] if len(weights) == 1 else f"{contents.files.folder}, {len(weights)} files"
    if contents.num_ignored:
        where += f" ({contents.num_ignored} of its tensors are not used)"
    return _number(sum(counts.values())), ", ".join(dtypes), where


def _number(count: int) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return str(count)


if __name__ == "__main__":
    sys.exit(main())
