"""`magihuman COMMAND`: every job by one name. A job's module is loaded when the job is called, and no sooner."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType

PROG = "magihuman"

GROUPS = {
    "make clips": {
        "generate": "a manifest of prompts becomes finished clips",
        "plan": "how a manifest would be run, how long, at what cost",
    },
    "look": {
        "status": "how the run into an output stands",
        "evaluate": "what the clips of a run are worth",
    },
    "datasets and campaigns": {
        "localize": "a campaign of scenes becomes clips in many languages",
        "synthesize": "a recipe becomes a dataset, a partition at a time",
        "small-world": "training data and manifests of a small made-up world",
    },
    "checkpoints and training": {
        "check-checkpoint": "what a checkpoint holds, what is wrong, what it can make",
        "train": "train one network by its recipe",
        "make-mini-checkpoint": "make the small trained checkpoint from nothing",
        "ablate": "what the parts of the base model are worth",
    },
    "measure and test": {
        "benchmark": "what clips cost on this machine, for plan and for runs",
        "parity": "compare this code's numbers with those of the original",
        "chaos": "break a run, and see that it makes the same clips",
    },
    "shell": {
        "completion": "a script that has the shell complete this command",
    },
}
"""Names of jobs, which are those of their modules with hyphens, and what they do; by what they are for."""

COMMANDS = {name: about for group in GROUPS.values() for name, about in group.items()}

_EXIT_DONE = 0
_EXIT_USAGE = 2
_VERSION_OPTIONS = ("--version", "-V")
_HELP_OPTIONS = ("--help", "-h")


def load_job(name: str) -> ModuleType:
    """The module of a job, which has `make_parser` and `main`."""
    return importlib.import_module(f"jobs.{name.replace('-', '_')}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that is named; returns its exit status."""
    name, *others = [*(sys.argv[1:] if arguments is None else arguments)] or [""]
    if name in COMMANDS:
        return load_job(name).main(others, prog=f"{PROG} {name}")
    if name in _HELP_OPTIONS:
        print(_help())
        return _EXIT_DONE
    if name in _VERSION_OPTIONS:
        print(f"{PROG} {version('magihuman-ray')}")
        return _EXIT_DONE
    print(_help() if not name else _refusal(name), file=sys.stderr)
    return _EXIT_USAGE


def _refusal(name: str) -> str:
    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    guess = f"did you mean {PROG} {nearest[0]}? " if nearest else ""
    return f"error: {PROG} has no command {name!r}: {guess}{PROG} --help names all"


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"usage: {PROG} COMMAND [options]", "", "Multilingual talking-human video in batches, on Ray."]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {name:<{width}}  {about}" for name, about in commands.items())]
    lines += ["", "examples:"]
    lines += [f"  {PROG} generate --help", f"  {PROG} check-checkpoint checkpoints/mini", f"  {PROG} --version"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
