"""The job on finished runs of rendered clips: truth scores fully, and what is wrong is caught."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import jobs.evaluate
from actors.request import ClipRequest
from actors.small_world.clips import SmallWorldClip
from actors.small_world.vocabulary import WORDS
from jobs.evaluate import main
from pipeline import evaluation
from tests.finished_runs import commit, rendered
from tests.tiny_whisper import write_tiny_whisper

pytestmark = pytest.mark.usefixtures("espeak")
ROOT = Path(__file__).parents[2]
SEED = 3000
FILES = {"figures.json", "figures.md", "figures.png", "frames.jpg", "clips.parquet"}


def clip_number(index: int) -> SmallWorldClip:
    return SmallWorldClip.sample(SEED, index).with_look()


def read_report(folder: Path) -> tuple[dict, dict]:
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / "figures.png").read_bytes().startswith(b"\x89PNG")
    rows = pq.read_table(folder / "clips.parquet").to_pylist()
    return json.loads((folder / "figures.json").read_text()), {row["id"]: row for row in rows}


@pytest.mark.slow
def test_truth_scores_fully(tmp_path, capsys):
    for index in range(0, len(WORDS), 4):
        clip = clip_number(index)
        commit(str(tmp_path), clip.request(), *rendered(clip))
    (tmp_path / "dead_letter.jsonl").write_text('{"id": "a"}\n{"id": "b"}\n')
    assert main(["--output", str(tmp_path), "--num-workers", "2"]) == 0
    printed = capsys.readouterr().out
    assert "25 clips, 0 of them unreadable; 2 dead letters" in printed
    figures, rows = read_report(tmp_path / "evaluation")
    total = figures["figures"]["all"]
    for share in ("word_accuracy", "language_accuracy", "in_sync", "video_length_right", "audio_length_right"):
        assert total[share] == 1, share
    assert set(total["colours_right"].values()) == {1.0}
    assert total["unseen_voice_word_accuracy"] > 0.95
    assert total["mouth_correlation"] > 0.95
    assert total["correlation_gap"] > 0.4
    assert total["mismatched_correlation"] < total["same_onset_correlation"] < 0.9
    assert total["median_lag_frames"] == 0
    assert set(figures["figures"]) == {"all", "zh", "yue", "en", "ja", "ko", "de", "fr"}
    english = figures["figures"]["en"]
    assert english["metric"] == "WER"
    assert 0 < english["original_error_rate"] < 0.3
    assert len(rows) == 25
    assert all(row["word"] == row["asked_word"] for row in rows.values())
    with Image.open(tmp_path / "evaluation/frames.jpg") as sheet:
        assert sheet.height == 7 * (112 + 4)
    markdown = (tmp_path / "evaluation/figures.md").read_text()
    for row in ("| right word | 100.0% |", "|   unseen voice | ", "|   same onset | 0."):
        assert row in markdown
    assert "no frame was decoded" not in printed


@pytest.mark.slow
def test_what_is_wrong_is_caught(tmp_path, capsys):
    output, report = tmp_path / "run", tmp_path / "report"
    clips = [clip_number(index) for index in range(8)]

    def make(index: int, asks: SmallWorldClip, frames: np.ndarray, waveform: np.ndarray, **fields) -> None:
        commit(str(output), asks.request(**{"id": f"clip-{index}", **fields}), frames, waveform)

    frames, waveforms = zip(*[rendered(clip) for clip in clips], strict=True)
    make(0, clips[0], frames[0], waveforms[0])
    make(1, clips[2], frames[1], waveforms[1], aspect=clips[1].aspect, seconds=clips[1].seconds)  # word and look
    make(2, clips[2], frames[2], clips[5].waveform())  # sound of another clip
    make(3, clips[3], frames[3], np.zeros_like(waveforms[3]))  # silent
    make(4, clips[4], frames[4], waveforms[4], seconds=clips[4].seconds + 0.2)  # too short
    late = np.concatenate([frames[5][:1].repeat(4, axis=0), frames[5][:-4]])
    make(5, clips[5], late, waveforms[5])  # mouth late
    make(6, clips[6].without_look(), frames[6], waveforms[6], image="face.png")
    make(7, clips[7], frames[7], waveforms[7])
    (output / "clips/clip-7.mp4").write_bytes(b"no video")
    assert main(["--output", str(output), "--report", str(report), "--num-workers", "1"]) == 0
    figures, rows = read_report(report)
    assert not (output / "evaluation").exists()
    right = {name: row["word_right"] for name, row in rows.items()}
    assert right == {f"clip-{n}": n not in (1, 2, 3) for n in range(7)} | {"clip-7": None}
    assert rows["clip-1"]["word"] == clips[1].word.name
    assert rows["clip-1"]["colours_right"] is False
    assert rows["clip-1"]["shirt"] == clips[1].look.shirt
    assert rows["clip-2"]["mouth_correlation"] < 0.9 < rows["clip-0"]["mouth_correlation"]
    assert rows["clip-3"]["word"] is None
    assert rows["clip-3"]["mouth_correlation"] == 0
    assert rows["clip-3"]["lag_frames"] is None
    assert rows["clip-5"]["lag_frames"] == 4
    assert rows["clip-6"]["has_image"]
    assert "cannot be" in rows["clip-7"]["problem"]
    total = figures["figures"]["all"]
    assert total["num_problems"] == 1
    assert total["word_accuracy"] == pytest.approx(4 / 7)
    assert total["video_length_right"] == total["audio_length_right"] == pytest.approx(6 / 7)
    assert total["colours_right"]["all"] == pytest.approx(5 / 6)
    assert total["image_colours_right"]["all"] == 1
    assert [clips[2].word.name, clips[1].word.name, 1] in figures["confused"]
    assert "1 of them unreadable" in capsys.readouterr().out


@pytest.mark.slow
def test_rows_outside_the_small_world_are_judged_by_length_and_whisper(tmp_path, s3_bucket, capsys):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 51_200).astype(np.float32)
    grey = np.full((25, 128, 224, 3), 128, np.uint8)
    dialogue = {"description": "A man speaks.", "dialogue": [{"speaker": "Man", "line": "Wie geht es dir?"}]}
    commit(s3_bucket, ClipRequest(id="a", prompt=dialogue, language="de", seconds=1), grey, noise)
    odd = {"seconds": 2, "metadata": {"small_world": 3}}
    commit(s3_bucket, ClipRequest(id="b", prompt="A man.", language="fr", **odd), grey, noise)
    hello = {"description": "A man.", "dialogue": [{"speaker": "Man", "line": "Salut !"}]}
    commit(s3_bucket, ClipRequest(id="c", prompt=hello, language="fr", seconds=1), grey, noise)
    # How long this one was to be is the checkpoint's to say: its length is not judged.
    commit(s3_bucket, ClipRequest(id="d", prompt="A man.", language="fr"), grey, noise)
    # Whisper does not know the row's language, but the line's.
    german = {"description": "A man.", "dialogue": [{"speaker": "Man", "line": "Guten Abend", "language": "de"}]}
    commit(s3_bucket, ClipRequest(id="e", prompt=german, language="fr", seconds=1), grey, noise)
    # What a recording says is not transcribed.
    driven = {"audio": "speech.wav", "prompt": dialogue, "language": "de"}
    commit(s3_bucket, ClipRequest(id="f", **driven), grey, noise)
    whisper = write_tiny_whisper(tmp_path / "whisper")
    report = tmp_path / "report"
    arguments = ["--output", s3_bucket, "--report", str(report), "--whisper", whisper, "--num-workers", "1"]
    assert main(arguments) == 0
    assert "not of a picture size of the small world, so that no frame was decoded: 6 clips" in capsys.readouterr().out
    figures, rows = read_report(report)
    with Image.open(report / "frames.jpg") as sheet:
        assert sheet.height == 2 * (112 + 4)
        for row in range(2):
            middle = np.asarray(sheet)[row * 116 + 20 : row * 116 + 96, 160:]
            assert np.median(middle) == pytest.approx(128, abs=3)
    assert rows["a"]["transcript"] is not None
    assert rows["e"]["transcript"] is not None
    assert rows["e"]["language"] == "de"
    assert rows["f"]["transcript"] is None
    assert figures["figures"]["de"]["error_rate"] > 0
    assert figures["figures"]["fr"]["error_rate"] is None
    assert any("does not know fr" in note for note in figures["notes"])
    assert rows["c"]["asked_word"] == "fr-hello"
    assert figures["figures"]["all"]["num_words"] == 1
    assert figures["figures"]["all"]["mouth_correlation"] is None
    assert figures["figures"]["all"]["colours_right"]["all"] is None
    assert figures["figures"]["de"]["video_length_right"] == 1
    assert figures["figures"]["fr"]["video_length_right"] == 0.5


@pytest.mark.slow
def test_without_espeak_words_are_left_out(tmp_path):
    clip = clip_number(0)
    commit(str(tmp_path), clip.request(), *rendered(clip))
    # A process of its own: this one remembers what espeak-ng has said.
    command = [sys.executable, "-m", "jobs.evaluate", "--output", str(tmp_path), "--num-workers", "1"]
    result = subprocess.run(command, env=os.environ | {"PATH": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "words: left out, espeak-ng is not installed" in result.stdout
    figures, rows = read_report(tmp_path / "evaluation")
    assert figures["figures"]["all"]["word_accuracy"] is None
    assert rows[clip.id]["word_right"] is None
    assert rows[clip.id]["colours_right"]


@pytest.mark.slow
def test_super_resolution_is_compared_with_enlarging(tmp_path, tiny_checkpoint, capsys):
    arguments = ["--super-resolution", "--checkpoint", tiny_checkpoint, "--num-clips", "2", "--report", str(tmp_path)]
    assert main([*arguments, "--set", "sampling.sr_steps=2"]) == 0
    assert "2 clips; super-resolution is better" in capsys.readouterr().out
    facts = json.loads((tmp_path / "super_resolution.json").read_text())
    assert len(facts["clips"]) == 2
    mean = facts["figures"]["mean_db"]
    assert mean["bilinear_render_db"] > 20 > mean["super_resolution_db"]
    assert facts["figures"]["better_than_bilinear_render"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output must be given"),
        (["--super-resolution"], "--checkpoint and --report must be given with --super-resolution"),
        (
            ["--output", "x", "--checkpoint", "c", "--seed", "0", "--set", "sampling.sr_steps=2"],
            "--checkpoint and --seed and --set must not be given without --super-resolution",
        ),
        (
            ["--super-resolution", "--checkpoint", "c", "--report", "r", "--output", "x", "--num-workers", "2"],
            "--output and --num-workers must not be given with --super-resolution",
        ),
        (["--output", "x", "--num-workers", "0"], "--num-workers: must be at least 1, got 0"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_an_evaluation_that_breaks_is_one_line_and_status_1(tmp_path, monkeypatch, capsys):
    def break_down(spec, on_judged):
        raise evaluation.EvaluationBrokenError("a process was killed when 3 of 9 clips were judged")

    monkeypatch.setattr(jobs.evaluate, "evaluate", break_down)
    assert main(["--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: a process was killed when 3 of 9 clips were judged\n"
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_evaluated_is_one_line(tmp_path, monkeypatch, capsys):
    assert main(["--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: output {tmp_path} holds no finished clips; jobs.generate makes them\n"
    assert main(["--output", str(tmp_path), "--whisper", str(tmp_path)]) == 2
    assert "error: whisper must be a folder with a config.json" in capsys.readouterr().err
    monkeypatch.setattr(jobs.evaluate, "_LIBRARIES", ("jiwer", "a_library_nobody_has"))
    assert main(["--output", str(tmp_path)]) == 2
    error = "error: a_library_nobody_has not installed: pip install -e '.[evaluation]' in the project's folder\n"
    assert capsys.readouterr().err == error
    assert "a_library_nobody_has" not in sys.modules
