"""Checkpoints as they go wrong in the wild: each fault is one line that starts with the component."""

import json
import os
import shutil

import pytest
import torch
import zstandard
from safetensors.torch import load_file, save_file

from model.checkpoint import Checkpoint
from model.checkpoint_files import CheckpointError, LocalFiles
from model.inspection import inspect
from model.layout import find_layout
from model.tensor_files import as_it_is, read_safetensors, safetensors_headers

CPU = torch.device("cpu")
DISTILL = "distill/model.safetensors"
TURBO = "turbo_vae/checkpoint-340000.ckpt"
TURBO_CONFIG = "turbo_vae/TurboV3-Wan22-TinyShallow_7_7.json"
WAN = "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
AUDIO_CONFIG = "stable-audio-open-1.0/model_config.json"
TEXT_CONFIG = "t5gemma-9b-9b-ul2/config.json"
TOKENIZER = "t5gemma-9b-9b-ul2/tokenizer.json"
GIT_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"


def the_only_problem(folder) -> tuple[str, str]:
    problems = inspect(LocalFiles(folder)).problems
    assert len(problems) == 1
    ((component, message),) = problems.items()
    assert message.isprintable()
    assert message.startswith(f"{component}: ")
    return component, message.removeprefix(f"{component}: ")


def split(path):
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def write_header(path, text: bytes):
    _, contents = split(path)
    path.write_bytes(len(text).to_bytes(8, "little") + text + contents)


def change_entry(path, **values):
    header, _ = split(path)
    header["final_norm_video.weight"] |= values
    write_header(path, json.dumps(header).encode())


def name_twice(path):
    header, _ = split(path)
    text = json.dumps(header)
    entry = json.dumps(header["final_norm_video.weight"])
    write_header(path, f'{text[:-1]}, "final_norm_video.weight": {entry}}}'.encode())


def overlap(path):
    """Both norms in the same bytes: a file that has the right size, and one tensor less than it says."""
    header, _ = split(path)
    header["final_norm_video.weight"]["data_offsets"] = header["final_norm_audio.weight"]["data_offsets"]
    write_header(path, json.dumps(header).encode())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: write_header(path, b"[1]"), "its header must be a JSON object, got list"),
        (lambda path: write_header(path, b"[" * 100_000), "its header is nested too deeply"),
        (lambda path: write_header(path, b'{"a": null}'), "tensor a must have dtype, shape and two data_offsets, got"),
        (lambda path: write_header(path, b'{"__metadata__": "x"}'), "__metadata__ of its header must be an object"),
        (lambda path: change_entry(path, shape=[64.0]), "tensor final_norm_video.weight must have dtype, shape and"),
        (lambda path: change_entry(path, data_offsets=[-256, 0]), "tensor final_norm_video.weight must have dtype"),
        (lambda path: change_entry(path, dtype=["F32"]), "tensor final_norm_video.weight must have dtype, shape and"),
        (lambda path: change_entry(path, dtype="float32"), "dtype float32 of tensor final_norm_video.weight is not kn"),
        (lambda path: change_entry(path, shape=[63]), "tensor final_norm_video.weight of dtype F32 and shape [63] can"),
        (name_twice, "its header names final_norm_video.weight twice"),
        (overlap, "starts at byte"),
        (lambda path: path.write_bytes(GIT_LFS), "`git lfs pull` fetches that"),
    ],
)
def test_a_header_that_the_format_does_not_allow_is_told_before_loading(copy, spoil, message):
    spoil(copy / DISTILL)
    component, found = the_only_problem(copy)
    assert component == "distill"
    assert found.startswith(f"{DISTILL} is damaged: ")
    assert message in found


def edit(name, change):
    def apply(folder):
        values = json.loads((folder / name).read_text())
        change(values)
        (folder / name).write_text(json.dumps(values))

    return apply


def edit_torch(name, change):
    def apply(folder):
        values = torch.load(folder / name, weights_only=True)
        torch.save(change(values), folder / name)

    return apply


