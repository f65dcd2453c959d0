"""A recipe from its axes to training data that people load, on a real cluster: partition by partition.

A part of a partition and failed clips that are tried again are for `-m soak`: a campaign does the latter by the same
code in `test_localize.py`.
"""

import io
import json
import shutil
from contextlib import redirect_stdout
from glob import glob
from pathlib import Path
from types import SimpleNamespace

import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import ray.data
import webdataset
import yaml
from PIL import Image

from actors.media import probe
from actors.request import space_cjk
from jobs.synthesize import main
from pipeline.synthesis.dataset import Dataset
from pipeline.synthesis.recipe import read_recipe
from pipeline.synthesis.sampling import sample

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipe.yaml"
MINI = Path(__file__).parents[2] / "checkpoints" / "mini"
FIRST, SECOND = "2026-11-22", "2026-11-23"


def said(arguments):
    printed = io.StringIO()
    with redirect_stdout(printed):
        status = main(arguments)
    return status, printed.getvalue()


@pytest.fixture(scope="module")
def made(cluster, tmp_path_factory):
    """The first partition, all of it again, and the next partition."""
    output = tmp_path_factory.mktemp("dataset")
    arguments = ["--recipe", str(EXAMPLE), "--output", str(output), "--checkpoint", str(MINI)]
    arguments += ["--address", cluster.address, "--shard-mb", "1"]
    first = said([*arguments, "--partition", FIRST])
    stamps = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    again = said([*arguments, "--partition", FIRST])
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    second = said([*arguments, "--partition", SECOND])
    return SimpleNamespace(
        output=output,
        arguments=arguments,
        first=first,
        again=again,
        is_untouched=stamps == after,
        second=second,
    )


def index(made, partition=None):
    folder = made.output / "index"
    return pq.read_table(folder / f"{partition}.parquet" if partition else folder).to_pylist()


@pytest.mark.slow
def test_thirty_and_none_and_thirty(made):
    assert made.first[0] == 0, made.first[1]
    assert "30 made, 0 skipped" in made.first[1]
    assert f"partition {FIRST} is in the dataset: 30 clips" in made.first[1]
    assert made.again == (0, f"partition {FIRST} finished already, nothing was made: 30 clips\n")
    assert made.is_untouched
    assert made.second[0] == 0, made.second[1]
    assert "30 made, 0 skipped" in made.second[1]


@pytest.mark.soak
def test_a_part_is_made_and_then_the_rest(cluster, tmp_path):
    arguments = ["--recipe", str(EXAMPLE), "--output", str(tmp_path), "--checkpoint", str(MINI)]
    arguments += ["--address", cluster.address, "--partition", FIRST]
    status, printed = said([*arguments, "--limit", "4"])
    assert status == 0, printed
    assert "4 made, 0 skipped" in printed
    assert "a part was made; without --only and --limit it is finished" in printed
    assert not (tmp_path / "index").exists()
    status, printed = said(arguments)
    assert status == 0, printed
    assert "26 made, 4 skipped" in printed
    assert f"partition {FIRST} is in the dataset: 30 clips" in printed


@pytest.mark.slow
def test_no_content_is_there_twice_and_weights_hold_within_one_clip(made):
    recipe = read_recipe(str(EXAMPLE))
    contents = []
    for partition in (FIRST, SECOND):
        rows = index(made, partition)
        contents += [row["content"] for row in rows]
        for axis, values in recipe.axes.items():
            if axis == "seconds":
                continue  # the index has what came out
            total = sum(one.weight for one in values)
            for one in values:
                found = sum(row[axis] == one.value for row in rows)
                assert abs(found - 30 * one.weight / total) < 1, (partition, axis, one.value)
        assert sorted(row["split"] for row in rows) == ["test"] * 3 + ["train"] * 24 + ["validation"] * 3
    assert len(contents) == len(set(contents)) == 60
    assert len({row["seed"] for row in index(made)}) == 60


@pytest.mark.slow
def test_the_index_tells_of_every_clip_what_training_needs(made):
    for row in index(made):
        path = made.output / row["media"]
        facts = probe(path.read_bytes())
        assert path.stat().st_size == row["num_bytes"]
        assert (facts.width, facts.height, facts.num_frames) == (row["width"], row["height"], row["num_frames"])
        assert facts.video_s == pytest.approx(row["seconds"])
        assert row["caption"] in row["prompt"]
        assert row["caption"].startswith("A woman" if row["speaker"] == "Woman" else "A man")
        assert f'"{space_cjk(row["transcript"])}"' in row["prompt"]
        assert row["fingerprint"]


