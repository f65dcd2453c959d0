"""Every comparison with the recordings, that each of them is there, and that each can fail."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs import parity
from model.attention import SdpaAttention
from model.parity.report import GoldenSet, Group, Pair, compare, relative_error
from model.parity.sampling import RecordedRun
from model.parity.suite import COMPARISONS, run_all
from model.parity.transformer import recorded_transformer
from tests.model.conftest import GOLDEN

CPU = torch.device("cpu")

EXACT_GROUPS = {
    *(f"release.{name}" for name in ("transformer", "turbo_vae")),
    *(f"schedule.{name}" for name in ("flow.4", "flow.5", "flow.8", "flow.32")),
    *(f"transformer.base.{name}" for name in ("tokens", "modality", "coordinates", "window_ranges")),
    *(f"transformer.sr.{name}" for name in ("tokens", "modality", "coordinates", "window_ranges")),
    *(f"sampling.{name}.audio" for name in ("base_cfg8_audio_driven", "sr5", "sr5_cfg")),
    "wan_vae.statistics",
}
"""Groups that are the original's to the bit."""

ROUNDED_GROUPS = {"schedule.zerosnr"}
"""Groups that are the original's to the last bit of float32.

Their only inexact step is a square root. Intel MKL's, which PyTorch calls, does not round correctly, and other
processors have another last bit: the original's own table differs between machines.
"""

OUTPUTS = {f"transformer.{style}.{name}" for style in ("base", "sr") for name in ("out_video", "out_audio")}
GENERATED = {
    *(f"sampling.{run}.video" for run in ("base_cfg8", "base_cfg8_image", "base_cfg8_audio_driven")),
    *(f"sampling.{run}.video" for run in ("distilled8", "distilled8_image", "sr5", "sr5_cfg")),
    *(f"sampling.{run}.audio" for run in ("base_cfg8", "base_cfg8_image", "distilled8", "distilled8_image")),
}
TURBO = {f"turbo_vae.T{length}" for length in (1, 3, 4, 5, 9)}
ALL_GROUPS = {
    *EXACT_GROUPS,
    *ROUNDED_GROUPS,
    *OUTPUTS,
    *GENERATED,
    *TURBO,
    *("transformer.base.rotary", "transformer.sr.rotary"),
    *("wan_vae.encode.T1", "wan_vae.encode.T5", "wan_vae.decode.T1", "wan_vae.decode.T5"),
    *("audio_vae.decode_51200hz", "audio_vae.decode_44100hz", "audio_vae.encode"),
}


def files_of(*names: str) -> list[str]:
    bf16 = {"transformer": ["dit_forward_bf16.safetensors"], "sampling": ["sampling_bf16.safetensors"]}
    return [
        file
        for comparison in COMPARISONS
        if comparison.name in names
        for file in [*comparison.files, *bf16.get(comparison.name, [])]
    ]


def copy_golden(folder: Path, *comparisons: str) -> Path:
    for name in files_of(*comparisons):
        shutil.copyfile(GOLDEN / name, folder / name)
    return folder


def change(folder: Path, file: str, key: str, how) -> None:
    tensors = load_file(folder / file)
    tensors[key] = how(tensors[key]).contiguous()
    save_file(tensors, folder / file)


def perturb(tensor: torch.Tensor, relative: float = 4e-3) -> torch.Tensor:
    if not tensor.dtype.is_floating_point:
        return tensor.clone().index_add_(0, torch.tensor([0]), torch.ones_like(tensor[:1]))
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return (tensor.float() * (1 + relative * noise)).to(tensor.dtype)


def failed_groups(folder: Path, precision: str = "fp32") -> set[str]:
    results = list(run_all(folder, CPU, precision))
    assert results
    return {result.name for result in results if not result.passed}


def test_every_group_in_fp32_equals_the_recordings():
    results = {result.name: result for result in run_all(GOLDEN, CPU, "fp32")}
    assert results.keys() == ALL_GROUPS
    assert [str(result) for result in results.values() if not result.passed] == []
    assert {name: results[name].error for name in EXACT_GROUPS if results[name].error} == {}
    last_bit = 2.0**-23
    assert {name: results[name].error for name in ROUNDED_GROUPS if results[name].error > last_bit} == {}
    assert all(result.limit <= 1e-4 and result.num_tensors for result in results.values())


