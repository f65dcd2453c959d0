import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, T5GemmaEncoderModel

from model.checkpoint import Checkpoint
from model.text_encoder import expected_encoder_tensors, is_encoder_tensor, load_text_encoder
from tests.tiny_checkpoint import write_tiny_checkpoint

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)

# Lengths in tokens: one per byte and one for the beginning. The tiny encoder's window is 64 tokens to either side.
PROMPTS = ("A woman speaks.", "Grüße, 你好! " * 9, "x" * 99 + "y" * 301, "abc", "z" * 700, "It rains. " * 13)
NUM_TOKENS = (16, 154, 401, 4, 701, 131)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(target)
    return target / "t5gemma-9b-9b-ul2"


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def read(folder: Path):
    """Config and encoder tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    return config, {name: tensor for name, tensor in tensors.items() if is_encoder_tensor(name)}


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def encoder(request, folder):
    return load_text_encoder(*read(folder), folder, request.param, CPU)


def count_forwards(encoder):
    calls = []
    encoder.model.register_forward_hook(lambda *_: calls.append(1))
    return calls


@torch.inference_mode()
def features_of_transformers(folder, dtype, prompt):
    """One prompt through the library's own loading and attention, as in the release."""
    model = T5GemmaEncoderModel.from_pretrained(folder, is_encoder_decoder=False, dtype=dtype, local_files_only=True)
    inputs = AutoTokenizer.from_pretrained(folder, local_files_only=True)([prompt], return_tensors="pt")
    return model.eval()(**inputs).last_hidden_state[:, :640].half()


def test_prompts_of_any_length_share_a_forward_and_change_nothing(encoder):
    calls = count_forwards(encoder)
    together = encoder.encode(PROMPTS)
    assert len(calls) == 1
    assert tuple(features.num_tokens for features in together) == NUM_TOKENS
    for prompt, features in zip(PROMPTS, together, strict=True):
        (alone,) = encoder.encode([prompt])
        assert torch.equal(features.features_1LC, alone.features_1LC), prompt
        assert features.features_1LC.shape == (1, min(features.num_tokens, 640), 48)
        assert features.features_1LC.dtype == torch.float16


def test_features_equal_those_of_transformers_bit_for_bit(folder, encoder):
    for prompt, features in zip(PROMPTS, encoder.encode(PROMPTS), strict=True):
        assert torch.equal(features.features_1LC, features_of_transformers(folder, encoder.model.dtype, prompt)), prompt


def test_prompts_too_short_to_share_keep_their_place_and_their_features(encoder):
    prompts = ["a", PROMPTS[0], "bc", PROMPTS[3], "d"]
    calls = count_forwards(encoder)
    together = encoder.encode(prompts)
    assert len(calls) == 4
    for prompt, features in zip(prompts, together, strict=True):
        assert torch.equal(features.features_1LC, encoder.encode([prompt])[0].features_1LC), prompt
    assert encoder.encode([]) == []


def test_long_prompts_are_cut_to_640_tokens_after_encoding(encoder):
    long, other_end = encoder.encode(["a" * 700, "a" * 699 + "b"])
    assert long.num_tokens == 701
    assert long.features_1LC.shape[1] == 640
    assert not torch.equal(long.features_1LC[:, -1], other_end.features_1LC[:, -1]), "the whole prompt is attended to"


def test_an_encoder_saved_alone_loads_as_the_whole_model_does(folder, tmp_path):
    whole = T5GemmaEncoderModel.from_pretrained(folder, is_encoder_decoder=False, local_files_only=True)
    whole.save_pretrained(tmp_path)
    config, tensors = read(tmp_path)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected_encoder_tensors(config)
    alone = load_text_encoder(config, tensors, folder, torch.bfloat16, CPU)
    (features,) = load_text_encoder(*read(folder), folder, torch.bfloat16, CPU).encode(PROMPTS[:1])
    assert torch.equal(alone.encode(PROMPTS[:1])[0].features_1LC, features.features_1LC)
    del config["architectures"]
    assert expected_encoder_tensors(config).keys() == tensors.keys()


def test_tensors_that_fit_are_not_copied_and_others_are_converted(folder):
    config, tensors = read(folder)
    name = "model.encoder.norm.weight"
    as_they_are = load_text_encoder(config, tensors, folder, torch.bfloat16, CPU).model
    assert as_they_are.encoder.norm.weight.data_ptr() == tensors[name].data_ptr()
    widened = load_text_encoder(config, tensors, folder, torch.float32, CPU).model
    assert {parameter.dtype for parameter in widened.parameters()} == {torch.float32}
    for model in (as_they_are, widened):
        assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not model.training
        assert model.encoder.rotary_emb.inv_freq.dtype == torch.float32


