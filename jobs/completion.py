"""`python -m jobs.completion SHELL`: print a script that has a shell complete `magihuman`.

The script is made from the jobs' own parsers and knows all their options; making it loads every job, using it none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import shtab

from jobs.arguments import EXIT_USAGE, JobParser
from jobs.command import COMMANDS, load_job
from jobs.command import PROG as COMMAND

PROG = "python -m jobs.completion"

EXIT_DONE = 0

_SHELLS = ("bash", "zsh", "tcsh")
_COMPLETED = {
    "URL": shtab.FILE,
    "FILE": shtab.FILE,
    "FOLDER": shtab.DIRECTORY,
    "DIR": shtab.DIRECTORY,
    "RECIPE": shtab.FILE,
}
"""What is completed where an option takes this. A URL is a path as well, of a file or of a folder."""


def make_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command line of this job."""
    parser = JobParser(
        prog,
        f"Print a script that has a shell complete {COMMAND}: names of jobs, their options, choices and files.",
        ("bash > ~/.magihuman.bash", 'zsh > "${fpath[1]}/_magihuman"'),
        {EXIT_DONE: "printed", EXIT_USAGE: "wrong usage"},
        "In bash, `. ~/.magihuman.bash` in ~/.bashrc makes use of it; zsh finds it where compinit is on. A new shell "
        "completes.",
    )
    parser.ends.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Print the script; returns the exit status."""
    print(script(make_parser(prog).parse_args(arguments).shell))
    return EXIT_DONE


def script(shell: str) -> str:
    """The completion script of a shell."""
    parser = argparse.ArgumentParser(COMMAND)
    parser.add_argument("--version", action="version", help="show the version and exit")
    commands = parser.add_subparsers()
    for name, about in COMMANDS.items():
        job = load_job(name).make_parser(f"{COMMAND} {name}")
        _complete_paths(job)
        commands.add_parser(name, help=about, description=about, parents=[job], add_help=False)
    return shtab.complete(parser, shell)


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command)
        elif isinstance(action.metavar, str) and action.metavar in _COMPLETED:
            vars(action)["complete"] = _COMPLETED[action.metavar]  # where shtab looks for it


if __name__ == "__main__":
    sys.exit(main())
