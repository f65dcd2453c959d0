import io

import numpy as np
import pytest
from PIL import Image

from actors.evaluation.clips import Asked, JudgedClip
from pipeline.frames_sheet import NUM_MOMENTS, draw_frames
from tests.finished_runs import mux

LABEL, ROW, WIDE, GAP = 148, 116, 112 * 96 // 64, 4
SILENCE = np.zeros(51_200, np.float32)


def brightening(num_frames: int, width: int, height: int) -> np.ndarray:
    levels = np.linspace(20, 230, num_frames).astype(np.uint8)
    return np.tile(levels[:, None, None, None], (1, height, width, 3))


def judged(name: str, language: str, problem: str = "") -> JudgedClip:
    return JudgedClip(name, language, "256p", Asked(None, None, "", None, False, False), problem=problem)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "clips").mkdir()

    def write(name: str, frames: np.ndarray) -> None:
        (tmp_path / f"clips/{name}.mp4").write_bytes(mux(frames, SILENCE)[0])

    write("broken", brightening(25, 96, 64))
    # The index is whole, so that the file can be looked into; its pictures are not.
    data = (tmp_path / "clips/broken.mp4").read_bytes()
    begin = data.index(b"mdat") + 4
    (tmp_path / "clips/broken.mp4").write_bytes(data[:begin] + bytes(len(data) - begin))
    write("wide", brightening(25, 96, 64))
    write("tall", brightening(25, 64, 96)[::-1])
    write("short", brightening(3, 64, 64))
    return str(tmp_path)


def sheet_of(run: str, *clips: JudgedClip) -> np.ndarray:
    with Image.open(io.BytesIO(draw_frames(run, clips))) as sheet:
        return np.asarray(sheet.convert("L")).astype(int)


def cells(sheet: np.ndarray, row: int) -> list[int]:
    """The middle of every cell of a row."""
    return [sheet[row * ROW + ROW // 2, LABEL + column * (WIDE + GAP) + WIDE // 2] for column in range(NUM_MOMENTS)]


def test_every_language_has_a_row_of_its_first_sound_clip_in_the_order_of_time(run):
    clips = [judged("tall", "fr"), judged("broken", "zh"), judged("removed", "zh"), judged("wide", "zh")]
    sheet = sheet_of(run, *clips, judged("short", "zh"), judged("nothing", "de", problem="gone"))
    assert sheet.shape == (2 * ROW, LABEL + NUM_MOMENTS * (WIDE + GAP))
    expected = np.linspace(20, 230, NUM_MOMENTS)
    assert cells(sheet, 0) == pytest.approx(expected, abs=6), "Mandarin comes first"
    assert cells(sheet, 1) == pytest.approx(expected[::-1], abs=6)
    # Labels in front are dark, the sides of narrow pictures white.
    assert sheet[:ROW, :LABEL].min() < 80
    assert sheet[ROW + ROW // 2, LABEL + 10] > 250


def test_a_clip_of_few_frames_shows_every_one(run):
    with Image.open(io.BytesIO(draw_frames(run, [judged("short", "en")]))) as sheet:
        assert sheet.size == (LABEL + NUM_MOMENTS * (112 + GAP), ROW)
        row = np.asarray(sheet.convert("L"))[ROW // 2].astype(int)
    middles = [row[LABEL + column * (112 + GAP) + 58] for column in range(NUM_MOMENTS)]
    assert middles == pytest.approx([20, 125, 230, *[255] * 5], abs=6)


def test_a_run_without_a_clip_to_show_gives_an_empty_sheet(run):
    assert sheet_of(run, judged("broken", "zh")).min() > 250