def test_names_in_a_whole_models_file_tell_encoder_from_decoder(folder):
    config, tensors = read(folder)
    in_file = load_file(folder / "model.safetensors")
    assert len(in_file) > len(tensors)
    assert all("decoder" in name for name in in_file.keys() - tensors.keys())
    shapes = {name.removeprefix("model."): tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == expected_encoder_tensors(config)


def test_the_releases_encoder_is_known_without_allocating_it():
    half = {
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "model_type": "t5_gemma_module",
        "num_attention_heads": 16,
        "num_hidden_layers": 42,
        "num_key_value_heads": 8,
        "query_pre_attn_scalar": 256,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    }
    shapes = expected_encoder_tensors(
        {
            "architectures": ["T5GemmaForConditionalGeneration"],
            "model_type": "t5gemma",
            "is_encoder_decoder": True,
            "encoder": half,
            "decoder": {**half, "is_decoder": True, "cross_attention_hidden_size": 3584},
        }
    )
    assert len(shapes) == 2 + 42 * 11
    assert all(is_encoder_tensor(name) and name.startswith("encoder.") for name in shapes)
    assert shapes["encoder.embed_tokens.weight"] == (256000, 3584)
    assert shapes["encoder.layers.41.self_attn.k_proj.weight"] == (2048, 3584)
    assert shapes["encoder.layers.0.mlp.down_proj.weight"] == (3584, 14336)


NORM = "model.encoder.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NORM), r"tensor model\.encoder\.norm\.weight is missing, expected shape \[48\]"),
        (
            lambda tensors: tensors.update({NORM: torch.zeros(47)}),
            r"tensor model\.encoder\.norm\.weight has shape \[47\], expected \[48\]",
        ),
        (
            lambda tensors: tensors.update({"model.encoder.surplus": torch.zeros(1)}),
            r"tensor model\.encoder\.surplus of shape \[1\] is not expected",
        ),
    ],
)
def test_a_wrong_encoder_tensor_is_named_with_its_shapes(folder, tmp_path, change, message):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        Checkpoint(tmp_path).text_encoder(torch.bfloat16, CPU)


def test_a_decoder_is_not_needed(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / folder.name)
    save_file(read(folder)[1], copy / "model.safetensors")
    assert Checkpoint(tmp_path).text_encoder(torch.bfloat16, CPU).encode(["A woman speaks."])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "t5"}, "model_type of the text encoder must be t5gemma, got 't5'"),
        ({"encoder": None}, "encoder in the text encoder's config must be an object, got None"),
        ({"encoder": {"hidden_size": "wide"}}, "the text encoder's config is not a T5Gemma's: .*hidden_size"),
    ],
)
def test_a_config_that_is_no_t5gemmas_is_told_in_one_line(folder, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        expected_encoder_tensors({**read(folder)[0], **change})
    assert "\n" not in str(caught.value)


def remove_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_tokenizer, r"copy holds no tokenizer: neither tokenizer\.json nor tokenizer\.model"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "copy: the tokenizer cannot be loaded: "),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "copy: the tokenizer cannot be loaded: "),
        (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "copy: the tokenizer cannot be loaded: "),
    ],
)
def test_a_missing_or_damaged_tokenizer_is_told_in_one_line(copy, damage, message):
    config, tensors = read(copy)
    damage(copy)
    with pytest.raises(ValueError, match=message) as caught:
        load_text_encoder(config, tensors, copy, torch.bfloat16, CPU)
    assert "\n" not in str(caught.value)


def test_another_models_tokenizer_is_noticed(folder):
    config, tensors = read(folder)
    few = {**config, "encoder": {**config["encoder"], "vocab_size": 200}}
    table = "model.encoder.embed_tokens.weight"
    encoder = load_text_encoder(few, tensors | {table: tensors[table][:200]}, folder, torch.bfloat16, CPU)
    assert encoder.encode(["Woman"])
    with pytest.raises(ValueError, match=r"tokenizer gives token 2[0-9]{2}, the encoder has 200"):
        encoder.encode(["Woman", "A woman"])  # a space is number 224
