"""The whole job with a checkpoint whose `config.json` gives the labels other sizes than the release's.

What makes clips is for `-m soak`: sizes of every stage, without a cluster, are those of
`test_every_stage_takes_sizes_and_the_default_length_from_the_checkpoint`, rows that cannot be made those of
`tests/pipeline/test_offer.py`.
"""

import json
import shutil
import wave
from pathlib import Path

import pytest
import s3fs
from PIL import Image

from actors.media import probe
from actors.storage import join, read_bytes
from model.capabilities import Capabilities, Samplers
from model.checkpoint_writer import write_capabilities
from model.sampling import DistilledSampling

SIZES = {
    ("256p", "16:9"): (96, 64),
    ("256p", "9:16"): (64, 96),
    ("256p", "1:1"): (64, 64),
    ("540p", "16:9"): (192, 128),
    ("540p", "9:16"): (128, 192),
    ("540p", "1:1"): (128, 128),
}
SMALL = Capabilities(
    pixel_sizes=SIZES,
    min_seconds=0.4,
    max_seconds=2.0,
    default_seconds=0.6,
    samplers=Samplers(distill=DistilledSampling(num_steps=2, shift=3.0)),
)


@pytest.fixture
def small_checkpoint(tiny_checkpoint, tmp_path):
    """A tiny checkpoint for small pictures, without super-resolution at 1080p."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "small", ignore=shutil.ignore_patterns("1080p_sr"))
    write_capabilities(folder, SMALL)
    return folder


def row(clip_id, **fields):
    return {"id": clip_id, "prompt": f"A person speaks about {clip_id}.", "language": "en", **fields}


def dead_letters(output):
    lines = read_bytes(join(str(output), "dead_letter.jsonl")).splitlines()
    letters = {letter["id"]: letter["dead_letter"] for letter in map(json.loads, lines)}
    assert len(letters) == len(lines)
    return letters


@pytest.mark.soak
def test_labels_mean_what_the_checkpoint_says(generate, manifest, small_checkpoint, tmp_path):
    Image.effect_noise((300, 200), 80).convert("RGB").save(tmp_path / "face.png")
    rows = [
        row(f"{resolution}-{aspect.replace(':', '-')}", resolution=resolution, aspect=aspect, image="face.png")
        for resolution, aspect in SIZES
    ]
    rows.append(row("long", seconds=2))
    checkpoint = ("--checkpoint", str(small_checkpoint))
    assert generate(manifest(rows), tmp_path / "out", *checkpoint)[0] == 0
    for (width, height), values in zip(SIZES.values(), rows, strict=False):
        facts = probe((tmp_path / f"out/clips/{values['id']}.mp4").read_bytes())
        assert (facts.width, facts.height) == (width, height)
        assert abs(facts.video_s - 0.6) <= 0.04 + 1e-6, "the checkpoint's default length"
    assert abs(probe((tmp_path / "out/clips/long.mp4").read_bytes()).video_s - 2) <= 0.04 + 1e-6
    run = json.loads((tmp_path / "out/run.json").read_text())
    sampling = run["settings"]["sampling"]
    assert (sampling["distill_steps"], sampling["shift"], sampling["base_steps"]) == (2, 3.0, 32)
    page = (tmp_path / "out/index.html").read_text()
    for width, height in SIZES.values():
        assert f"<li>{width}×{height}</li>" in page
    # The same again has nothing to do; with other sizes under the labels the clips in the output are other clips.
    status, printed, _ = generate(manifest(rows), tmp_path / "out", *checkpoint)
    assert status == 0
    assert f"0 made, {len(rows)} skipped" in printed
    larger = {label: (width + 32, height + 32) for label, (width, height) in SIZES.items()}
    write_capabilities(small_checkpoint, Capabilities(pixel_sizes=larger, samplers=SMALL.samplers))
    assert generate(manifest(rows[:1]), tmp_path / "out", *checkpoint)[0] == 3
    assert "--overwrite" in dead_letters(tmp_path / "out")["256p-16-9"]["reason"]


def write_wave(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"\x10\x20" * int(16_000 * seconds))


@pytest.mark.soak
def test_rows_that_a_checkpoint_cannot_make_are_dead_letters_beside_clips(
    generate, manifest, small_checkpoint, tmp_path
):
    for seconds in (0.3, 1.0, 2.5):
        write_wave(tmp_path / f"{seconds}.wav", seconds)
    sizes = {label: size for label, size in SIZES.items() if label != ("256p", "9:16") and label != ("540p", "9:16")}
    sizes[("1080p", "16:9")] = (384, 256)
    told = Capabilities(sizes, 0.4, 2.0, 0.6, ("audio",), SMALL.samplers)
    write_capabilities(small_checkpoint, told)
    rows = {
        "good": (row("good"), None),
        "square": (row("square", aspect="1:1"), None),
        "driven": (row("driven", audio="1.0.wav"), None),
        "no-sr": (row("no-sr", resolution="1080p"), ("resolution", "must be one of 256p, 540p for this checkpoint")),
        "tall": (row("tall", aspect="9:16"), ("aspect", "must be one of 16:9, 1:1 at 256p for this checkpoint")),
        "long": (row("long", seconds=5), ("seconds", "must be between 0.4 and 2 for this checkpoint")),
        "pictured": (
            row("pictured", image="absent.png"),
            ("image", "must not be given for this checkpoint, which takes text and audio alone"),
        ),
        "long-voice": (
            row("long-voice", audio="2.5.wav"),
            (
                "audio",
                "lasts more than the 2 s that are possible for this checkpoint: set seconds to use its beginning",
            ),
        ),
        "short-voice": (
            row("short-voice", audio="0.3.wav"),
            ("audio", "lasts 0.30 s, at least 0.4 are needed for this checkpoint"),
        ),
    }
    path = manifest([values for values, _ in rows.values()])
    output = tmp_path / "out"
    status, printed, _ = generate(path, output, "--checkpoint", str(small_checkpoint))
    assert status == 3
    expected = {clip_id: fault for clip_id, (_, fault) in rows.items() if fault is not None}
    letters = dead_letters(output)
    assert {clip_id: (letter["field"], letter["reason"]) for clip_id, letter in letters.items()} == expected
    assert {letter["stage"] for letter in letters.values() if letter["field"] != "audio"} == {"manifest"}
    assert letters["long"]["value"] == 5
    assert {path.stem for path in (output / "clips").glob("*.mp4")} == {"good", "square", "driven"}
    expected = {"good": (96, 64, 0.6), "square": (64, 64, 0.6), "driven": (96, 64, 1.0)}
    for clip_id, (width, height, seconds) in expected.items():
        facts = probe((output / f"clips/{clip_id}.mp4").read_bytes())
        assert (facts.width, facts.height) == (width, height)
        assert abs(facts.video_s - seconds) <= 0.04 + 1e-6, "the checkpoint's default length, or the recording's"
    sampling = json.loads((output / "run.json").read_text())["settings"]["sampling"]
    assert (sampling["distill_steps"], sampling["shift"], sampling["base_steps"]) == (2, 3.0, 32)
    page = (output / "index.html").read_text()
    assert "<li>96×64</li>" in page
    assert "<li>64×64</li>" in page
    assert "3 made, 0 skipped, 6 dead-lettered" in printed


@pytest.mark.slow
def test_a_run_of_impossible_rows_ends_without_a_cluster(manifest, small_checkpoint, tmp_path, capsys):
    from jobs.generate import main

    path, output = manifest([row("a", resolution="1080p"), row("b", seconds=9)]), tmp_path / "out"
    arguments = ["--manifest", str(path), "--output", str(output), "--checkpoint", str(small_checkpoint)]
    assert main([*arguments, "--address", "127.0.0.1:1"]) == 3, "nothing answers at this address"
    assert "0 made, 0 skipped, 2 dead-lettered" in capsys.readouterr().out
    assert dead_letters(output)["a"]["reason"] == "must be one of 256p, 540p for this checkpoint"
    assert json.loads((output / "run.json").read_text())["state"] == "complete"


def test_without_a_config_an_absent_component_still_ends_the_run(generate, manifest, small_checkpoint, tmp_path):
    (small_checkpoint / "config.json").unlink()
    rows = [row("a", resolution="1080p", seconds=0.2)]
    status, _, errors = generate(manifest(rows), tmp_path / "out", "--checkpoint", str(small_checkpoint))
    assert status == 2
    assert errors.startswith(f"error: checkpoint {small_checkpoint}: sr_1080p: is absent, ")


def test_a_fault_of_the_config_is_told_before_anything_starts(generate, manifest, small_checkpoint, tmp_path):
    (small_checkpoint / "config.json").write_text('{"pixel_sizes": {"256p": {"16:9": [100, 64]}}}')
    status, _, errors = generate(manifest([row("a")]), tmp_path / "out", "--checkpoint", str(small_checkpoint))
    assert status == 2
    assert errors.startswith(
        f"error: checkpoint {small_checkpoint}: config.json: pixel_sizes.256p.16:9 must be [width, height], each a "
        "multiple of 32 pixels, got [100, 64]; "
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.soak
def test_a_checkpoint_in_a_bucket_says_its_sizes_too(generate, manifest, small_checkpoint, s3_bucket, tmp_path):
    store = s3fs.S3FileSystem()
    store.put(str(small_checkpoint), f"{s3_bucket}/model", recursive=True)
    cache = tmp_path / "cache"
    arguments = ("--checkpoint", f"{s3_bucket}/model", "--set", f"cache_dir={cache}")
    rows = [row("a"), row("b", aspect="9:16"), row("c", seconds=9)]
    assert generate(manifest(rows), tmp_path / "out", *arguments)[0] == 3
    widths = {name: probe((tmp_path / f"out/clips/{name}.mp4").read_bytes()).width for name in "ab"}
    assert widths == {"a": 96, "b": 64}
    assert list(dead_letters(tmp_path / "out")) == ["c"]
    assert len(list(cache.rglob("model/config.json"))) == 1
    # What the store no longer says must not go on holding through a node's old copy.
    store.rm(f"{s3_bucket}/model/config.json")
    store.invalidate_cache()
    assert generate(manifest([row("a", seconds=0.2)]), tmp_path / "new", *arguments)[0] == 0
    assert probe((tmp_path / "new/clips/a.mp4").read_bytes()).width == 448