def audio(config):
    return config["model"]["pretransform"]["config"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit(TURBO_CONFIG, lambda c: c.update(first_chunk_size="7")), "first_chunk_size must be a whole number >= 0"),
        (
            edit(TURBO_CONFIG, lambda c: c.update(decoder_block_out_channels=3)),
            "decoder_block_out_channels must be a l",
        ),
        (edit(TURBO_CONFIG, lambda c: c.update(decoder_layers_per_block=[-1] * 5)), "each entry a whole number >= 0"),
        (edit(TURBO_CONFIG, lambda c: c.update(decoder_is_dw_conv=1)), "decoder_is_dw_conv must be false everywhere"),
        (edit(TURBO_CONFIG, lambda c: c.update(out_channels=4)), "out_channels must be 3, as the pipeline's latents"),
        (edit(AUDIO_CONFIG, lambda c: c.update(model=None)), "model must be an object, got None"),
        (edit(AUDIO_CONFIG, lambda c: audio(c).update(encoder=[])), "encoder must be an object, got []"),
        (
            edit(AUDIO_CONFIG, lambda c: audio(c)["encoder"]["config"].update(c_mults=3)),
            "multiples must be a list, each",
        ),
        (
            edit(AUDIO_CONFIG, lambda c: audio(c)["encoder"]["config"].update(channels="4")),
            "channels must be a whole number >= 0, got '4'",
        ),
        (edit(TEXT_CONFIG, lambda c: c["encoder"].update(hidden_size=-48)), "the text encoder's config is not a T5Gem"),
        (edit(TEXT_CONFIG, lambda c: c["encoder"].update(hidden_activation="?")), "the text encoder's config is not a"),
        (lambda folder: (folder / TOKENIZER).write_bytes(GIT_LFS), f"{TOKENIZER} is not JSON: it is Git's pointer"),
        (lambda folder: (folder / TEXT_CONFIG).write_text("[" * 100_000), f"{TEXT_CONFIG} is not JSON: maximum recur"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_told_with_field_and_value(copy, spoil, message):
    spoil(copy)
    assert message in the_only_problem(copy)[1]


def twice(checkpoint):
    weights = checkpoint["ema_state_dict"]
    return {"ema_state_dict": weights | {f"module.{name}": tensor for name, tensor in weights.items()}}


def with_sparse(checkpoint):
    weights = checkpoint["ema_state_dict"]
    return {"ema_state_dict": {name: tensor.to_sparse() for name, tensor in weights.items()}}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit_torch(TURBO, lambda _: 3), f"{TURBO} must hold ema_state_dict, found int"),
        (edit_torch(TURBO, lambda _: torch.zeros(1)), f"{TURBO} must hold ema_state_dict, found Tensor"),
        (edit_torch(TURBO, lambda _: {"ema_state_dict": [1]}), f"{TURBO}: it must hold tensors by name, got list"),
        (edit_torch(TURBO, twice), "and module.decoder.conv_in.conv.bias are the same tensor of the decoder"),
        (edit_torch(TURBO, with_sparse), "is a sparse or quantised one, expected a plain one"),
        (lambda folder: (folder / TURBO).write_bytes(GIT_LFS), f"{TURBO} is damaged: it is Git's pointer"),
        (edit_torch(WAN, lambda held: {"state_dict": held}), f"{WAN} must hold tensors by name, found state_dict"),
        (
            edit_torch(WAN, lambda held: {f"model.{name}": tensor for name, tensor in held.items()}),
            "neither encoder.conv1.weight nor encoder.conv_in.weight, found model.conv1.bias, model.conv1.weight, ",
        ),
        (
            edit_torch(WAN, lambda held: held | {"decoder.head.2.weight": torch.zeros(4)}),
            "tensor decoder.head.2.weight has shape [4], expected [12, 4, 3, 3, 3]",
        ),
    ],
)
def test_a_pytorch_file_of_another_build_is_told_with_what_it_holds(copy, spoil, message):
    spoil(copy)
    assert message in the_only_problem(copy)[1]


def rewrite(folder, change):
    save_file(change(load_file(folder / DISTILL)), folder / DISTILL)


def of_other_latents(tensors):
    for modality, width in (("video", 96), ("audio", 32)):
        tensors[f"adapter.{modality}_embedder.weight"] = torch.zeros(64, width)
        tensors[f"final_linear_{modality}.weight"] = torch.zeros(width, 64)
    return tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ts: {f"model.{n}": t for n, t in ts.items()},
            "is missing: this is no daVinci-MagiHuman Transformer, f",
        ),
        (
            lambda ts: {n: t.to(torch.int8) for n, t in ts.items()},
            "has dtype torch.int8, expected a floating-point one",
        ),
        (lambda ts: ts | {"a\nb\x1b[31m": torch.zeros(1)}, r"tensor a\nb\x1b[31m of shape [1] is not expected"),
        (lambda ts: ts | {"block.layers.999999999.x": torch.zeros(1)}, "layer 999999999 cannot be, there are "),
        (of_other_latents, "numbers per video token must be 192, as the pipeline's latents have it, got 96"),
    ],
)
def test_a_transformer_that_is_another_is_told(copy, change, message):
    rewrite(copy, change)
    (copy / "distill/config.json").write_text("{}")
    assert message in the_only_problem(copy)[1]