def test_every_group_in_bf16_is_as_near_as_the_recordings():
    results = {result.name: result for result in run_all(GOLDEN, CPU, "bf16")}
    assert results.keys() == ALL_GROUPS
    assert [str(result) for result in results.values() if not result.passed] == []
    # A limit above 1e-4 is for what the original itself computes, and was recorded, in bfloat16.
    sampled = {name for name in ALL_GROUPS if name.startswith("sampling.")}
    assert {result.name for result in results.values() if result.limit > 1e-4} == OUTPUTS | sampled
    assert all(results[name].error > 1e-3 for name in OUTPUTS), "computed in bfloat16"
    assert {name for name, result in results.items() if "bf16 run" in result.note} == {
        *TURBO,
        *(name for name in ALL_GROUPS if name.startswith(("wan_vae.encode.", "wan_vae.decode."))),
    }


@pytest.mark.slow
def test_8_bit_floats_are_as_near_as_their_mantissa_lets_them_be():
    """Linear layers of random networks: what trained ones lose is in docs/performance.md."""
    for folder in (GOLDEN, GOLDEN.with_name("golden_other")):
        results = {result.name: result for result in run_all(folder, CPU, "fp8")}
        assert [str(result) for result in results.values() if not result.passed] == []
        errors = {name: results[name].error for name in (*OUTPUTS, *GENERATED)}
        assert all(0.05 < errors[name] < 0.14 for name in OUTPUTS), errors
        # Guidance takes a difference of two passes five times, and so their errors.
        assert all(0.05 < errors[name] < (0.5 if "cfg" in name else 0.25) for name in GENERATED), errors


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_recordings_of_other_sizes_are_equalled_too(precision):
    """Another depth, width, head size, experts, windows, clips, strides and chunks: see tests/record_golden.py."""
    results = {result.name: result for result in run_all(GOLDEN.with_name("golden_other"), CPU, precision)}
    assert [str(result) for result in results.values() if not result.passed] == []
    lengths = {"turbo_vae": (1, 2, 6, 8, 15), "wan_vae.encode": (1, 5, 9), "wan_vae.decode": (1, 5, 9)}
    same = {name for name in ALL_GROUPS if not name.startswith(("release.", *(f"{stem}.T" for stem in lengths)))}
    assert results.keys() == same | {f"{stem}.T{n}" for stem, numbers in lengths.items() for n in numbers}
    assert results["transformer.sr.out_video"].num_tensors == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("comparison", "file", "key", "expected"),
    [
        ("schedule", "schedules", "flow.8.sigmas", {"schedule.flow.8"}),
        ("schedule", "schedules", "flow.32.timesteps", {"schedule.flow.32"}),
        ("schedule", "schedules", "zerosnr.sigmas", {"schedule.zerosnr"}),
        ("transformer", "dit_forward_fp32", "1.base.tokens", {"transformer.base.tokens"}),
        ("transformer", "dit_forward_fp32", "0.sr.modality", {"transformer.sr.modality"}),
        ("transformer", "dit_forward_fp32", "2.base.coords", {"transformer.base.coordinates"}),
        ("transformer", "dit_forward_fp32", "1.sr.rope", {"transformer.sr.rotary"}),
        ("transformer", "dit_forward_fp32", "0.base.q_ranges", {"transformer.base.window_ranges"}),
        ("transformer", "dit_forward_fp32", "2.sr.k_ranges", {"transformer.sr.window_ranges"}),
        ("transformer", "dit_forward_fp32", "1.sr.out_video", {"transformer.sr.out_video"}),
        ("transformer", "dit_forward_fp32", "1.base.out_audio", {"transformer.base.out_audio"}),
        (
            "transformer",
            "dit_forward_fp32",
            "2.audio",
            OUTPUTS | {"transformer.base.tokens", "transformer.sr.tokens"},
        ),
        ("transformer", "dit_weights", "block.layers.2.attention.q_norm.weight", OUTPUTS),
        (
            "transformer",
            "dit_weights",
            "adapter.rope.bands",
            OUTPUTS | {f"transformer.{s}.rotary" for s in ("base", "sr")},
        ),
        ("sampling", "dit_weights", "block.layers.2.attention.linear_qkv.weight", GENERATED),
        ("sampling", "sampling_fp32", "base_cfg8.audio", {"sampling.base_cfg8.audio"}),
        ("sampling", "sampling_fp32", "sr5_cfg.video", {"sampling.sr5_cfg.video"}),
        (
            "sampling",
            "sampling_fp32",
            "distilled8.noise.03",
            {"sampling.distilled8.video", "sampling.distilled8.audio"},
        ),
        ("turbo_vae", "turbo_vae_io", "T4.frames", {"turbo_vae.T4"}),
        ("turbo_vae", "turbo_vae_weights", "decoder.mid_block.resnets.0.conv1.conv.weight", TURBO),
        ("wan_vae", "wan22_vae_io", "std", {"wan_vae.statistics"}),
        ("wan_vae", "wan22_vae_io", "T5.pixels", {"wan_vae.encode.T5"}),
        ("wan_vae", "wan22_vae_io", "T1.decoded", {"wan_vae.decode.T1"}),
        ("wan_vae", "wan22_vae_weights", "conv1.weight", {"wan_vae.encode.T1", "wan_vae.encode.T5"}),
        ("wan_vae", "wan22_vae_weights", "conv2.weight", {"wan_vae.decode.T1", "wan_vae.decode.T5"}),
        ("audio_vae", "oobleck_io", "waveform_44100hz", {"audio_vae.decode_44100hz"}),
        ("audio_vae", "oobleck_io", "enc_input", {"audio_vae.encode"}),
        (
            "audio_vae",
            "oobleck_weights",
            "decoder.layers.0.weight_v",
            {"audio_vae.decode_51200hz", "audio_vae.decode_44100hz"},
        ),
    ],
)
def test_a_change_of_a_few_thousandths_fails_what_depends_on_it(tmp_path, comparison, file, key, expected):
    change(copy_golden(tmp_path, comparison), f"{file}.safetensors", key, perturb)
    assert failed_groups(tmp_path) == expected


