"""Networks to train, as they are made."""

import pytest
import torch

from model.training.networks import frozen_transformer, new_transformer, trained_transformer
from tests.tiny_checkpoint import tiny_config

CONFIG = tiny_config("base")
LINEAR = "block.layers.0.mlp.down_proj.weight"


@pytest.fixture
def tensors():
    """Those of a network of tiny size, float32."""
    return new_transformer(CONFIG, torch.Generator().manual_seed(0)).state_dict()


def test_the_same_seed_gives_the_same_weights_and_the_next_draw_others():
    generator = torch.Generator().manual_seed(0)
    first, second = (new_transformer(CONFIG, generator).state_dict() for _ in range(2))
    again = new_transformer(CONFIG, torch.Generator().manual_seed(0)).state_dict()
    torch.testing.assert_close(again, first, rtol=0, atol=0)
    assert not torch.equal(second[LINEAR], first[LINEAR])


def test_first_weights_keep_the_variance_of_inputs_and_add_less_where_many_layers_add(tensors):
    assert tensors["block.layers.2.attention.linear_qkv.weight"].std() == pytest.approx(64**-0.5, rel=0.05)
    down = tensors["block.layers.2.mlp.down_proj.weight"]
    assert down.std() == pytest.approx((down.shape[1] * 2 * CONFIG.num_layers) ** -0.5, rel=0.05)
    assert not tensors["final_linear_video.weight"].any()
    assert tensors["adapter.rope.bands"][0] == 1


def test_trained_weights_are_copied_and_frozen_ones_are_in_the_dtype_they_are_used_in(tensors):
    trained = trained_transformer(CONFIG, tensors, torch.bfloat16)
    torch.testing.assert_close(dict(trained.state_dict()), dict(tensors), rtol=0, atol=0)
    assert all(parameter.requires_grad for parameter in trained.parameters())
    trained.state_dict()[LINEAR].zero_()
    assert tensors[LINEAR].any()
    frozen = frozen_transformer(CONFIG, tensors, torch.bfloat16)
    assert torch.equal(frozen.state_dict()[LINEAR], tensors[LINEAR].bfloat16())
    assert frozen.state_dict()["adapter.video_embedder.weight"].dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({LINEAR: None}, f"weights must be all of the network's, got none of {LINEAR}"),
        ({"colour": torch.zeros(1)}, "weights must be the network's, got colour"),
        ({"adapter.video_embedder.bias": torch.zeros(3)}, r"video_embedder.bias must be of shape \(64,\), got \(3,\)"),
    ],
)
def test_weights_of_another_network_are_refused(tensors, change, message):
    changed = {name: tensor for name, tensor in (tensors | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        trained_transformer(CONFIG, changed)