def test_a_wan_vae_of_other_latents_is_told(copy):
    from model.wan_config import WanVaeConfig
    from model.wan_vae import empty_wan_vae

    config = dict(empty_wan_vae(WanVaeConfig(4, 4, 16, latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16)).config)
    shutil.rmtree(copy / "Wan2.2-TI2V-5B")
    (copy / "vae").mkdir()
    (copy / "vae/config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, copy / "vae/diffusion_pytorch_model.safetensors")
    assert "latent channels of the Wan 2.2 VAE must be 48, got 16" in the_only_problem(copy)[1]


def test_a_shard_outside_the_folder_is_not_read(copy):
    path = copy / "base/model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"weight_map": dict.fromkeys(index["weight_map"], "../../outside.safetensors")}))
    save_file({"x": torch.zeros(1)}, copy.parent / "outside.safetensors")
    assert "names the shard base/../../outside.safetensors, which leaves the folder" in the_only_problem(copy)[1]


def test_weights_under_another_name_are_shown(copy):
    (copy / DISTILL).rename(copy / "distill/model.fp16.safetensors")
    expected = "distill must hold model.safetensors, diffusion_pytorch_model.safetensors or the index of its shards"
    assert the_only_problem(copy) == ("distill", f"{expected}, found model.fp16.safetensors")


def test_one_folder_says_which_model_it_took_where_the_other_is_asked_for(copy):
    shutil.rmtree(copy / "base")
    (copy / "distill").rename(copy / "transformer")
    (copy / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"distill: is absent, .*; transformer is taken as base: nothing says"):
        Checkpoint(copy).transformer("distill", torch.bfloat16, CPU)
    (copy / "model_index.json").write_text('{"cfg_number": "1"}')
    with pytest.raises(CheckpointError, match=r"cfg_number in model_index\.json must be a whole number, got '1'"):
        find_layout(LocalFiles(copy))


def test_links_that_lead_back_are_followed_once(copy):
    (copy / "again").symlink_to(".")
    (copy / "base/up").symlink_to("..")
    (copy / "distill/aside").symlink_to("../base")
    sizes = LocalFiles(copy).sizes
    assert len(sizes) < 100
    assert "distill/aside/model.safetensors.index.json" in sizes


def test_what_may_not_be_read_or_is_gone_meanwhile_is_named(copy):
    files = LocalFiles(copy)
    layout, headers = find_layout(files), safetensors_headers(files, [DISTILL])
    (copy / DISTILL).unlink()
    with pytest.raises(CheckpointError, match=rf"^{DISTILL} cannot be read: No such file or directory"):
        read_safetensors(files, headers, {"final_norm_video.weight": torch.float32}, CPU, as_it_is)
    with pytest.raises(CheckpointError, match=rf"^distill: {DISTILL} cannot be read: No such file"):
        Checkpoint(copy, layout).transformer("distill", torch.bfloat16, CPU)
    if os.geteuid() != 0:
        (copy / WAN).chmod(0)
        with pytest.raises(CheckpointError, match=rf"^wan_vae: {WAN} cannot be read: Permission denied"):
            Checkpoint(copy).image_encoder(torch.float32, CPU)


def test_a_file_replaced_meanwhile_is_not_taken_for_the_first(copy):
    files = LocalFiles(copy)
    headers = safetensors_headers(files, [DISTILL])
    rewrite(copy, lambda ts: {n: t.T.contiguous() for n, t in ts.items() if t.ndim == 2 and t.shape[0] != t.shape[1]})
    name = "adapter.video_embedder.weight"
    with pytest.raises(CheckpointError, match=f"{DISTILL} was replaced while it was read: tensor {name} changed"):
        read_safetensors(files, headers, {name: torch.float32}, CPU, as_it_is)


def test_a_shard_packed_in_several_frames_is_read(copy):
    path = copy / DISTILL
    data, half = path.read_bytes(), path.stat().st_size // 2
    expected = load_file(path)
    path.with_name("model.safetensors.zst").write_bytes(
        zstandard.compress(data[:half]) + zstandard.compress(data[half:])
    )
    path.unlink()
    state = Checkpoint(copy).transformer("distill", torch.bfloat16, CPU).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
