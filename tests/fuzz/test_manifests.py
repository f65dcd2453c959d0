"""Manifests of any kind: every row is a request or is told what is wrong, or the file as a whole is."""

import csv
import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.storage_faults import StorageError
from pipeline.manifest import DEAD_LETTER_KEY, read_manifest
from pipeline.row_files import RowFileError
from tests.hostile import ODD_TEXTS, damage, damages, outcome, repeatable, rows, texts, to_json

GOOD = {"id": "good", "prompt": "A woman speaks.", "language": "en", "image": "a.png"}


def require_requests_or_reasons(path):
    """Read a manifest; gives its rows, or None where it cannot be read as a whole."""
    read, error = outcome(lambda: list(read_manifest(str(path))), RowFileError, StorageError)
    if error is not None:
        assert str(path.name) in str(error)
        assert "\n" not in str(error)
        return None
    for row in read:
        if row.request is not None:
            assert row.failure is None
            assert row.request.image is None or row.request.image.startswith(f"{path.parent}/")
            json.dumps(json.loads(row.request.model_dump_json()), allow_nan=False)
            continue
        assert row.failure.field
        assert row.failure.reason
        assert "\n" not in row.failure.reason
        assert len(row.failure.reason) < 2000
        letter = row.dead_letter(row.failure)
        assert letter[DEAD_LETTER_KEY]["line"] == row.line
        # As the ledger writes it; half an emoji becomes the escape that it was.
        written = json.dumps(letter, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace")
        assert json.loads(written)
    return read


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_hostile_rows_beside_a_good_one(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"

    @repeatable(60)
    @given(st.lists(rows(), min_size=1, max_size=5))
    def read(hostile):
        table = [GOOD, *hostile]
        if suffix == "jsonl":
            path.write_bytes(b"\n".join(to_json(row) for row in table))
        elif suffix == "csv":
            file = io.StringIO(newline="")
            writer = csv.DictWriter(
                file, list({str(name): None for row in table for name in row}), extrasaction="ignore"
            )
            writer.writeheader()
            writer.writerows(table)
            path.write_bytes(file.getvalue().encode(errors="replace"))
        else:
            columns = {}
            for name in {str(name) for row in table for name in row}:
                cells = [row.get(name) for row in table]
                column, error = outcome(
                    lambda cells=cells: pa.array(cells), pa.ArrowException, OverflowError, ValueError
                )
                columns[name] = pa.array([None if cell is None else repr(cell) for cell in cells]) if error else column
            _, error = outcome(lambda: pq.write_table(pa.table(columns), path), pa.ArrowException, UnicodeError)
            if error is not None:
                return
        found = require_requests_or_reasons(path)
        if found is not None and suffix == "jsonl":
            assert found[0].request is not None
            assert len(found) == len(table)

    read()


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "parquet"])
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    table = [{**GOOD, "id": f"row-{number}", "metadata": None} for number in range(30)]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "metadata": {"k": 1}} for row in table]), path)
    elif suffix == "csv":
        lines = [",".join(str(cell or "") for cell in row.values()) for row in table]
        path.write_text("\n".join([",".join(table[0]), *lines]))
    else:
        data = b"\n".join(to_json(row) for row in table)
        path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    good = path.read_bytes()
    assert all(row.request is not None for row in require_requests_or_reasons(path))

    @repeatable(40)
    @given(damages())
    def read(how):
        path.write_bytes(damage(good, how))
        require_requests_or_reasons(path)

    read()


@repeatable(60)
@given(texts)
@example("")
def test_odd_lines(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "odd.jsonl"
    path.write_bytes(to_json(GOOD) + b"\n" + text.encode(errors="surrogatepass") + b"\n")
    read = require_requests_or_reasons(path)
    assert read[0].request is not None


def test_values_of_megabytes_are_not_kept_twice(tmp_path):
    long = "x" * 500_000
    (tmp_path / "m.jsonl").write_bytes(to_json({**GOOD, "prompt": long}))
    (row,) = require_requests_or_reasons(tmp_path / "m.jsonl")
    assert len(json.dumps(row.dead_letter(row.failure))) < 510_000
    assert row.failure.value == "x" * 997 + "..."
    (tmp_path / "m.jsonl").write_bytes(to_json({**GOOD, "prompt": long * 100}) + b"\n" + to_json(GOOD))
    bad, good = require_requests_or_reasons(tmp_path / "m.jsonl")
    assert bad.failure.reason == "must be at most 1,048,576 bytes long"
    assert len(json.dumps(bad.dead_letter(bad.failure))) < 5_000
    assert good.request is not None


def test_a_small_archive_of_a_large_manifest_takes_little_memory(tmp_path):
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(b" " * 60_000_000 + b"\n" + to_json(GOOD), 1))
    tracemalloc.start()
    try:
        bad, good = require_requests_or_reasons(tmp_path / "m.jsonl.gz")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bad.failure.reason == "must be at most 1,048,576 bytes long"
    assert good.request is not None
    assert peak_bytes < 30_000_000


def test_parquet_of_odd_types(tmp_path):
    columns = {
        "id": pa.array(["a", "b"]),
        "prompt": pa.array([b"\xff", None], pa.binary()),
        "language": pa.array(["en", "en"]).dictionary_encode(),
        "seconds": pa.array([1, 10**18], pa.decimal128(30)),
        "seed": pa.array([1, 2], pa.timestamp("ns")),
        "metadata": pa.array([[("k", 1.5)], None], pa.map_(pa.string(), pa.float64())),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    read = require_requests_or_reasons(tmp_path / "m.parquet")
    assert [row.failure.field for row in read] == ["seed", "prompt"]


def test_every_odd_text_in_every_field(tmp_path):
    lines = [
        to_json({**GOOD, "id": f"{name}-{place}", name: text}) for name in GOOD for place, text in enumerate(ODD_TEXTS)
    ]
    (tmp_path / "m.jsonl").write_bytes(b"\n".join(lines))
    read = require_requests_or_reasons(tmp_path / "m.jsonl")
    assert len(read) == len(GOOD) * len(ODD_TEXTS)
    passed = {json.loads(line)["image"] for line, row in zip(lines, read, strict=True) if row.request is not None}
    assert "a.png" in passed
    assert not any("://" in image or image.startswith(("/", "~", "..")) for image in passed)