def test_a_network_that_is_five_percent_off_fails_in_bf16(tmp_path):
    copy_golden(tmp_path, "transformer", "sampling")
    change(tmp_path, "dit_weights.safetensors", "final_linear_audio.weight", lambda weight: weight * 1.05)
    failed = failed_groups(tmp_path, "bf16")
    assert failed >= {"transformer.base.out_audio", "transformer.sr.out_audio", "sampling.distilled8.audio"}
    assert not failed & {"transformer.base.out_video", "transformer.sr.out_video", "sampling.sr5.video"}


def test_a_wider_window_fails_super_resolution_alone(tmp_path):
    copy_golden(tmp_path, "transformer", "sampling")
    config = json.loads((tmp_path / "dit_config.json").read_text())
    (tmp_path / "dit_config.json").write_text(json.dumps(config | {"frame_receptive_field_sr": 3}))
    outputs = {"transformer.sr.out_video", "transformer.sr.out_audio", "sampling.sr5.video", "sampling.sr5_cfg.video"}
    assert failed_groups(tmp_path) == {"transformer.sr.window_ranges", *outputs}


def test_the_image_is_known_by_the_first_frame(tmp_path):
    """`sr5` does not say that it has the image; another image is another run."""
    copy_golden(tmp_path, "sampling")
    change(tmp_path, "sampling_fp32.safetensors", "image", perturb)
    assert failed_groups(tmp_path) == {
        *("sampling.base_cfg8_image.video", "sampling.base_cfg8_image.audio"),
        *("sampling.distilled8_image.video", "sampling.distilled8_image.audio"),
        "sampling.sr5.video",
    }


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_number_that_is_none_fails_its_group(tmp_path, precision, value):
    copy_golden(tmp_path, "turbo_vae", "sampling")

    def spoil(tensor):
        tensor.view(-1)[5] = value
        return tensor

    change(tmp_path, "turbo_vae_io.safetensors", "T3.frames", spoil)
    change(tmp_path, "sampling_fp32.safetensors", "sr5.video", spoil)
    assert failed_groups(tmp_path, precision) >= {"turbo_vae.T3", "sampling.sr5.video"}


