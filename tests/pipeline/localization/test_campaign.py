"""Campaigns in every format, and rows that are none."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.localization.campaign import read_campaign
from pipeline.row_files import RowFileError

FLAT = {
    "id": "a",
    "scene": "A man",
    "speaker": "Man",
    "seconds": 2,
    "line.en": "Hello",
    "line.ja": "はい",
    "line.de": "",
}
NESTED = {"id": "a", "scene": "A man", "speaker": "Man", "seconds": 2, "line": {"en": "Hello", "ja": "はい"}}


def write(path, rows):
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".yaml":
            path.write_text(yaml.safe_dump(rows, allow_unicode=True))
        case ".csv":
            names = list(dict.fromkeys(name for row in rows for name in row))
            cells = [",".join('"' + str(row.get(name, "")).replace('"', '""') + '"' for name in names) for row in rows]
            path.write_text("\n".join([",".join(names), *cells]) + "\n")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("name", ["c.csv", "c.jsonl", "c.yaml", "c.parquet"])
@pytest.mark.parametrize("row", [FLAT, NESTED], ids=["flat", "nested"])
def test_every_format_gives_the_same_scene(tmp_path, name, row):
    if name.endswith("csv") and row is NESTED:
        row = {**row, "line": json.dumps(row["line"])}
    (read,) = read_campaign(write(tmp_path / name, [row]))
    assert read.failure is None
    assert read.scene.line == {"en": "Hello", "ja": "はい"}
    assert (read.scene.id, read.scene.speaker, read.scene.seconds, read.scene.aspect) == ("a", "Man", 2.0, "16:9")


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"id": "a/b"}, "id", "must be 1 to 100 letters, digits"),
        ({"id": "a" * 101}, "id", "must be 1 to 100 letters"),
        ({"id": None}, "id", "is missing"),
        ({"scene": " "}, "scene", "must not be empty"),
        ({"speker": "x"}, "speker", "is unknown; known here: id, scene, speaker, image, .*, line.<language>"),
        ({"seconds": 11}, "seconds", "must be at most 10"),
        ({"seconds": 0.5}, "seconds", "must be at least 1"),
        ({"resolution": "720p"}, "resolution", "must be one of '256p', '540p' or '1080p'"),
        ({"line": ["x"]}, "row", "line must map languages to what is said"),
        ({"line": "Hello"}, "row", ""),
    ],
)
def test_a_row_that_is_no_scene_is_told_of_and_the_next_is_read(tmp_path, change, field, reason):
    rows = read_campaign(write(tmp_path / "c.jsonl", [{**NESTED, **change}, {**NESTED, "id": "b"}]))
    assert [row.scene is None for row in rows] == [True, False]
    assert rows[0].failure.field == field
    assert re.search(reason, rows[0].failure.reason)


def test_a_scene_twice_is_told_of_once(tmp_path):
    first, second = read_campaign(write(tmp_path / "c.jsonl", [NESTED, {**NESTED, "id": "A"}]))
    assert first.scene is not None
    assert second.failure.reason.startswith("is used already in row 1;")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("c.txt", "", r"campaign .*c\.txt: name must end in one of \.jsonl, \.ndjson, \.csv, \.parquet, \.yaml, \.yml"),
        ("c.yaml", "a: 1", r"campaign .*c\.yaml: must hold a list of rows, got dict"),
        ("c.yaml", "- a: [", r"c\.yaml: .*line 1"),
    ],
)
def test_a_file_that_is_no_campaign_is_one_line(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(RowFileError, match=reason) as caught:
        read_campaign(str(tmp_path / name))
    assert "\n" not in str(caught.value)