@pytest.mark.slow
def test_it_loads_with_pyarrow_and_ray_data(made, driver):
    table = pyarrow.dataset.dataset(made.output / "index").to_table()
    assert table.num_rows == 60
    train = pyarrow.dataset.dataset(made.output / "index").to_table(filter=pyarrow.dataset.field("split") == "train")
    assert train.num_rows == 48
    clips = ray.data.read_parquet(str(made.output / "index"), columns=["id", "language"])
    assert clips.count() == 60
    assert {row["language"] for row in clips.take_all()} == {"zh", "yue", "en", "ja", "ko", "de", "fr"}


@pytest.mark.slow
def test_it_loads_with_webdataset(made):
    rows = {row["id"]: row for row in index(made)}
    seen = {}
    for split in ("train", "validation", "test"):
        shards = sorted(glob(str(made.output / "shards" / "*" / f"{split}-*.tar")))
        for one in webdataset.WebDataset(shards, shardshuffle=False):
            row = rows[one["__key__"]]
            assert row["split"] == split
            assert one["mp4"] == (made.output / row["media"]).read_bytes()
            assert one["txt"].decode() == row["transcript"]
            told = json.loads(one["json"])
            assert (told["language"], told["seed"], told["sha256"]) == (row["language"], row["seed"], row["sha256"])
            assert (made.output / row["shard"]).samefile(one["__url__"])
            seen[one["__key__"]] = split
    assert seen.keys() == rows.keys()


