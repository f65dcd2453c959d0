"""Finished campaigns of drawn clips: checked, muxed and booked by the project's own code, without a model."""

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from actors.references import AllowedReferences, folder_of
from actors.request import LANGUAGES
from model.geometry import FRAMES_PER_SECOND, MODEL_SAMPLE_RATE_HZ
from pipeline.localization.books import write_books
from pipeline.localization.campaign import read_campaign
from pipeline.localization.expansion import expand
from pipeline.localization.outcomes import read_outcomes
from pipeline.manifest import DEAD_LETTER_KEY
from tests.finished_runs import commit

SIZES = {"16:9": (224, 128), "9:16": (128, 224), "1:1": (160, 160)}
LINES = {
    "en": "Hello, and welcome to our little shop by the sea!",
    "zh": "你好，欢迎光临我们海边的小店！",
    "yue": "你好，歡迎嚟到我哋海邊嘅小店！",
    "ja": "こんにちは。海辺の小さな店へようこそ。",
    "ko": "안녕하세요! 바닷가 작은 가게에 잘 오셨어요.",
    "de": "Hallo und willkommen in unserem kleinen Laden am Meer!",
    "fr": "Bonjour et bienvenue dans notre petite boutique au bord de la mer !",
}
NAMES = ("welcome", "morning", "thanks", "evening", "harbour", "goodbye")
WAITING = "goodbye.fr"
FAILED = "evening.de"


def finished_campaign(folder: Path) -> Path:
    """A campaign's output as `jobs.localize` leaves it.

    One clip failed, one is waiting, two lines and a scene are rejected.
    """
    _write_campaign(folder)
    output, url = folder / "out", str(folder / "campaign.csv")
    rows = read_campaign(url)
    references = AllowedReferences.of_manifest(url)
    expansion = expand(rows, tuple(LANGUAGES), references, folder_of(url), lambda url: Path(url).exists())
    for clip in expansion.clips:
        if clip.request.id not in (WAITING, FAILED):
            commit(str(output), clip.request, *drawn(clip.request.seed, clip.request.aspect))
    failure = {"stage": "decoding", "field": "", "value": None, "reason": "the picture is not a number", "line": 1}
    (output / "dead_letter.jsonl").write_text(json.dumps({"id": FAILED, DEAD_LETTER_KEY: failure}) + "\n")
    write_books("Seaside", rows, expansion, read_outcomes(expansion.clips, str(output)), tuple(LANGUAGES), str(output))
    return output


@cache
def drawn(seed: int, aspect: str, num_frames: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A disc that goes round before a wall of the scene's own colour, and a tone: (F, Y, X, 3), (S,) at 51.2 kHz."""
    width, height = SIZES[aspect]
    rng = np.random.default_rng(seed)
    wall_3, disc_3 = rng.integers(40, 140, 3), rng.integers(150, 230, 3)
    y_Y1, x_X = np.arange(height)[:, None], np.arange(width)
    shaded_wall_Y13 = wall_3 * (0.7 + 0.5 * y_Y1 / height)[..., None]
    frames_FYX3 = np.empty((num_frames, height, width, 3), np.uint8)
    for number, frame_YX3 in enumerate(frames_FYX3):
        angle = 2 * np.pi * number / num_frames
        x, y = width * (0.5 + 0.2 * np.cos(angle)), height * (0.5 + 0.2 * np.sin(angle))
        is_disc_YX = np.hypot(x_X - x, y_Y1 - y) < min(width, height) / 4
        frame_YX3[:] = np.where(is_disc_YX[..., None], disc_3, shaded_wall_Y13)
    times_S = np.arange(num_frames * MODEL_SAMPLE_RATE_HZ // FRAMES_PER_SECOND) / MODEL_SAMPLE_RATE_HZ
    return frames_FYX3, 0.2 * np.sin(2 * np.pi * rng.integers(150, 400) * times_S).astype(np.float32)


def _write_campaign(folder: Path) -> None:
    """`campaign.csv` and its image; what is wrong with it is told by the names of its last scenes."""
    Image.linear_gradient("L").convert("RGB").resize((640, 480)).save(folder / "shop.png")
    rows = [
        {
            "id": name,
            "scene": f"A shopkeeper at a counter, the {name} light behind.",
            "speaker": "Shopkeeper",
            "image": "shop.png" if name in ("morning", "harbour") else "",
            "aspect": tuple(SIZES)[number % 3],
            **{f"line.{language}": line for language, line in LINES.items()},
        }
        for number, name in enumerate(NAMES)
    ]
    rows.append(rows[0] | {"id": "script", "line.ja": "안녕하세요", "line.ko": ""})
    rows.append(rows[0] | {"id": "picture", "image": "absent.png"})
    with (folder / "campaign.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
