"""Forty rows by somebody who means ill, and two by somebody else, through the whole job."""

import io
import json
import os
import threading
import wave
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from pipeline.run import Run
from pipeline.run_spec import RunSpec
from pipeline.settings import load_settings
from tests.media_files import png_of


def row(clip_id, **fields):
    return {"id": clip_id, "prompt": "A person speaks.", "language": "en", "seconds": 0.2, **fields}


@pytest.fixture
def private_server():
    """A server of this machine that nobody may be led to; gives its port and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, asked
    server.shutdown()
    server.server_close()


def sound(rate_hz: int, num_frames: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, rate_hz, 0, "NONE", ""))
        out.writeframes(bytes(2 * num_frames))
    return file.getvalue()


def write_files(folder: Path) -> None:
    """Files beside the manifest, and one outside its folder."""
    (folder.parent / "secret.txt").write_bytes(b"secret")
    picture, one_bit = io.BytesIO(), io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(picture, "PNG")
    Image.new("1", (9_500, 9_500)).save(one_bit, "PNG")
    files = {
        "face.png": picture.getvalue(),
        "half.png": picture.getvalue()[:1000],
        "bomb.png": one_bit.getvalue(),
        "wide.png": png_of(100_000, 100_000),
        "strip.png": png_of(100_000, 2),
        "empty.png": b"",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "words.wav": b"no sound at all",
        "slow.wav": sound(1, 4096),
        "short.wav": sound(16_000, 100),
        "cut.wav": sound(16_000, 16_000)[:40],
        "playlist.wav": b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "session.wav": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 49170 RTP/AVP 0\n",
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "link.png").symlink_to("../secret.txt")
    os.mkfifo(folder / "pipe.png")
    with open(folder / "large.png", "wb") as file:
        file.truncate(65_000_000)


def evil_rows(port: int):
    """(row, field, beginning of the reason)."""
    outside, controls = "must lie under ", "must not hold control characters"
    return [
        (row("../../evil"), "id", "must be 1 to 128 letters"),
        (row("/tmp/evil"), "id", "must be 1 to 128 letters"),
        (row("..\\evil"), "id", "must be 1 to 128 letters"),
        (row("a\x00b"), "id", "must be 1 to 128 letters"),
        (row("x" * 1000), "id", "must be 1 to 128 letters"),
        (row("rtl", prompt="A \u202eperson."), "prompt", controls),
        (row("nul", prompt="A \x00person."), "prompt", controls),
        (row("half", prompt="A \ud83d person."), "prompt", "must not hold half a character"),
        (row("book", prompt="x" * 500_000), "prompt", "must be at most 20,000 characters"),
        (row("library", prompt="x" * 50_000_000), "row", "must be at most 1,048,576 bytes"),
        (row("nan", seconds=float("nan")), "seconds", "must be a number"),
        (row("inf", seconds=float("inf")), "seconds", "must be a number"),
        (row("minus", seconds=-1), "seconds", "must be at least"),
        (row("ages", seconds=1e300), "seconds", "must be at most"),
        (row("true", seconds=True), "seconds", "must be a number"),
        (row("seed", seed=2**70), "seed", "must be a"),
        (
            '{"id": "digits", "prompt": "x", "language": "en", "seed": ' + "9" * 5000 + "}",
            "row",
            "is not a JSON object",
        ),
        ('{"id": "twice", "id": "good-0", "prompt": "x", "language": "en"}', "row", "is not a JSON object: it names"),
        ("[" * 50_000, "row", "is not a JSON object"),
        (row("deep", metadata=json.loads('{"k":' * 90 + "1" + "}" * 90)), "row", "is nested deeper than 50 levels"),
        (row("heap", metadata={"k": "x" * 70_000}), "metadata", "must be at most 65,536 bytes"),
        (row("bell", metadata={"k": "\x07"}), "metadata", controls),
        (row("file", image="file:///etc/passwd"), "image", outside),
        (row("root", image="/etc/passwd"), "image", outside),
        (row("up", image="../secret.txt"), "image", outside),
        (row("home", image="~/.ssh/id_rsa"), "image", "must be a URL, or a path"),
        (row("cloud", image="http://169.254.169.254/latest/meta-data/"), "image", outside),
        (row("inside", audio=f"http://127.0.0.1:{port}/a.wav"), "audio", outside),
        (row("chain", image="simplecache::file:///etc/passwd"), "image", outside),
        (row("bucket", image="s3://another/a.png"), "image", outside),
        (row("link", image="link.png"), "image", "is a link that leads out"),
        (row("pipe", image="pipe.png"), "image", "must be a file"),
        (row("large", image="large.png"), "image", "must be at most 64 MB large"),
        (row("cut", image="half.png"), "image", "cannot be read: image of 1000 bytes cannot be decoded"),
        (row("bomb", image="bomb.png"), "image", "cannot be read: image of 9500x9500 pixels is over"),
        (row("wide", image="wide.png"), "image", "cannot be read: image is over"),
        (row("strip", image="strip.png"), "image", "cannot be read: image of 100000x2 pixels has a side over"),
        (
            row("svg", image="drawing.svg"),
            "image",
            "cannot be read: image of 80 bytes cannot be decoded: it is none of",
        ),
        (
            row("slow", audio="slow.wav"),
            "audio",
            "cannot be read: audio of 8236 bytes cannot be decoded: its 1 samples",
        ),
        (row("session", audio="session.wav"), "audio", "cannot be read: audio of 82 bytes cannot be decoded"),
    ]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and time."""
    facts = {str(path): path.lstat() for path in folder.rglob("*")}
    return {path: (fact.st_size, fact.st_mtime_ns) for path, fact in facts.items() if not os.path.isdir(path)}


