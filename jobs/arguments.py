"""What the command lines of jobs share: a parser, its groups of options, and how options become settings.

A job is a module with `make_parser(prog)`, which says all about its options, and `main(arguments, prog)`. `prog` is how
it was called, such as `python -m jobs.generate` or `magihuman generate`; its help and its examples are told with that.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from pipeline.preview import Fleet
    from pipeline.settings import Settings

EXIT_USAGE = 2

CONTINUES = "Running the same command again goes on where it stopped."
MANIFEST_HELP = "JSONL, CSV or Parquet; local or e.g. s3://"
TRAINING_STATUSES = {
    0: "done",
    1: "the job broke",
    EXIT_USAGE: "wrong usage",
    130: "interrupted; the same command goes on",
}

_MODES = ("base", "distill")
_GPUS = ("h100", "h200")
"""Types of GPUs that figures are known for."""
_COLUMNS = 78
"""Of an example: what a terminal of 80 columns shows."""
_NARROWEST_OPTION, _WIDEST_OPTION = 16, 28
"""Columns of options that have their explanation beside them; of longer ones it is below."""


class JobParser(argparse.ArgumentParser):
    """A parser of one job: options in named groups, help that ends with examples, errors of one line.

    Args:
        prog: how the job is called.
        description: what it does.
        examples: arguments of commands that work as they stand, in the project's folder.
        statuses: what exit statuses mean.
        note: what else is worth knowing, such as where to read on.
        others: as `argparse.ArgumentParser` takes them.

    Attributes:
        ends: options that say what goes in and comes out.
        made: options that say what is made.
        how: options that say how it is made.
        cluster: options that say where it is made.
        told: options that say what is printed.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        examples: Sequence[str],
        statuses: Mapping[int, str],
        note: str = "",
        **others: Any,
    ):
        epilog = "\n\n".join(filter(None, (_examples(prog, examples), _statuses(statuses), note)))
        super().__init__(prog, description=description, epilog=epilog, formatter_class=_Help, **others)
        self.ends = self.add_argument_group("what goes in and comes out")
        self.made = self.add_argument_group("what is made")
        self.how = self.add_argument_group("how")
        self.cluster = self.add_argument_group("cluster")
        self.told = self.add_argument_group("what is told")

    def error(self, message: str) -> NoReturn:
        """End the process with status 2 and one line that says where to read on."""
        self.exit(EXIT_USAGE, f"error: {message}; see {self.prog} --help\n")


class _Help(argparse.HelpFormatter):
    """Help that names in its first line what must be given, and keeps blocks of several lines as they are."""

    def __init__(self, prog: str, **others: Any):
        super().__init__(prog, max_help_position=_WIDEST_OPTION, **others)
        self._action_max_length = _NARROWEST_OPTION  # names of commands count too little without

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        needed = [_spelled(action) for action in actions if action.required]
        lines = _lines([self._prog, *needed, "[options]"], self._width - len("usage: "))
        super().add_usage("\n".join(lines), (), (), prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n" in part else fill(part, width, indent) for part in text.split("\n\n"))


def _spelled(action: argparse.Action) -> str:
    value = action.metavar or f"{{{','.join(map(str, action.choices or ()))}}}"
    return " ".join([*action.option_strings[:1], str(value)])


def _examples(prog: str, examples: Sequence[str]) -> str:
    commands = [[prog, *example.replace(" --", "\n--").split("\n")] for example in examples]
    return "\n".join(["examples:", *("  " + " \\\n  ".join(_lines(parts, _COLUMNS - 4)) for parts in commands)])


def _lines(parts: Sequence[str], columns: int) -> list[str]:
    """A command in as many lines as it needs; an option stays beside its value."""
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) <= columns:
            lines[-1] += f" {part}"
        else:
            lines.append(f"    {part}")
    return lines


def _statuses(statuses: Mapping[int, str]) -> str:
    return "\n".join(["exit status:", *(f"  {status:>3}  {meaning}" for status, meaning in statuses.items())])


def add_output(parser: JobParser, about: str = "folder of the results; local or e.g. s3://") -> None:
    """Add `--output`, which must be given."""
    parser.ends.add_argument("--output", required=True, metavar="URL", help=about)


def add_checkpoint(
    parser: JobParser, about: str = "checkpoint folder; local or e.g. s3://", is_required: bool = True
) -> None:
    """Add `--checkpoint`, which must be given unless told otherwise."""
    parser.ends.add_argument("--checkpoint", required=is_required, metavar="URL", help=about)


def add_overwrite(parser: JobParser, about: str) -> None:
    """Add `--overwrite`."""
    parser.made.add_argument("--overwrite", action="store_true", help=about)


def add_mode(parser: JobParser) -> None:
    """Add `--mode`, which `settings_of` takes."""
    parser.how.add_argument("--mode", choices=_MODES, help="many guided steps, or few distilled ones (default)")