def test_a_bf16_run_of_nan_fails_though_fp32_is_right():
    right = torch.ones(3)
    result = compare(Group("g", lambda: [Pair(right, right, unjudged_bf16=right * torch.nan)]))
    assert not result.passed
    assert compare(Group("g", lambda: [Pair(right, right, unjudged_bf16=2 * right)])).passed


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda t: t | {"T4.frames": t["T4.frames"][:, :, :12].contiguous()},
            "instead of the recorded (1, 3, 12, 16, 32)",
        ),
        (lambda t: {name: tensor for name, tensor in t.items() if name != "T4.frames"}, "KeyError: 'T4.frames'"),
        (lambda t: t | {"T4.latent": t["T4.latent"][:, :16].contiguous()}, "latent must be (1, 48, T, H, W), got"),
    ],
)
def test_what_cannot_be_compared_fails_in_one_line_and_the_rest_goes_on(tmp_path, capsys, spoil, reason):
    copy_golden(tmp_path, "turbo_vae")
    path = tmp_path / "turbo_vae_io.safetensors"
    save_file(spoil(load_file(path)), path)
    assert parity.main(["--golden", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines[:5]] == ["PASS", "PASS", "FAIL", "PASS", "PASS"]
    assert "turbo_vae.T4 " in lines[2]
    assert reason in lines[2]
    assert lines[5].startswith("4 passed, 1 failed; not compared, files not in DIR: release (release_shapes.json); ")


def test_a_spatial_ratio_that_the_original_passes_over_is_passed_over(tmp_path):
    copy_golden(tmp_path, "turbo_vae")
    path = tmp_path / "turbo_vae_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spatial_compression_ratio": 99}))
    assert failed_groups(tmp_path) == set()


def test_unreadable_and_unknown_recordings_fail_by_name(tmp_path, capsys):
    copy_golden(tmp_path, "schedule", "transformer", "sampling", "turbo_vae", "release")
    (tmp_path / "schedules.safetensors").write_bytes(b"not a safetensors file")
    config = json.loads((tmp_path / "turbo_vae_config.json").read_text())
    (tmp_path / "turbo_vae_config.json").write_text(json.dumps(config | {"decoder_causal": True}))
    recorded = load_file(tmp_path / "sampling_fp32.safetensors")
    save_file({"magic8.video": recorded["video"].clone(), **recorded}, tmp_path / "sampling_fp32.safetensors")
    shapes = json.loads((tmp_path / "release_shapes.json").read_text())
    shapes["dit"]["final_norm_video.weight"][0] = [5121]
    (tmp_path / "release_shapes.json").write_text(json.dumps(shapes))
    change(tmp_path, "dit_forward_fp32.safetensors", "2.sr.rope", lambda rope: rope[:, :6])
    assert parity.main(["--golden", str(tmp_path)]) == 1
    failed = dict(line.split(maxsplit=2)[1:] for line in capsys.readouterr().out.splitlines() if line[:4] == "FAIL")
    assert failed.keys() == {
        *("schedule", "release.transformer", "transformer.sr.rotary"),
        *("sampling.magic8.video", "sampling.magic8.audio"),
        *TURBO,
    }
    assert "final_norm_video.weight has shape [5120] instead of the recorded [5121]" in failed["release.transformer"]
    assert "run must be base_cfg<n>, distilled<n> or sr<n>" in failed["sampling.magic8.video"]
    assert "decoder_causal must be False" in failed["turbo_vae.T1"]


def test_unused_noise_fails(tmp_path):
    copy_golden(tmp_path, "sampling")
    recorded = load_file(tmp_path / "sampling_fp32.safetensors")
    more = {"distilled8.noise.16": recorded["distilled8.noise.00"].clone()}
    save_file(recorded | more, tmp_path / "sampling_fp32.safetensors")
    assert failed_groups(tmp_path) == {"sampling.distilled8.video", "sampling.distilled8.audio"}


