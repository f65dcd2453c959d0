"""A campaign from a table to a page, on a real cluster; its good lines are made whatever the others are."""

import csv
import io
import json
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pysubs2
import pytest

from actors.media import probe
from jobs.localize import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "campaign.csv"
MINI = Path(__file__).parents[2] / "checkpoints" / "mini"
LANGUAGES = ("zh", "yue", "en", "ja", "ko", "de", "fr")


def scene(scene_id, **values):
    lines = {f"line.{language}": "" for language in LANGUAGES}
    return {"id": scene_id, "scene": "A man speaks.", "speaker": "Man", **lines, **values}


BAD = [
    scene("script", **{"line.en": "Hello", "line.ja": "안녕하세요"}),
    scene("long", **{"line.en": "word " * 80}),
    scene("picture", image="images/absent.png", **{"line.en": "Hello"}),
    scene("welcome", **{"line.en": "Hello"}),
    scene("no/id", **{"line.en": "Hello"}),
]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """The example's scenes, and others that cannot be made."""
    folder = tmp_path_factory.mktemp("campaign")
    shutil.copytree(EXAMPLE.parent / "images", folder / "images")  # a link would lead out of the campaign's folder
    with EXAMPLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    path = folder / "campaign.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, *BAD])
    return path


@pytest.fixture(scope="module")
def localized(cluster, campaign, tmp_path_factory):
    """One run for all tests."""
    output, printed = tmp_path_factory.mktemp("out"), io.StringIO()
    arguments = ["--campaign", str(campaign), "--output", str(output), "--checkpoint", str(MINI)]
    with redirect_stdout(printed):
        status = main([*arguments, "--address", cluster.address])
    return SimpleNamespace(output=output, status=status, printed=printed.getvalue(), arguments=arguments)


def table(output):
    return pq.read_table(output / "scenes.parquet").to_pylist()


@pytest.mark.slow
def test_every_good_line_is_a_clip_with_subtitles(localized):
    assert localized.status == 3, localized.printed
    rows = [row for row in table(localized.output) if row["scene"] in ("welcome", "morning", "thanks") and row["clip"]]
    assert sorted(row["clip"] for row in rows) == sorted(
        f"{scene}.{language}" for scene in ("welcome", "morning", "thanks") for language in LANGUAGES
    )
    for row in rows:
        assert (row["status"], row["part"], row["reason"]) == ("done", None, None)
        facts = probe((localized.output / row["mp4"]).read_bytes())
        assert facts.video_s == pytest.approx(row["seconds"], abs=0.041)
        assert (localized.output / row["poster"]).stat().st_size > 500
        for suffix in ("vtt", "srt"):
            (cue,) = pysubs2.SSAFile.load(str(localized.output / row[suffix]))
            assert cue.text == row["line"]
            assert (cue.start, cue.end) == (0, pytest.approx(1000 * facts.video_s, abs=1))


@pytest.mark.slow
def test_each_bad_line_says_what_to_change_and_the_rest_of_its_scene_is_made(localized):
    rejected = [json.loads(line) for line in (localized.output / "rejected.jsonl").read_text().splitlines()]
    told = {(row["scene"], row["language"]): f"{row['field']} {row['reason']}" for row in rejected}
    assert "line.ja must be in kana or Chinese characters as Japanese is, got Hangul (안)" in told["script", "ja"]
    assert told["script", "de"] == "line.de is missing: write it, or leave de out"
    assert told["long", "en"].startswith("line.en is too long: it takes about ")
    assert told["picture", None].startswith("image is not there: ")
    assert told["welcome", None].startswith("id is used already in row 2;")
    assert told["no/id", None].startswith("id must be 1 to 100 letters")
    assert len(rejected) == len({tuple(row.items()) for row in rejected})
    rows = table(localized.output)
    assert [row["status"] for row in rows if row["clip"] == "script.en"] == ["done"]
    assert sum(row["status"] == "rejected" for row in rows) == len(rejected)
    assert sum(row["status"] == "done" for row in rows) == 22
    assert f"{len(rejected)} rejected" in localized.printed