@pytest.mark.slow
def test_forty_evil_rows_and_two_good_ones(generate, private_server, tmp_path):
    port, asked = private_server
    folder, output = tmp_path / "set", tmp_path / "out"
    folder.mkdir()
    write_files(folder)
    evil = evil_rows(port)
    assert len(evil) == 40
    lines = [values if isinstance(values, str) else json.dumps(values) for values, _, _ in evil]
    good = [json.dumps(row("good-0")), json.dumps(row("good-1", image="face.png"))]
    (folder / "manifest.jsonl").write_text("\n".join([good[0], *lines, good[1]]))
    before = tree(tmp_path)

    status, printed, errors = generate(folder / "manifest.jsonl", output)

    assert status == 3
    assert "Traceback" not in printed + errors
    assert "2 made, 0 skipped, 40 dead-lettered" in printed
    assert {path.name for path in output.glob("clips/*.mp4")} == {"good-0.mp4", "good-1.mp4"}
    letters = [json.loads(line) for line in (output / "dead_letter.jsonl").read_text().splitlines()]
    told = {letter["dead_letter"]["line"]: letter["dead_letter"] for letter in letters}
    for line, (_, field, reason) in enumerate(evil, start=2):
        assert told[line]["field"] == field
        assert told[line]["reason"].startswith(reason)
        assert "\n" not in told[line]["reason"]
    assert len(told) == 40
    after = tree(tmp_path)
    assert {path: after[path] for path in after if not path.startswith(f"{output}/")} == before
    assert not any(Path(path).exists() for path in ("/tmp/evil.mp4", "/tmp/evil.json", tmp_path.parent / "evil.mp4"))
    assert asked == []
    assert (output / "dead_letter.jsonl").stat().st_size < 5_000_000
    assert (output / "index.html").stat().st_size < 1_000_000


@pytest.mark.slow
def test_mended_dead_letters_reach_what_their_manifest_reached(generate, tiny_checkpoint, tmp_path):
    """Fed back from the output's folder, their images lie elsewhere; another output knows nothing of them."""
    folder, output = tmp_path / "set", tmp_path / "out"
    folder.mkdir()
    write_files(folder)
    (folder / "manifest.jsonl").write_text(json.dumps(row("a", image="face.png", language="xx")))

    def is_accepted(output, *overrides):
        """Whether the mended row is work for a lane; to make a clip of it takes no other road."""
        spec = RunSpec(str(mended), str(output), tiny_checkpoint, load_settings(None, overrides))
        works = Run(spec, Console()).find_work()
        return len(works) == 1 and works[0].reads_images

    mended = output / "mended.jsonl"
    assert generate(folder / "manifest.jsonl", output)[0] == 3
    (letter,) = [json.loads(line) for line in (output / "dead_letter.jsonl").read_text().splitlines()]
    mended.write_text(json.dumps(letter | {"language": "en"}))
    assert is_accepted(output)
    assert generate(mended, tmp_path / "another")[0] == 3
    (letter,) = [json.loads(line) for line in (tmp_path / "another/dead_letter.jsonl").read_text().splitlines()]
    assert letter["dead_letter"]["reason"].startswith(f"must lie under {output}/ (setting allowed_references)")
    assert is_accepted(tmp_path / "another", f"allowed_references=[., {folder}]")