@pytest.mark.slow
def test_the_card_tells_what_is_there(made):
    card = (made.output / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["language"] == ["zh", "yue", "en", "ja", "ko", "de", "fr"]
    assert front["configs"] == [{"config_name": "default", "data_files": "index/*.parquet"}]
    assert front["size_categories"] == ["n<1K"]
    assert "60 clips of talking people" in card
    assert "| train | 48 |" in card
    assert "| Woman | 30.0 | 30 |" in card
    for partition in (FIRST, SECOND):
        assert f"| {partition} | 30 | 0 | 44 s |" in card
    with Image.open(made.output / "figures" / "distributions.png") as figure:
        assert figure.width > 800
        assert len(set(figure.convert("L").getdata())) > 10


@pytest.mark.slow
def test_code_of_the_card_runs_in_its_folder(made, driver, monkeypatch):
    monkeypatch.chdir(made.output)
    blocks = (made.output / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    names = {}
    for block in blocks:
        exec(block.split("```")[0], names)
    assert names["table"].num_rows == names["clips"].count() == 60
    assert sum(1 for _ in names["samples"]) == 48


@pytest.mark.slow
def test_another_recipe_is_refused_for_a_drawn_partition(made, tmp_path, capsys):
    shutil.copytree(EXAMPLE.parent / "lines", tmp_path / "lines")
    changed = tmp_path / "recipe.yaml"
    changed.write_text(EXAMPLE.read_text(encoding="utf-8").replace("seed: 20", "seed: 21"), encoding="utf-8")
    arguments = ["--recipe", str(changed), *made.arguments[2:], "--partition", FIRST]
    assert main(arguments) == 2
    differs = "seed is 21, was 20. Name another partition"
    assert capsys.readouterr().err == f"error: partition {FIRST} was drawn from another recipe: {differs}\n"
    assert said([*arguments, "--dry-run", "--partition", "2026-11-24"])[0] == 0


@pytest.mark.soak
def test_what_failed_is_tried_again_when_asked(made, tmp_path):
    """A clip whose record is gone has failed for all the dataset knows."""
    output = tmp_path / "dataset"
    shutil.copytree(made.output, output)
    arguments = [str(output) if one == str(made.output) else one for one in made.arguments]
    lost = index(made, FIRST)[3]
    (output / lost["media"]).with_suffix(".json").unlink()
    table = pq.read_table(output / "index" / f"{FIRST}.parquet")
    pq.write_table(
        table.filter(pyarrow.compute.not_equal(table["id"], lost["id"])), output / "index" / f"{FIRST}.parquet"
    )
    status, printed = said([*arguments, "--partition", FIRST])
    assert (status, printed) == (
        3,
        f"partition {FIRST} finished already, nothing was made: 29 clips, 1 failed (--retry-failed tries them again)\n",
    )
    status, printed = said([*arguments, "--partition", FIRST, "--retry-failed"])
    assert status == 0, printed
    assert "1 made, 0 skipped" in printed
    assert f"partition {FIRST} is in the dataset: 30 clips" in printed
    assert pq.read_table(output / "index" / f"{FIRST}.parquet").num_rows == 30


@pytest.mark.slow
def test_shards_of_a_finished_partition_are_made_in_another_size_without_a_clip(made, tmp_path):
    output = tmp_path / "dataset"
    shutil.copytree(made.output, output)
    arguments = [str(output) if one == str(made.output) else one for one in made.arguments]
    status, printed = said([*arguments, "--partition", FIRST, "--shard-mb", "50"])
    assert status == 0
    assert printed.endswith(f"partition {FIRST} has shards of another size now: 30 clips\n")
    shards = {path.name for path in (output / "shards" / FIRST).iterdir()}
    assert shards == {f"{split}-000000.tar" for split in ("train", "validation", "test")}
    rows = pq.read_table(output / "index" / f"{FIRST}.parquet").to_pylist()
    assert {row["shard"] for row in rows} == {f"shards/{FIRST}/{name}" for name in shards}


def test_before_anything_is_made_a_draw_can_be_thrown_away(tmp_path, capsys):
    """What cannot run keeps nothing, and a recipe can be mended until its first clip is there."""
    shutil.copytree(EXAMPLE.parent / "lines", tmp_path / "lines")
    path, output = tmp_path / "recipe.yaml", tmp_path / "dataset"
    path.write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    arguments = ["--recipe", str(path), "--output", str(output), "--partition", FIRST]
    for wrong in (["--checkpoint", "/absent"], ["--checkpoint", str(MINI), "--only", "typo"]):
        assert main([*arguments, *wrong]) == 2
        assert not output.exists()
    dataset, recipe = Dataset(str(output)), read_recipe(str(path))
    dataset.store(FIRST, recipe, sample(recipe, FIRST, {}))
    path.write_text(EXAMPLE.read_text(encoding="utf-8").replace("seed: 20", "seed: 21"), encoding="utf-8")
    assert main([*arguments, "--dry-run"]) == 0
    (output / "partitions" / FIRST / "clips").mkdir()
    (output / "partitions" / FIRST / "clips" / "a.json").touch()
    assert main([*arguments, "--dry-run"]) == 2
    assert "seed is 21, was 20" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    assert main(["--recipe", str(EXAMPLE), "--output", str(tmp_path), "--checkpoint", str(MINI)]) == 2
    assert "holds a README.md and is no dataset: name another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_dry_run_shows_prompts_weights_plan_and_cost_and_writes_nothing(tmp_path, capsys):
    output = tmp_path / "dataset"
    arguments = ["--recipe", str(EXAMPLE), "--output", str(output), "--partition", FIRST, "--dry-run"]
    assert main([*arguments, "--gpus", "8", "--price", "2.5"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"greetings-{FIRST}-000000  ")
    assert "30 clips, 44.0 s in all, of which 3 are shown" in printed
    assert "scene     studio           15.0     15" in printed
    assert f"{FIRST}: 30 rows, 30 clips, 8 x H100 of 80 GB" in printed
    assert "GPU-hours" in printed
    assert "cost" in printed
    assert not output.exists()


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--partition", "a/b"], "argument --partition: must be 1 to 40 letters, digits, underscores or hyphens"),
        (["--shard-mb", "5000"], "argument --shard-mb: must be at most 4000, got 5000"),
        (["--output", "", "--dry-run"], "error: output must be a path or a URL, got ''\n"),
        (["--only", ""], "argument --only: must name one at least, got ''"),
        (["--price", "abc"], "argument --price: must be a number from 0, got abc"),
        (["--dry-run", "--only", "x"], "error: --only x: no clip of partition all has this id\n"),
        ([], "error: --checkpoint is missing: the model to make clips with; only --dry-run can do without\n"),
        (["--checkpoint", "/absent", "--recipe", "absent.yaml"], "absent.yaml"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, capsys, more, error):
    try:
        status = main(["--recipe", str(EXAMPLE), "--output", str(tmp_path / "out"), *more])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert error in capsys.readouterr().err.splitlines(keepends=True)[-1]
    assert not (tmp_path / "out").exists()
