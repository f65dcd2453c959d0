from dataclasses import replace

import pytest
import torch

from model.training.networks import new_transformer
from tests.tiny_checkpoint import tiny_config

NUM_STEPS = 4
RESUMED_AT = 2


@pytest.fixture
def make_transformer():
    """A small Transformer to train, in float32 unless told otherwise."""

    def make(variant="base", seed=0, compute_dtype=torch.float32, is_lively=False, **changes):
        generator = torch.Generator().manual_seed(seed)
        config = replace(tiny_config(variant), num_layers=3, expert_layers=(0, 2), gelu_layers=(0,), **changes)
        config = replace(config, local_attention_layers=())
        transformer = new_transformer(config, generator, compute_dtype)
        if is_lively:  # the last layers of a new one are zero
            for layer in (transformer.final_linear_video, transformer.final_linear_audio):
                torch.nn.init.normal_(layer.weight, std=0.02, generator=generator)
        return transformer

    return make


@pytest.fixture
def clips():
    """A small data set: clips of different sizes, with a video twice as large for super-resolution."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape, dtype=torch.float16):
        return torch.randn(shape, generator=generator).to(dtype)

    return [
        {
            "video": draw(48, frames, height, width),
            "audio": draw(num_audio, 64),
            "text": draw(num_text, 48, dtype=torch.float32),
            "video_large": draw(48, frames, 2 * height, 2 * width),
        }
        for frames, height, width, num_audio, num_text in [(2, 4, 2, 5, 3), (3, 2, 4, 9, 6), (2, 2, 2, 5, 2)]
    ]


@pytest.fixture
def negative_text_LC():
    return torch.randn(4, 48, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def train():
    """Take steps `first` to `last` - 1 and return what each reported; every step has a generator of its own."""

    def run(task, clips, last, first=0):
        return [task.step(clips, index, torch.Generator().manual_seed(index)) for index in range(first, last)]

    return run


@pytest.fixture
def resumed_tensors(train, clips, tmp_path):
    """Exported tensors of a run that was stopped and resumed from a file, and of one that was not."""

    def run(make_task):
        undisturbed = make_task()
        train(undisturbed, clips, NUM_STEPS)
        stopped = make_task()
        train(stopped, clips, RESUMED_AT)
        torch.save(stopped.state_dict(), tmp_path / "state.pt")
        resumed = make_task()
        resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        train(resumed, clips, NUM_STEPS, first=RESUMED_AT)
        return resumed, undisturbed

    return run
