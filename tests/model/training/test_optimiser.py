"""AdamW and Muon side by side."""

import socket

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing, nn

from model.experts import ExpertLinear, Precision
from model.training.muon import Muon, is_matrix, muon_groups, orthogonal
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
    optimiser = Optimiser([network], config, Replicas())
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    loss = network[2](network[1](network[0](torch.ones(1, 8, 3, 3, 3)).flatten(1))).square().sum()
    optimiser.step(loss, 0)
    assert set(optimiser.state_dict()) == {"adamw", "muon"}
    assert len(optimiser.state_dict()["muon"]["state"]) == 2
    assert all(not parameter.equal(before[name]) for name, parameter in network.named_parameters())


def test_experts_are_matrices_of_their_own():
    generator = torch.Generator().manual_seed(0)
    linear = ExpertLinear(12, 20, 3, Precision(torch.float32, torch.float32))
    experts = [nn.Parameter(torch.randn(20, 12, generator=generator)) for _ in range(3)]
    gradients = [torch.randn(20, 12, generator=generator) for _ in range(3)]
    with torch.no_grad():
        linear.weight.copy_(torch.cat(experts))
    linear.weight.grad = torch.cat(gradients)
    Muon(muon_groups([nn.Sequential(linear, nn.Linear(12, 12))]), 1e-2, 0.1).step()
    for expert, gradient in zip(experts, gradients, strict=True):
        expert.grad = gradient
    Muon(experts, 1e-2, 0.1).step()
    assert torch.allclose(linear.weight, torch.cat(list(experts)), atol=1e-6)


def learn(rank, num_workers, port, path):
    """One worker's part of three steps over the same eight examples."""
    torch.set_num_threads(1)
    if num_workers > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_workers)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 33), nn.Linear(33, 16))
    config = OptimiserConfig(1e-2, num_steps=3, num_warmup_steps=1, method="muon")
    optimiser = Optimiser([network], config, Replicas(num_workers))
    generator = torch.Generator().manual_seed(1)
    for index in range(3):
        mine = torch.randn(8, 12, generator=generator).chunk(num_workers)[rank]
        optimiser.step(network(mine).square().mean(), index)
    torch.save(network.state_dict(), path / f"{num_workers}-{rank}.pt")
    if num_workers > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_workers_that_divide_the_work_learn_what_one_does(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    learn(0, 1, port, tmp_path)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=learn, args=(rank, 2, port, tmp_path)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    alone, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-5)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="method must be adamw or muon, got 'sgd'"):
        OptimiserConfig(1e-3, 10, method="sgd")