@pytest.mark.slow
def test_the_page_links_what_is_there(localized):
    page = (localized.output / "campaign.html").read_text()
    links = set(re.findall(r'(?:href|src|data-src)="([^"#]+)"', page)) - {"data:,"}
    assert {link for link in links if not (localized.output / link).exists()} == set()
    assert sum(link.endswith(".mp4") for link in links) == 22
    assert "references/morning.jpg" in links
    assert page.count('data-status="done"') == 22
    assert "こんにちは。" in page
    assert "id is used already in row 2;" in page


@pytest.mark.slow
def test_again_nothing_is_made_and_a_part_can_be_asked_for(localized, cluster, capsys):
    before = {path: path.stat().st_mtime_ns for path in localized.output.glob("clips/*.mp4")}
    whole = table(localized.output)
    arguments = [*localized.arguments, "--address", cluster.address]
    assert main([*arguments, "--only", "thanks,welcome.ja", "--languages", "ja,fr"]) == 0
    assert "0 made, 3 skipped" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in localized.output.glob("clips/*.mp4")} == before
    assert table(localized.output) == whole, "what was not asked for is still told of"


@pytest.mark.slow
def test_only_what_failed_is_tried_again_when_asked(localized, cluster, tmp_path, capsys):
    """One clip failed in the last run, and another was lost since: only the first is made."""
    output = tmp_path / "out"
    shutil.copytree(localized.output, output)
    for clip in ("thanks.fr", "thanks.de"):
        (output / "clips" / f"{clip}.json").unlink()
    failed = next(line for line in (output / "manifest.jsonl").read_text().splitlines() if '"thanks.fr"' in line)
    reason = {"line": 21, "stage": "writing", "field": "row", "value": None, "reason": "was tried in vain"}
    (output / "dead_letter.jsonl").write_text(json.dumps({**json.loads(failed), "dead_letter": reason}) + "\n")
    arguments = [str(output) if one == str(localized.output) else one for one in localized.arguments]
    assert main([*arguments, "--address", cluster.address, "--retry-failed"]) == 0
    assert "1 made, 0 skipped" in capsys.readouterr().out
    statuses = {row["clip"]: row["status"] for row in table(output) if row["clip"]}
    assert (statuses["thanks.fr"], statuses["thanks.de"]) == ("done", "waiting")
    manifest = (output / "manifest.jsonl").read_text()
    assert main([*arguments, "--retry-failed"]) == 0
    assert capsys.readouterr().out == "nothing failed that could be tried again\n"
    assert (output / "manifest.jsonl").read_text() == manifest


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--only", "nothing"], "error: --only nothing: no scene or clip that can be made has this id\n"),
        (
            ["--languages", "es"],
            "error: argument --languages: es is no language: zh, yue, en, ja, ko, de, fr or all; see python",
        ),
        (["--limit", "0"], "error: argument --limit: must be at least 1, got 0; see python -m jobs.localize --help\n"),
    ],
)
def test_wrong_usage_is_one_line(campaign, tmp_path, capsys, more, error):
    arguments = ["--campaign", str(campaign), "--output", str(tmp_path / "out"), "--checkpoint", "x", *more]
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    told = capsys.readouterr().err
    assert told.startswith(error)
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_shows_prompts_and_writes_nothing(campaign, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--campaign", str(campaign), "--output", str(out), "--dry-run", "--limit", "2", "--price", "2.5"]
    assert main(arguments) == 3
    printed = capsys.readouterr().out
    assert printed.startswith("welcome.zh  Mandarin, 1.4 s, 256p 16:9\nA woman faces the camera: ")
    assert '<Woman, Mandarin>: "你 好！"' in printed
    assert "2 clips, 2.8 s in all" in printed
    assert "16 rejected" in printed
    assert "2 rows, 2 clips, 1 x H100 of 80 GB" in printed
    assert "GPU-hours  cost" in printed
    assert not out.exists()