def add_settings(parser: JobParser, when: str = "") -> None:
    """Add `--settings` and `--set`, which `settings_of` takes; `when` begins their help."""
    parser.how.add_argument("--settings", metavar="FILE", help=f"{when}YAML file of settings, see docs/settings.md")
    add_overrides(parser, f"{when}one setting, over those of the file; may be repeated")


def add_overrides(parser: JobParser, about: str) -> None:
    """Add `--set`, which becomes the list `overrides`."""
    parser.how.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="overrides", help=about)


def settings_of(options: argparse.Namespace) -> Settings:
    """What `--settings`, `--set` and, where there is one, `--mode` ask for.

    Raises:
        SettingsError: one line with the name, the value and what is allowed.
    """
    from pipeline.settings import load_settings  # here, for jobs.parity and jobs.status load neither pydantic nor torch

    mode = getattr(options, "mode", None)
    return load_settings(options.settings, [*options.overrides, *([f"mode={mode}"] if mode else [])])


def add_address(parser: JobParser) -> None:
    """Add `--address`."""
    about = "Ray cluster (default: $RAY_ADDRESS, else one of its own on this machine)"
    parser.cluster.add_argument("--address", metavar="ADDRESS", help=about)


def add_num_workers(parser: JobParser, of_what: str = "processes", default: str = "all CPUs") -> None:
    """Add `--num-workers`, None where it is not given."""
    about = f"{of_what} at a time (default: {default})"
    parser.cluster.add_argument("--num-workers", type=positive, metavar="N", help=about)


def add_selection(parser: JobParser, of_what: str, ids: str) -> None:
    """Add `--only`, `--limit` and `--retry-failed`."""
    parser.made.add_argument("--only", type=names, metavar="ID,...", help=f"these {ids}")
    parser.made.add_argument("--limit", type=positive, metavar="N", help="at most so many clips, the first ones")
    parser.made.add_argument("--retry-failed", action="store_true", help=f"clips {of_what} that failed before")


def add_fleet(group: Any, is_required: bool = False) -> None:
    """Add `--gpus`, `--gpu` and `--price`, which `fleet_of` takes."""
    about = "GPUs the run may use" + ("" if is_required else " (default: 1)")
    group.add_argument("--gpus", required=is_required, type=natural, default=1, metavar="N", help=about)
    group.add_argument("--gpu", choices=_GPUS, default=_GPUS[0], help=f"their type (default: {_GPUS[0]})")
    group.add_argument("--price", type=price_per_hour, metavar="P", help="of one GPU-hour, in whatever currency")


def fleet_of(options: argparse.Namespace) -> Fleet:
    """What `--gpus`, `--gpu` and `--price` say."""
    from pipeline.preview import Fleet

    return Fleet(options.gpus, options.gpu, options.price)


def add_dry_run(parser: JobParser) -> None:
    """Add `--dry-run` and what it is planned for."""
    group = parser.add_argument_group("dry run")
    about = "show clips, prompts, rejections, plan, hours and cost; make nothing"
    group.add_argument("--dry-run", action="store_true", help=about)
    add_fleet(group)


def require_checkpoint(options: argparse.Namespace) -> None:
    """Refuse a run without `--checkpoint`.

    Raises:
        ValueError: it is missing.
    """
    if options.checkpoint is None and not options.dry_run:
        raise ValueError("--checkpoint is missing: the model to make clips with; only --dry-run can do without")


def add_json(parser: JobParser, more: str = "") -> None:
    """Add `--json`."""
    parser.told.add_argument("--json", action="store_true", help=f"print JSON{more}")


def add_report_every(parser: JobParser) -> None:
    """Add `--report-every`, which becomes `report_every_s`."""
    parser.told.add_argument(
        "--report-every",
        type=_duration,
        default=20.0,
        metavar="S",
        dest="report_every_s",
        help="seconds between two lines of progress and of figures; 0 writes every step (default: 20)",
    )


def positive(text: str) -> int:
    """A whole number from 1.

    Raises:
        argparse.ArgumentTypeError: it is less, or no whole number.
    """
    return _at_least(1, text)


def natural(text: str) -> int:
    """A whole number from 0; raises like `positive`."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text}") from error
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
    return value


def price_per_hour(text: str) -> float:
    """A price from 0.

    Raises:
        argparse.ArgumentTypeError: it is less, without end, or no number.
    """
    with suppress(ValueError):
        if 0 <= (value := float(text)) < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"must be a number from 0, got {text}")


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them.

    Raises:
        argparse.ArgumentTypeError: there is none.
    """
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"must name one at least, got {text!r}")
    return found


def _duration(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value


def absolute(url: str, what: str = "each argument") -> str:
    """A URL as it is, a path as workers understand it, which have another working directory.

    Args:
        url: as written.
        what: it is, for the message.

    Raises:
        ValueError: it is empty.
    """
    if not url:
        raise ValueError(f"{what} must be a path or a URL, got ''")
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))
