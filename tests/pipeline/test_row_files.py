import csv
import io
import tracemalloc

import pytest

from actors.limits import MAX_ROW_BYTES
from pipeline.row_files import BadLine, limited_lines, parse_row, read_json_lines


class Repeated(io.RawIOBase):
    """A file of one byte again and again, which is nowhere."""

    def __init__(self, byte: bytes, num_bytes: int, end: bytes):
        self.byte, self.left, self.end = byte, num_bytes, end

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(len(buffer), self.left) or min(len(buffer), len(self.end))
        data = self.byte * size if self.left else self.end[:size]
        self.left, self.end = (self.left - size, self.end) if self.left else (0, self.end[size:])
        buffer[:size] = data
        return size


def read(data: bytes):
    return [(number, parse_row(row)) for number, row in read_json_lines(io.BytesIO(data))]


def test_rows_have_the_numbers_of_their_lines():
    assert read(b'\xef\xbb\xbf{"a": 1}\r\n\n  \n{"a": 2}') == [(1, {"a": 1}), (4, {"a": 2})]
    assert read(b"") == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1]", "is not a JSON object"),
        (b"words", "is not a JSON object: Expecting value"),
        (b'{"id": ', "is not a JSON object: Expecting value"),
        (b'{"id": "a", "x": 1, "id": "b"}', "is not a JSON object: it names the key 'id' twice"),
        (b'{"metadata": {"k": 1, "k": 1}}', "is not a JSON object: it names the key 'k' twice"),
        (b"\xff\xfe", "is not a JSON object: 'utf-8' codec can't decode"),
        (b'{"a": "\xed\xa0\xbd"}', "is not a JSON object: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "is not a JSON object: it is nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "is not a JSON object: Exceeds the limit"),
        (b'{"a": "\x00"}', "is not a JSON object: Invalid control character"),
        ('{"a": 1}'.encode("utf-16"), "is not a JSON object: 'utf-8' codec can't decode"),
    ],
)
def test_what_is_no_row_is_kept_with_the_reason(line, reason):
    first, (number, bad), last = read(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert (first, number, last) == ((1, {"a": 1}), 2, (3, {"a": 2}))
    assert isinstance(bad, BadLine)
    assert bad.reason.startswith(reason)
    assert "\n" not in bad.reason
    assert bad.text == line.decode(errors="replace").strip()


def test_a_line_without_end_takes_no_memory():
    file = io.BufferedReader(Repeated(b"x", 50_000_000, b'\n{"a": 1}\n'))
    tracemalloc.start()
    try:
        (number, bad), (last_number, last) = read_json_lines(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (number, bad.text, last_number, parse_row(last)) == (1, "x" * 1000, 2, {"a": 1})
    assert bad.reason == "must be at most 1,048,576 bytes long"
    assert peak < 5 * MAX_ROW_BYTES


def test_a_line_of_csv_without_end_is_told_of():
    assert list(limited_lines(io.StringIO("a,b\r\n1,2", newline=""))) == ["a,b\r\n", "1,2"]
    with pytest.raises(csv.Error, match="a line must be at most 1,048,576 characters long"):
        list(limited_lines(io.StringIO("a,b\n" + "x" * (MAX_ROW_BYTES + 1))))