@pytest.mark.slow
def test_without_a_bf16_recording_float32_is_judged_and_bf16_told(tmp_path):
    copy_golden(tmp_path, "transformer", "sampling")
    (tmp_path / "sampling_bf16.safetensors").unlink()
    # Where a single tensor lacks its bf16 run, the rest of its group is still judged by theirs.
    bf16 = load_file(tmp_path / "dit_forward_bf16.safetensors")
    save_file({key: bf16[key] for key in bf16 if key != "1.sr.out_video"}, tmp_path / "dit_forward_bf16.safetensors")
    results = {result.name: result for result in run_all(tmp_path, CPU, "bf16")}
    assert [str(result) for result in results.values() if not result.passed] == []
    sampled = {name for name in results if name.startswith("sampling.")}
    assert {results[name].limit for name in sampled} == {1e-4}
    assert {name for name, result in results.items() if "bf16 run" in result.note} == {
        *sampled,
        "transformer.sr.out_video",
    }
    change(tmp_path, "dit_forward_fp32.safetensors", "1.sr.out_video", perturb)
    assert failed_groups(tmp_path, "bf16") == {"transformer.sr.out_video"}
    # 0 to the network's last layer: the same in float32 and in bfloat16, far beyond any limit.
    change(tmp_path, "dit_weights.safetensors", "final_linear_video.weight", torch.zeros_like)
    assert failed_groups(tmp_path, "bf16") >= {"transformer.sr.out_video", "sampling.base_cfg8.video"}


def test_the_attention_compared_is_the_one_a_job_chooses(monkeypatch):
    chosen = {CPU: SdpaAttention("math")}
    monkeypatch.setattr("model.parity.transformer.choose_attention", lambda device, dtype: chosen[device])
    model = recorded_transformer(GoldenSet(GOLDEN, CPU, "fp32"), "sr", torch.float32)
    assert {layer.attention.backend for layer in model.block.layers} == set(chosen.values())


@pytest.mark.slow
def test_module_prints_a_line_per_group_and_needs_no_engine():
    program = (
        "import sys, torch; torch.set_num_threads(1); from jobs.parity import main; status = main(sys.argv[1:]); "
        "found = {'ray', 'pydantic', 'av', 'pyarrow'} & set(sys.modules); "
        "print('engine:', sorted(found)); sys.exit(status)"
    )
    command = [sys.executable, "-c", program, "--golden", str(GOLDEN)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=GOLDEN.parent.parent)
    *lines, summary, engine = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in lines} == ALL_GROUPS
    assert all(line.startswith("PASS  ") for line in lines)
    assert summary == f"{len(ALL_GROUPS)} passed, 0 failed"
    assert engine == "engine: []"


@pytest.mark.parametrize("prepare", ["absent", "empty", "incomplete"])
def test_a_folder_without_recordings_is_wrong_usage(tmp_path, capsys, prepare):
    folder = tmp_path / "golden"
    if prepare != "absent":
        folder.mkdir()
    if prepare == "incomplete":
        shutil.copyfile(GOLDEN / "dit_config.json", folder / "dit_config.json")
    assert parity.main(["--golden", str(folder)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert output.err.startswith("error: --golden must ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_wrong_usage(capsys):
    assert parity.main(["--golden", str(GOLDEN), "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "error: --device cuda needs a GPU that PyTorch can use, there is none\n"


@pytest.mark.parametrize(
    ("name", "sampler", "num_steps", "options"),
    [
        ("base_cfg32_image_audio_driven", "base_cfg", 32, {"image", "audio_driven"}),
        ("distilled4", "distilled", 4, set()),
        ("sr7_cfg_image", "sr", 7, {"cfg", "image"}),
    ],
)
def test_run_names_are_read(name, sampler, num_steps, options):
    run = RecordedRun.parse(name)
    assert (run.sampler, run.num_steps, run.options) == (sampler, num_steps, options)


def test_relative_error_of_nothing():
    zero = torch.zeros(3)
    assert relative_error(zero, zero) == 0
    assert relative_error(zero + 1e-9, zero) == float("inf")
    with pytest.raises(ValueError, match=r"shape \(3,\) instead of the recorded \(1, 3\)"):
        relative_error(zero, zero[None])
