"""The command `magihuman`: it has every job, its help can be followed word by word, and shells complete it."""

import argparse
import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs.command import COMMANDS, GROUPS, load_job, main
from jobs.completion import script

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TITLES = {
    *("what goes in and comes out", "what is made", "how", "cluster", "what is told"),
    *("options", "commands", "dry run", "examples", "exit status"),
}


def parsers_of(name):
    """The parser of a job and those of its own commands."""
    parser = load_job(name).make_parser(f"magihuman {name}")
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(command for action in commands for command in action.choices.values())]


def examples_in(text):
    """Commands under `examples:`, as a shell reads them."""
    block = re.search(r"\nexamples:\n((?:  .*\n)+)", text).group(1)
    return [shlex.split(command) for command in block.replace("\\\n", " ").splitlines()]


def test_every_job_is_in_the_command():
    files = [path for path in (ROOT / "jobs").glob("*.py") if "\ndef main(" in path.read_text()]
    assert {path.stem.replace("_", "-") for path in files} - {"command"} == {*COMMANDS}
    assert sum(map(len, GROUPS.values())) == len(COMMANDS), "each once"


def test_installing_gives_the_command():
    module, _, function = PROJECT["scripts"]["magihuman"].partition(":")
    assert getattr(importlib.import_module(module), function) is main


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_terminal_and_its_examples_are_right(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    job = load_job(name)
    for parser in parsers_of(name):
        text = parser.format_help()
        assert text.startswith(f"usage: {parser.prog}")
        assert max(map(len, text.splitlines())) <= 80
        assert {*re.findall(r"^(\S.*):$", text, flags=re.MULTILINE)} <= TITLES
        assert re.search(r"\noptions:\n  -h, --help +show this help message and exit\n\n", text), (
            "all else is in groups"
        )
        assert re.search(r"\nexit status:\n +0  ", text)
        examples = examples_in(text)
        assert 1 <= len(examples) <= 3
        for command, job_name, *words in examples:
            assert (command, job_name) == ("magihuman", name)
            words = words[: words.index(">")] if ">" in words else words
            options = parsers_of(name)[0].parse_args(words)
            if hasattr(job, "_require_that_they_go_together"):
                job._require_that_they_go_together(parser, options)
            for word in words:
                assert not word.startswith(("examples/", "recipes/", "tests/")) or (ROOT / word).exists(), word


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_the_module_under_another_name(name, capsys):
    module = f"python -m jobs.{name.replace('-', '_')}"
    for run, called in ((lambda: main([name, "--help"]), f"magihuman {name}"), (help_of(name), module)):
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: {called}")
        assert f"\n  {called}" in text


def help_of(name):
    return lambda: load_job(name).main(["--help"])


def test_statuses_and_errors_are_the_jobs(tmp_path, capsys):
    assert main(["status", "--output", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert load_job("status").main(["--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == told
    assert main(["check-checkpoint", str(tmp_path)]) == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["genrate"],
            "magihuman has no command 'genrate': did you mean magihuman generate? magihuman --help names all",
        ),
        (
            ["check_checkpoint", "x"],
            "magihuman has no command 'check_checkpoint': did you mean magihuman check-checkpoint? magihuman --help",
        ),
        (["xyzzy"], "magihuman has no command 'xyzzy': magihuman --help names all"),
        (["plan", "--gpus", "x"], "argument --gpus: must be a whole number, got x; see magihuman plan --help"),
        (["--manifest"], "magihuman has no command '--manifest': "),
        (
            ["generate", "--manifest", "x"],
            "the following arguments are required: --output, --checkpoint; see magihuman g",
        ),
        (
            ["small-world", "clips"],
            "the following arguments are required: --output; see magihuman small-world clips --h",
        ),
        (
            ["train", "x"],
            "--data, --checkpoint, --runs must be given, except with --dry-run; see magihuman train --help",
        ),
    ],
)
def test_wrong_usage_is_one_line_with_the_next_step(capsys, arguments, error):
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {error}")
    assert told.err.count("\n") == 1
    assert not told.out


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--version"], 0), (["genrate"], 2), ([], 2)])
def test_what_runs_no_job_loads_none(arguments, status):
    code = (
        "import sys; from jobs.command import main; status = main(sys.argv[1:]); "
        "print('loaded', {'ray', 'torch', 'pydantic', 'rich', 'shtab'} & {*sys.modules}, status)"
    )
    command = [sys.executable, "-c", code, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout.splitlines()[-1] == f"loaded set() {status}"


def test_help_lists_every_command_by_group_and_the_version_is_the_projects(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for title, commands in GROUPS.items():
        block = text.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        assert dict(re.split("  +", line.strip(), maxsplit=1) for line in block.splitlines()) == commands
    assert max(map(len, text.splitlines())) <= 80
    assert main([]) == 2
    assert capsys.readouterr().err == text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"magihuman {PROJECT['version']}\n"


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory):
    """Loads all jobs, so it is made once."""
    path = tmp_path_factory.mktemp("completion") / "magihuman.bash"
    path.write_text(script("bash"))
    return path


@pytest.fixture
def complete(bash_script, tmp_path):
    """What bash offers for the last word, in a folder with a file and a folder."""
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "rows").mkdir()
    code = (
        'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        'words=($(complete -p magihuman)); while [ "${words[0]}" != -F ]; do words=("${words[@]:1}"); done; '
        '"${words[1]}" magihuman "${COMP_WORDS[COMP_CWORD]}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )

    def run(*words):
        command = ["bash", "--norc", "-c", code, str(bash_script), *words]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        return ended.stdout.split()

    return run


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["gen"], ["generate"]),
        (["check-"], ["check-checkpoint"]),
        (["generate", "--ov"], ["--overwrite"]),
        (["generate", "--mode", ""], ["base", "distill"]),
        (["generate", "--manifest", "ro"], ["rows", "rows.jsonl"]),
        (["parity", "--golden", "ro"], ["rows"]),
        (["small-world", "te"], ["text-encoder"]),
        (["small-world", "text-encoder", "--voc"], ["--vocabulary"]),
        (["train", "ro"], ["rows", "rows.jsonl"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_bash_completes(complete, words, offered):
    assert sorted(complete("magihuman", *words)) == offered


def test_bash_offers_every_command_and_option(complete):
    assert {*complete("magihuman", "")} == {*COMMANDS}
    known = {option for action in parsers_of("localize")[0]._actions for option in action.option_strings}
    assert {*complete("magihuman", "localize", "-")} == known


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_the_script_is_the_shells(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    path = tmp_path / "script"
    path.write_text(capsys.readouterr().out)
    assert "make-mini-checkpoint" in path.read_text()
    if shell == "zsh":
        assert path.read_text().startswith("#compdef magihuman\n")
    if shell == "bash" or shutil.which(shell):
        ended = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=True)
        assert not ended.stderr
