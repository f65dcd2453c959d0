"""A manifest of rows that become clips, one of every kind at least, and of rows that cannot."""

import io
import json
import wave
from pathlib import Path

import numpy as np
from PIL import Image

DECODING_CPUS = 14.5
"""Of the cluster's 16: half a one for each of the other pools would leave none free."""


def row(clip_id, **fields):
    return {"id": clip_id, "prompt": f"A person speaks about {clip_id}.", "language": "en", "seconds": 0.2, **fields}


GOOD_ROWS = [
    row("wide", language="zh", seed=7, metadata={"campaign": "demo"}),
    row("tall", aspect="9:16", language="yue", seconds=1),
    row("square", aspect="1:1", language="ja", image="face.png"),
    row("driven", language="ko", audio="voice.wav", seconds=None),
    row("larger", resolution="540p", language="de", image="face.png"),
    row("one", prompt="same", seed=1),
    row("other-seed", prompt="same", seed=2),
    row("same-as-one", prompt="same", seed=1),
]

BAD_ROWS = [
    ('{"id": "broken", "prompt": ', "row", "is not a JSON object"),
    ('["no", "object"]', "row", "is not a JSON object"),
    ("plain words", "row", "is not a JSON object"),
    (row("no-prompt", prompt=None), "prompt", "is missing"),
    (row("empty-prompt", prompt=" "), "prompt", "must not be empty"),
    (row("odd-prompt", prompt=["x"]), "prompt", "must be text"),
    (row("half-prompt", prompt={"dialogue": []}), "prompt.description", "is missing"),
    (row("no-language", language=None), "language", "is missing"),
    (row("italian", language="it"), "language", "must be one of 'zh', 'yue', 'en', 'ja', 'ko', 'de' or 'fr'"),
    (row("../x"), "id", "must be 1 to 128 letters, digits, dots, underscores or hyphens"),
    (row(None), "id", "is missing"),
    (row("wide"), "id", "is used already in line"),
    (row("too-long", seconds=60), "seconds", "must be at most 15"),
    (row("too-short", seconds=0.1), "seconds", "must be at least 0.2"),
    (row("sizes", resolution="4k"), "resolution", "must be one of '256p', '540p' or '1080p'"),
    (row("shapes", aspect="21:9"), "aspect", "must be one of '16:9', '9:16' or '1:1'"),
    (row("seeds", seed="lucky"), "seed", "must be a number"),
    (row("typo", secnods=3), "secnods", "is unknown"),
    (row("no-image", image="absent.png"), "image", "cannot be read"),
    (row("no-picture", image="manifest.jsonl"), "image", "cannot be read"),
]
"""(row, field, beginning of the reason)."""


def mixed_rows():
    """Good and bad ones, a good one first."""
    rows = []
    for number, good in enumerate(GOOD_ROWS):
        rows += [good, *(bad for bad, _, _ in BAD_ROWS[3 * number : 3 * number + 3])]
    return rows


def write_manifest(path: Path, rows) -> Path:
    """Write rows as JSONL; bytes and text are written as they are."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def write_references(folder: Path) -> None:
    """Write what the rows refer to."""
    (folder / "face.png").write_bytes(noise_png((300, 200)))
    with wave.open(str(folder / "voice.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        tone_S = 8000 * np.sin(2 * np.pi * 220 * np.arange(8000) / 16_000)
        file.writeframes(tone_S.astype("<i2").tobytes())


def noise_png(size) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGB").save(file, "PNG")
    return file.getvalue()
