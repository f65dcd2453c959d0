import json
import shutil
import time
from pathlib import Path

import pytest
import s3fs
import torch
from safetensors.torch import load_file, save_file

from jobs.check_checkpoint import main
from model.capabilities import Capabilities
from model.checkpoint_writer import write_capabilities
from tests.checkpoint_layouts import LAYOUTS
from tests.sparse_checkpoint import write_full_size_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def copy(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def test_a_full_size_checkpoint_is_looked_through_in_seconds(tmp_path, capsys):
    write_full_size_checkpoint(tmp_path, json.loads((GOLDEN / "release_shapes.json").read_text()))
    started = time.monotonic()
    assert main([str(tmp_path)]) == 0
    assert time.monotonic() - started < 30
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    for variant in ("base", "sr_540p", "sr_1080p"):
        assert shown[variant].startswith("15.3 B bf16 15.3 B, fp32")
    assert shown["distill"].startswith("15.3 B fp32 15.3 B distill, 7 files")
    assert shown["text_encoder"].startswith("9.2 B bf16 9.2 B")
    assert shown["turbo_vae"].startswith("107.1 M fp32 107.1 M turbo_vae/checkpoint-340000.ckpt (1 of its tensors")
    assert "can make: base at 256p, 540p, 1080p; distill at 256p, 540p, 1080p" in lines
    assert "from: text, text + image, text + audio, text + image + audio" in lines


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_known(tiny_checkpoint, tmp_path, layout, capsys):
    LAYOUTS[layout](Path(tiny_checkpoint), tmp_path / layout)
    assert main([str(tmp_path / layout)]) == 0
    shown = capsys.readouterr().out
    assert "error" not in shown
    assert "distill at 256p" in shown


def test_a_bucket_is_looked_through(tiny_checkpoint, s3_bucket, capsys):
    s3fs.S3FileSystem().put(tiny_checkpoint, f"{s3_bucket}/checkpoints", recursive=True)
    assert main([f"{s3_bucket}/checkpoints"]) == 0
    assert "distill at 256p, 540p, 1080p" in capsys.readouterr().out


def test_what_is_absent_matters_where_it_is_needed(copy, capsys):
    shutil.rmtree(copy / "540p_sr")
    shutil.rmtree(copy / "Wan2.2-TI2V-5B")
    assert main([str(copy)]) == 1
    shown = capsys.readouterr().out
    assert "error: sr_540p: is absent, none of the folders 540p_sr, sr_540p/sr_transformer holds a file" in shown
    assert "can make: base at 256p, 1080p; distill at 256p, 1080p" in shown
    assert "from: text, text + audio\n" in shown
    assert main([str(copy), "--lane", "distill/1080p", "--lane", "base/256p"]) == 0
    assert main([str(copy), "--lane", "distill/540p"]) == 1


def delete_shard(folder):
    (folder / "base/model-00002-of-00002.safetensors").unlink()


def rename_tensor(folder):
    path = folder / "distill/model.safetensors"
    tensors = load_file(path)
    tensors["block.layers.2.mlp.down.weight"] = tensors.pop("block.layers.2.mlp.down_proj.weight")
    save_file(tensors, path)


def transpose_tensor(folder):
    path = folder / "540p_sr/model.safetensors"
    tensors = load_file(path)
    tensors["adapter.text_embedder.weight"] = tensors["adapter.text_embedder.weight"].T.contiguous()
    save_file(tensors, path)


def cut_file(folder):
    path = folder / "1080p_sr/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def hide_code(folder):
    class Trap:
        def __reduce__(self):
            return (open, (str(folder / "trapped"), "w"))

    torch.save({"ema_state_dict": Trap()}, folder / "turbo_vae/checkpoint-340000.ckpt")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            delete_shard,
            "base: shard base/model-00002-of-00002.safetensors is missing, base/model.safetensors.index.json names it",
        ),
        (
            rename_tensor,
            "distill: tensor block.layers.2.mlp.down_proj.weight is missing, expected shape [64, 168]",
        ),
        (
            transpose_tensor,
            "sr_540p: tensor adapter.text_embedder.weight has shape [48, 64], expected [64, 48]",
        ),
        (
            cut_file,
            "sr_1080p: 1080p_sr/model.safetensors is cut short or damaged: it has ",
        ),
        (
            hide_code,
            "turbo_vae: turbo_vae/checkpoint-340000.ckpt holds code (io.open) beside tensors and is not loaded",
        ),
    ],
)
def test_a_fault_is_told_in_one_line_and_nothing_else(copy, capsys, spoil, message):
    spoil(copy)
    assert main([str(copy)]) == 1
    printed = capsys.readouterr()
    errors = [line for line in printed.out.splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {message}")
    assert not printed.err
    assert not (copy / "trapped").exists()


def test_what_is_no_checkpoint_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"error: checkpoint {tmp_path}/nowhere: there is no such folder\n"
    assert main([str(tmp_path)]) == 1
    assert "this is no checkpoint, it holds neither model_index.json nor one of base, " in capsys.readouterr().err
    (tmp_path / "model_index.json").write_text(json.dumps([1]))
    assert main([str(tmp_path)]) == 1
    assert "model_index.json must hold a JSON object, got list" in capsys.readouterr().err


def test_a_store_out_of_reach_is_wrong_usage(s3_bucket, capsys):
    assert main([f"{s3_bucket}/nothing/here"]) == 2
    assert "cannot list" in capsys.readouterr().err


SMALL = {("256p", "16:9"): (96, 64), ("256p", "1:1"): (64, 64), ("540p", "16:9"): (192, 128)}


def test_what_the_config_says_is_told(copy, capsys):
    write_capabilities(copy, Capabilities(SMALL, 1.0, 2.0, 1.4, ("audio",)))
    for unneeded in ("1080p_sr", "base", "Wan2.2-TI2V-5B"):
        shutil.rmtree(copy / unneeded)
    assert main([str(copy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5:] == [
        "can make: distill at 256p, 540p",
        "from: text, text + audio",
        "256p: 96x64 (16:9), 64x64 (1:1)",
        "540p: 192x128 (16:9)",
        "seconds: 1 to 2, 1.4 where a row does not say",
    ]
    assert not [line for line in lines if "error" in line or "absent" in line]


def test_a_component_that_the_config_counts_on_is_missed(copy, capsys):
    write_capabilities(copy, Capabilities(SMALL))
    shutil.rmtree(copy / "540p_sr")
    assert main([str(copy)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "error: sr_540p: is absent, none of the folders 540p_sr, sr_540p/sr_transformer holds a file" in lines
    assert "can make: base at 256p; distill at 256p" in lines
    for mode in ("base", "distill"):
        shutil.rmtree(copy / mode)
    assert main([str(copy)]) == 1
    printed = capsys.readouterr().out
    assert "error: base: is absent" in printed
    assert "error: distill: is absent" in printed


def test_a_lane_that_the_config_has_no_size_for_cannot_be_made(copy, capsys):
    write_capabilities(copy, Capabilities(SMALL))
    assert main([str(copy), "--lane", "distill/540p"]) == 0
    assert "error" not in capsys.readouterr().out
    assert main([str(copy), "--lane", "distill/1080p"]) == 1
    assert "error: distill/1080p: config.json names no size for this resolution\n" in capsys.readouterr().out


def test_a_fault_of_the_config_is_the_only_one_told(copy, capsys):
    (copy / "config.json").write_text('{"max_seconds": 0}')
    shutil.rmtree(copy / "1080p_sr")
    for lane in ([], ["--lane", "distill/256p"]):
        assert main([str(copy), *lane]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if "error" in line] == [
            "error: config.json: max_seconds must be a number between 0.2 and 60, got 0"
        ]
        assert lines[-1] == "can make: nothing"
