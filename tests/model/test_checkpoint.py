import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.checkpoint import Checkpoint
from model.checkpoint_files import CheckpointError
from model.variants import VARIANTS
from tests.checkpoint_layouts import write_wan_as_diffusers
from tests.tiny_checkpoint import tiny_config, write_tiny_checkpoint

CPU = torch.device("cpu")


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_writes_the_same_files_and_another_one_others(folder, tmp_path):
    write_tiny_checkpoint(tmp_path / "again", seed=0)
    write_tiny_checkpoint(tmp_path / "other", seed=1)
    first, again, other = files_of(folder), files_of(tmp_path / "again"), files_of(tmp_path / "other")
    assert first == again
    assert first.keys() == other.keys()
    weights = [name for name in first if name.endswith((".safetensors", ".ckpt", ".pth"))]
    assert len(weights) == 9
    assert all(first[name] != other[name] for name in weights)


def test_the_layout_is_the_releases(folder):
    names = set(files_of(folder))
    autoencoders = {"turbo_vae", "Wan2.2-TI2V-5B", "stable-audio-open-1.0"}
    transformers = {"base", "distill", "540p_sr", "1080p_sr"}
    assert {name.split("/")[0] for name in names} == {*transformers, *autoencoders, "t5gemma-9b-9b-ul2"}
    assert "base/model.safetensors.index.json" in names
    assert "distill/model.safetensors" in names
    assert "turbo_vae/TurboV3-Wan22-TinyShallow_7_7.json" in names
    assert "turbo_vae/checkpoint-340000.ckpt" in names
    assert "Wan2.2-TI2V-5B/Wan2.2_VAE.pth" in names
    assert "stable-audio-open-1.0/model_config.json" in names


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_load_by_their_tensors_alone(folder, variant):
    model = Checkpoint(folder).transformer(variant, torch.bfloat16, CPU)
    expected = tiny_config(variant)
    assert model.config.local_attention_layers == expected.local_attention_layers
    assert model.config.hidden_size == expected.hidden_size
    assert model.config.local_attention_radius == (2 if variant == "sr_1080p" else 11)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in model.parameters())
    assert model.block.layers[0].mlp.down_proj.weight.dtype == torch.bfloat16


