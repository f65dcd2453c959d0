import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.request import LANGUAGES
from actors.storage import write_atomically
from pipeline.dead_letters import DeadLetters
from pipeline.manifest import read_manifest
from pipeline.row_files import RowFileError

GOOD = {"id": "a", "prompt": "A woman speaks.", "language": "en"}


def write_jsonl(path, *rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


def test_the_same_rows_read_alike_from_every_format(tmp_path):
    rows = [
        {**GOOD, "seconds": 2.5, "seed": 7, "image": None, "prompt": json.dumps({"description": "x"})},
        {**GOOD, "id": "b", "seconds": None, "seed": None, "image": "faces/b.png"},
    ]
    jsonl = write_jsonl(tmp_path / "m.jsonl", *rows)
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress((tmp_path / "m.jsonl").read_bytes()))
    names = list(rows[0])
    cells = [
        ",".join("" if row[n] is None else '"' + str(row[n]).replace('"', '""') + '"' for n in names) for row in rows
    ]
    (tmp_path / "m.csv").write_text("\ufeff" + "\n".join([",".join(names), *cells]), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    expected = [row.request for row in read_manifest(jsonl)]
    assert None not in expected
    assert expected[0].prompt.description == "x"
    assert expected[1].image == str(tmp_path / "faces/b.png"), "relative to the manifest"
    for name in ("m.jsonl.gz", "m.csv", "m.parquet"):
        assert [row.request for row in read_manifest(str(tmp_path / name))] == expected, name


def test_bad_lines_fail_alone_and_say_where(tmp_path):
    url = write_jsonl(
        tmp_path / "m.jsonl",
        GOOD,
        b'{"id": "b", ',
        b"[1]",
        b"\xff\xfe",
        b"",
        {**GOOD, "id": "c", "language": "xx"},
        GOOD,
    )
    rows = list(read_manifest(url))
    assert [row.line for row in rows] == [1, 2, 3, 4, 6, 7]
    assert [row.request is None for row in rows] == [False, True, True, True, True, True]
    assert [row.failure.field for row in rows[1:]] == ["row", "row", "row", "language", "id"]
    assert rows[1].failure.reason.startswith("is not a JSON object: Expecting")
    assert rows[1].failure.value == '{"id": "b",'
    assert rows[5].failure.reason.startswith("is used already in line 1; ids must be unique")


def test_a_dead_letter_is_the_row_plus_the_reason_and_can_be_fed_back(tmp_path):
    row = {**GOOD, "seconds": 99, "metadata": {"k": 1}}
    (bad,) = read_manifest(write_jsonl(tmp_path / "m.jsonl", row))
    letter = bad.dead_letter(bad.failure)
    assert {key: value for key, value in letter.items() if key != "dead_letter"} == row
    assert letter["dead_letter"] == {
        "line": 1,
        "stage": "manifest",
        "field": "seconds",
        "value": 99,
        "reason": "must be at most 15 without audio",
    }
    (mended,) = read_manifest(write_jsonl(tmp_path / "again.jsonl", {**letter, "seconds": 9}))
    assert mended.request is not None
    assert mended.request.seconds == 9
    assert "dead_letter" not in mended.values


def test_an_unreadable_manifest_is_one_clear_line(tmp_path):
    with pytest.raises(RowFileError, match=r"manifest .*absent\.jsonl: "):
        list(read_manifest(str(tmp_path / "absent.jsonl")))
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(RowFileError, match=r"name must end in one of \.jsonl, \.ndjson, \.csv, \.parquet"):
        list(read_manifest(str(tmp_path / "m.txt")))
    (tmp_path / "m.parquet").write_text("no parquet")
    with pytest.raises(RowFileError, match=r"manifest .*m\.parquet: "):
        list(read_manifest(str(tmp_path / "m.parquet")))


HOSTILE_LINES = {
    "half an emoji in metadata": b'{"id": "x", "prompt": "p", "language": "en", "metadata": {"k": "\\ud83d"}}',
    "half an emoji in the prompt": b'{"id": "x", "prompt": "p\\ud83d", "language": "en"}',
    "half an emoji in the id": b'{"id": "\\ud83d", "prompt": "p", "language": "en"}',
    "half an emoji in a key": b'{"id": "x", "prompt": "p", "language": "en", "\\ud83d": 1}',
    "brackets without end": b"[" * 100_000,
    "nested too deep": b'{"id": "x", "prompt": "p", "language": "en", "metadata": '
    + b'{"a":' * 500
    + b"1"
    + b"}" * 501,
    "a prompt of brackets": b'{"id": "x", "prompt": "{' + b"[" * 100_000 + b'", "language": "en"}',
    "a seed beyond any integer": b'{"id": "x", "prompt": "p", "language": "en", "seed": ' + b"9" * 5000 + b"}",
    "the same id in capitals": b'{"id": "A", "prompt": "p", "language": "en"}',
    "seconds that are no number": b'{"id": "x", "prompt": "p", "language": "en", "seconds": NaN}',
}


@pytest.mark.parametrize("line", HOSTILE_LINES.values(), ids=HOSTILE_LINES.keys())
def test_a_hostile_line_fails_alone_and_can_be_written_down(tmp_path, line):
    good, bad, other = read_manifest(write_jsonl(tmp_path / "m.jsonl", GOOD, line, {**GOOD, "id": "other"}))
    assert good.request is not None
    assert other.request is not None
    if bad.request is None:
        assert "\n" not in bad.failure.reason
        letters = DeadLetters()
        letters.add(bad.dead_letter(bad.failure))
        (written,) = letters.to_jsonl().splitlines()
        json.loads(written, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    else:
        assert json.loads(bad.request.model_dump_json().encode()), "what passes can travel"


def test_a_reference_that_leaves_the_bucket_fails_alone(tmp_path):
    rows = b"".join(
        json.dumps({**GOOD, "id": name, "image": image}).encode() + b"\n"
        for name, image in (("a", "faces/a.png"), ("b", "../../../b.png"))
    )
    write_atomically("memory://bucket/in/m.jsonl", rows)
    good, bad = read_manifest("memory://bucket/in/m.jsonl")
    assert good.request.image == "memory://bucket/in/faces/a.png"
    assert bad.failure.field == "image"


def test_an_unclosed_quote_in_csv_swallows_nothing(tmp_path):
    rows = "".join(f"clip-{number},words,en\n" for number in range(100))
    (tmp_path / "m.csv").write_text('id,prompt,language\nfirst,"never closed,en\n' + rows)
    with pytest.raises(RowFileError, match="unexpected end of data"):
        list(read_manifest(str(tmp_path / "m.csv")))


def test_nulls_inside_a_parquet_prompt_are_not_given(tmp_path):
    rows = [
        {**GOOD, "prompt": {"description": "x", "dialogue": [{"speaker": "s", "line": "l", "language": None}]}},
        {**GOOD, "id": "b", "prompt": {"description": "y", "dialogue": None}},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet")
    first, second = (row.request for row in read_manifest(str(tmp_path / "m.parquet")))
    assert first.prompt.dialogue[0].language is None
    assert second.prompt.dialogue == ()


def test_a_dead_letter_keeps_references_resolved(tmp_path):
    row = {**GOOD, "image": "face.png", "seconds": 99}
    (bad,) = read_manifest(write_jsonl(tmp_path / "m.jsonl", row))
    assert bad.dead_letter(bad.failure)["image"] == str(tmp_path / "face.png")


@pytest.mark.parametrize("name", ["demo", "release"])
def test_the_example_manifests_have_every_language_once(name):
    rows = list(read_manifest(f"examples/{name}.jsonl"))
    assert sorted(row.request.language for row in rows) == sorted(LANGUAGES)
    assert sum(row.request.image is not None for row in rows) == 1


def test_a_damaged_archive_is_one_clear_line(tmp_path):
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-20] + b"y" * 12)
    with pytest.raises(RowFileError, match=r"m\.jsonl\.gz: "):
        list(read_manifest(str(tmp_path / "m.jsonl.gz")))


def test_metadata_is_kept_whole_or_refused(tmp_path):
    def nested(depth):
        value = "end"
        for _ in range(depth):
            value = {"a": value}
        return value

    rows = [{**GOOD, "metadata": nested(40)}, {**GOOD, "id": "b", "metadata": nested(60)}]
    kept, refused = read_manifest(write_jsonl(tmp_path / "m.jsonl", *rows))
    assert kept.request.metadata == nested(40)
    assert refused.failure.reason == "is nested deeper than 50 levels"


def test_text_stored_as_bytes_is_text(tmp_path):
    pq.write_table(pa.Table.from_pylist([{**GOOD, "prompt": "Grüße".encode()}]), tmp_path / "m.parquet")
    (row,) = read_manifest(str(tmp_path / "m.parquet"))
    assert row.request.prompt == "Grüße"
