"""A run whose clips are to be signed: what is wrong is told before it starts, and its books hold addresses alone."""

import json
from datetime import timedelta
from importlib.util import find_spec

import pytest
from rich.console import Console

import pipeline.extras
from jobs.generate import EXIT_USAGE, main
from pipeline.report import begin_books
from pipeline.run import Run
from pipeline.run_spec import RunSpec
from pipeline.settings import load_settings
from tests.certificates import Authority
from tests.tiny_checkpoint import write_tiny_checkpoint

ROW = {"id": "a", "prompt": "x", "language": "en", "seconds": 0.2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Arguments that name a manifest of one row and a checkpoint."""
    folder = tmp_path_factory.mktemp("inputs")
    write_tiny_checkpoint(folder / "model")
    (folder / "manifest.jsonl").write_text(json.dumps(ROW))
    return ["--manifest", str(folder / "manifest.jsonl"), "--checkpoint", str(folder / "model")]


def signed_with(credentials):
    names = ("certificate", "private_key")
    return [part for name in names for part in ("--set", f"provenance.{name}={getattr(credentials, name)}")]


def refusal(arguments, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "out")]) == EXIT_USAGE
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return errors


def test_an_expired_certificate_is_one_line_before_the_run_starts(inputs, tmp_path, capsys):
    credentials = Authority().credentials(tmp_path, begins=timedelta(days=-9), ends=timedelta(days=-1))
    errors = refusal([*inputs, *signed_with(credentials)], tmp_path, capsys)
    assert f"setting provenance.certificate='{credentials.certificate}': is valid from" in errors


def test_an_absent_key_is_one_line_before_the_run_starts(inputs, tmp_path, capsys):
    credentials = Authority().credentials(tmp_path)
    (tmp_path / "key.pem").unlink()
    assert credentials.private_key in refusal([*inputs, *signed_with(credentials)], tmp_path, capsys)


def test_an_absent_library_is_one_line_that_names_the_extra(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline.extras, "find_spec", lambda name: None if name == "c2pa" else find_spec(name))
    credentials = Authority().credentials(tmp_path)
    errors = refusal([*inputs, *signed_with(credentials)], tmp_path, capsys)
    assert "c2pa not installed: pip install -e '.[c2pa]'" in errors


def test_books_hold_addresses_without_what_opens_them(inputs, tmp_path):
    overrides = [
        "provenance.certificate=/etc/chain.pem",
        "provenance.private_key='https://host.example/key.pem?X-Amz-Signature=0f3a'",
        "provenance.timestamp_authority='http://me:word@tsa.example'",
    ]
    settings = load_settings(None, overrides)
    run = Run(RunSpec(inputs[1], str(tmp_path / "out"), inputs[3], settings), Console(quiet=True))
    begin_books(run)
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["provenance"] == {
        "certificate": "/etc/chain.pem",
        "private_key": "https://host.example/key.pem?X-Amz-Signature=***",
        "timestamp_authority": "http://***@tsa.example",
    }
