import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file

from model.small_text_encoder import trained_tokenizer, write_text_encoder
from model.text_encoder import expected_encoder_tensors, load_text_encoder
from model.training.optimiser import OptimiserConfig
from model.training.replicas import Replicas
from model.training.text_encoder import TextEncoderConfig, TextEncoderTask

COLOURS = ("red", "blue", "green")
PROMPTS = {
    f"a {hair} hat and a {shirt} shirt": (COLOURS.index(hair), COLOURS.index(shirt))
    for hair in COLOURS
    for shirt in COLOURS
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    write_text_encoder(folder, trained_tokenizer(PROMPTS, 300), 32, seed=1, is_encoder_only=True)
    return folder


def loaded(folder, tensors=None):
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors") if tensors is None else tensors
    return load_text_encoder(config, tensors, folder, torch.float32, CPU)


def samples(encoder):
    return [
        {"tokens": torch.tensor(encoder.tokenize(prompt), dtype=torch.int32), "facts": torch.tensor(facts).short()}
        for prompt, facts in PROMPTS.items()
    ]


def new_task(folder, num_steps):
    rates = OptimiserConfig(learning_rate=1e-2, num_steps=num_steps, num_warmup_steps=5)
    return TextEncoderTask(loaded(folder), (3, 3), TextEncoderConfig(rates, average_decay=0.9), 0, Replicas())


def generator(index):
    return torch.Generator().manual_seed(index)


def test_every_token_learns_to_tell_what_belongs_to_what(folder):
    task = new_task(folder, 150)
    batch = samples(task.encoder)
    reports = [task.step(batch, index, generator(index)) for index in range(150)]
    # The words alone, without their order, tell both colours in three prompts of nine.
    assert reports[0]["told"] < 0.6
    assert reports[-1]["told"] > 0.95
    assert reports[-1]["loss"] < 0.2 * reports[0]["loss"]
    exported = task.export()
    config = json.loads((folder / "config.json").read_text())
    assert {name: tuple(tensor.shape) for name, tensor in exported.items()} == expected_encoder_tensors(config)
    encoder = loaded(folder, exported)
    for sample in batch:
        features_NC = encoder.hidden_states([sample["tokens"].tolist()])[0]
        colours = task.networks["heads"](features_NC).split([3, 3], dim=1)
        assert [int(logits.mean(dim=0).argmax()) for logits in colours] == sample["facts"].tolist()


def test_a_saved_run_goes_on_as_if_it_had_not_stopped(folder):
    one, other = new_task(folder, 8), new_task(folder, 8)
    batch = samples(one.encoder)
    for index in range(4):
        one.step(batch, index, generator(index))
    other.load_state_dict(deepcopy(one.state_dict()))
    for task in (one, other):
        for index in range(4, 8):
            task.step(batch, index, generator(index))
    assert all(torch.equal(tensor, other.export()[name]) for name, tensor in one.export().items())


def test_noise_below_zero_is_refused():
    with pytest.raises(ValueError, match="feature_noise must be at least 0, got -1"):
        TextEncoderConfig(OptimiserConfig(1e-3, 10), feature_noise=-1)
