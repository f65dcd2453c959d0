"""AdamW and Muon side by side."""

import pytest
import torch
from torch import nn

from model.training.muon import Muon, is_matrix, orthogonal
from model.training.optimiser import Optimiser, OptimiserConfig
from model.training.replicas import Replicas


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_singular_values_become_alike_and_directions_stay(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ orthogonal(matrix) @ right.T
    assert values.diagonal().min() > 0.5
    assert values.diagonal().max() < 1.3
    assert (values - values.diagonal().diag()).abs().max() < 1e-3


def test_updates_have_the_size_that_adamws_have():
    weight = nn.Parameter(torch.zeros(32, 8, 3, 3, 3).contiguous(memory_format=torch.channels_last_3d))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    Muon([weight], learning_rate=1e-2, weight_decay=0.0).step()
    assert weight.square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.15)


def test_weights_shrink_by_their_share():
    weight = nn.Parameter(torch.ones(8, 8))
    weight.grad = torch.zeros(8, 8)
    Muon([weight], learning_rate=0.5, weight_decay=0.1).step()
    assert torch.allclose(weight, torch.full((8, 8), 0.95))


def test_matrices_and_convolutions_are_muons_and_the_rest_is_adamws():
    network = nn.Sequential(nn.Conv3d(8, 16, 3), nn.Linear(16, 16), nn.Linear(16, 2))
    assert [name for name, p in network.named_parameters() if is_matrix(p)] == ["0.weight", "1.weight"]
    config = OptimiserConfig(1e-2, num_steps=10, num_warmup_steps=1, method="muon")
    optimiser = Optimiser(network.parameters(), config, Replicas())
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    loss = network[2](network[1](network[0](torch.ones(1, 8, 3, 3, 3)).flatten(1))).square().sum()
    optimiser.step(loss, 0)
    assert set(optimiser.state_dict()) == {"adamw", "muon"}
    assert len(optimiser.state_dict()["muon"]["state"]) == 2
    assert all(not parameter.equal(before[name]) for name, parameter in network.named_parameters())


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="method must be adamw or muon, got 'sgd'"):
        OptimiserConfig(1e-3, 10, method="sgd")