def test_every_other_component_loads(folder):
    checkpoint = Checkpoint(folder)
    (features,) = checkpoint.text_encoder(torch.bfloat16, CPU).encode(["Grüße, 你好!"])
    assert features.features_1LC.shape == (1, features.num_tokens, tiny_config("base").text_channels)
    assert features.num_tokens == 1 + len("Grüße, 你好!".encode()), "one token per byte and one for the beginning"
    assert features.features_1LC.dtype == torch.float16
    assert checkpoint.turbo_vae(torch.bfloat16, CPU).decoder.conv_in.conv.weight.dtype == torch.bfloat16
    checkpoint.image_encoder(torch.float32, CPU)
    latents = checkpoint.audio_encoder(CPU).encode(torch.zeros(2, 4 * 2048), torch.Generator().manual_seed(0))
    assert checkpoint.audio_decoder(CPU).decode(latents).shape == (2, 4 * 1764)


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: tensors.pop("final_norm_video.weight"),
            r"distill: tensor final_norm_video\.weight is missing, expected shape \[64\]",
        ),
        (
            lambda tensors: tensors.update({"final_norm_video.weight": torch.zeros(63)}),
            r"distill: tensor final_norm_video\.weight has shape \[63\], expected \[64\]",
        ),
        (
            lambda tensors: tensors.update({"surplus": torch.zeros(1)}),
            r"distill: tensor surplus of shape \[1\] is not expected \(1 such\)",
        ),
    ],
)
def test_a_wrong_tensor_is_named_with_its_shapes(copy, change, message):
    rewrite(copy / "distill/model.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(copy).transformer("distill", torch.bfloat16, CPU)


def test_what_is_absent_is_named(copy, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no such folder"):
        Checkpoint(tmp_path / "nowhere")
    (copy / "distill/model.safetensors").rename(copy / "distill/weights.safetensors")
    with pytest.raises(
        CheckpointError, match=r"distill: distill must hold model\.safetensors, .* found weights\.safetensors"
    ):
        Checkpoint(copy).transformer("distill", torch.bfloat16, CPU)
    shutil.rmtree(copy / "distill")
    with pytest.raises(CheckpointError, match="distill: is absent, none of the folders distill, distill/transformer"):
        Checkpoint(copy).transformer("distill", torch.bfloat16, CPU)
    (copy / "base/model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"base: shard base/model-00002-of-00002\.safetensors is missing, base/mod"
    ):
        Checkpoint(copy).transformer("base", torch.bfloat16, CPU)
    (copy / "base/model.safetensors.index.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"base: base/model\.safetensors\.index\.json is not JSON"):
        Checkpoint(copy).transformer("base", torch.bfloat16, CPU)
    (copy / "base/model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(CheckpointError, match=r"index\.json has no weight_map of tensors to shards"):
        Checkpoint(copy).transformer("base", torch.bfloat16, CPU)
    (copy / "turbo_vae/checkpoint-340000.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"turbo_vae: turbo_vae/checkpoint-340000\.ckpt is missing"):
        Checkpoint(copy).turbo_vae(torch.bfloat16, CPU)


def test_one_wrong_tensor_of_any_component_is_named(copy):
    turbo = copy / "turbo_vae/checkpoint-340000.ckpt"
    held = torch.load(turbo, weights_only=True)
    held["ema_state_dict"]["decoder.conv_out.conv.bias"] = torch.zeros(3)
    torch.save(held, turbo)
    with pytest.raises(
        CheckpointError, match=r"turbo_vae: tensor decoder.conv_out.conv.bias has shape \[3\], expected"
    ):
        Checkpoint(copy).turbo_vae(torch.float32, CPU)
    torch.save({"state_dict": {}}, turbo)
    with pytest.raises(CheckpointError, match=r"checkpoint-340000.ckpt must hold ema_state_dict, found state_dict"):
        Checkpoint(copy).turbo_vae(torch.float32, CPU)
    wan = copy / "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
    tensors = torch.load(wan, weights_only=True)
    tensors["encoder.middle.0.residual.2.weights"] = tensors.pop("encoder.middle.0.residual.2.weight")
    torch.save(tensors, wan)
    with pytest.raises(
        CheckpointError, match=r"wan_vae: tensor encoder.middle.0.residual.2.weight is missing, expected"
    ):
        Checkpoint(copy).image_encoder(torch.float32, CPU)
    rewrite(
        copy / "stable-audio-open-1.0/model.safetensors",
        lambda tensors: tensors.update({"pretransform.model.decoder.layers.0.weight_g": torch.zeros(5, 1, 1)}),
    )
    with pytest.raises(
        CheckpointError, match=r"audio_vae: tensor pretransform.model.decoder.layers.0.weight_g has shape"
    ):
        Checkpoint(copy).audio_decoder(CPU)


def test_a_wan_vae_may_lack_its_decoder_where_a_turbo_vae_is(copy):
    wan = copy / "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
    tensors = torch.load(wan, weights_only=True)
    torch.save({n: t for n, t in tensors.items() if not n.startswith(("decoder.", "conv2."))}, wan)
    Checkpoint(copy).image_encoder(torch.float32, CPU)


def test_a_decoder_is_never_exchanged_silently(copy):
    wan = copy / "Wan2.2-TI2V-5B/Wan2.2_VAE.pth"
    assert Checkpoint(copy).layout.video_decoder == "turbo_vae"
    shutil.rmtree(copy / "turbo_vae")
    with pytest.raises(CheckpointError, match=r"turbo_vae: is absent"):
        Checkpoint(copy).video_decoder(torch.float32, CPU)
    # In a layout without a Turbo VAE the Wan VAE decodes, so its decoder must be there.
    (copy / "vae").mkdir()
    write_wan_as_diffusers(copy, copy / "vae")
    shutil.rmtree(wan.parent)
    (copy / "model_index.json").write_text("{}")
    (copy / "distill").rename(copy / "transformer")
    assert Checkpoint(copy).layout.video_decoder == "wan_vae"
    Checkpoint(copy).video_decoder(torch.float32, CPU)
    rewrite(
        copy / "vae/diffusion_pytorch_model.safetensors",
        lambda tensors: [tensors.pop(n) for n in list(tensors) if n.startswith(("decoder.", "post_quant_conv."))],
    )
    with pytest.raises(CheckpointError, match=r"wan_vae: tensor (decoder|post_quant_conv)\..* is missing, expected"):
        Checkpoint(copy).video_decoder(torch.float32, CPU)


def test_a_pickle_that_would_run_code_is_refused(copy):
    class Trap:
        def __reduce__(self):
            return (open, (str(copy / "trapped"), "w"))

    torch.save({"ema_state_dict": Trap()}, copy / "turbo_vae/checkpoint-340000.ckpt")
    with pytest.raises(CheckpointError, match=r"checkpoint-340000\.ckpt holds code \(io.open\) beside tensors"):
        Checkpoint(copy).turbo_vae(torch.bfloat16, CPU)
    assert not (copy / "trapped").exists()


def test_the_index_decides_which_shards_are_read(copy):
    index = json.loads((copy / "base/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 2
    save_file({"stray": torch.zeros(1)}, copy / "base/stray.safetensors")
    Checkpoint(copy).transformer("base", torch.bfloat16, CPU)
