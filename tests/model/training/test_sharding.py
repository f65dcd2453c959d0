"""Two real processes with a gloo group on the CPU."""

import multiprocessing
import socket
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from model.sampling import DistilledSampling
from model.training.clips import ConditionShares
from model.training.distillation import DistillationTask
from model.training.distillation_config import DistillationConfig, DistillationNetworks, GanConfig
from model.training.flow_matching import FlowMatchingConfig, FlowMatchingTask
from model.training.memory import shard_bytes
from model.training.networks import new_transformer
from model.training.optimiser import OptimiserConfig
from model.training.replicas import Replicas, whole
from model.training.sharding import shard, shard_whole
from tests.tiny_checkpoint import tiny_config

NUM_WORKERS = 2
NUM_STEPS = 3
CASES = {
    "base": ("base", torch.float32, 1e-5),
    "distillation": ("distillation", torch.float32, 1e-5),
    # Here sums are rounded in another order, which came to 5e-3 at most so far, and the limit is the one that all
    # comparisons in bfloat16 have. It shows which dtypes can be sharded together.
    "distillation_bf16": ("distillation", torch.bfloat16, 2e-2),
}
"""What is trained, in which precision, and how far losses may lie apart."""
RATES = OptimiserConfig(1e-3, num_steps=10, num_warmup_steps=1)


def make_task(stage, compute_dtype, mesh, recomputes_layers):
    """A task whose networks are sharded where there is a mesh."""
    config = replace(tiny_config("base"), num_layers=2, expert_layers=(0,), gelu_layers=(0,))
    base = new_transformer(config, torch.Generator().manual_seed(0), compute_dtype)
    torch.nn.init.normal_(base.final_linear_video.weight, std=0.02, generator=torch.Generator().manual_seed(1))
    base.block.recomputes_layers = recomputes_layers
    negative_text_LC = torch.ones(2, 48)
    replicas = Replicas(NUM_WORKERS)
    if stage == "base":
        if mesh is not None:
            shard(base, mesh)
        return FlowMatchingTask(base, negative_text_LC, FlowMatchingConfig(RATES), replicas)
    networks = DistillationNetworks.from_base(base, True, torch.Generator().manual_seed(2))
    if mesh is not None:
        for network in (networks.student, networks.real, networks.fake):
            shard(network, mesh)
        shard_whole(networks.discriminator, mesh)
    shares = ConditionShares(0, 0.5, 0.5)
    config = DistillationConfig(RATES, RATES, DistilledSampling(2), num_fake_updates=2, shares=shares, gan=GanConfig())
    return DistillationTask(networks, negative_text_LC, config, replicas)


def train(case, mesh, rank, recomputes_layers):
    """Every worker has clips of its own, given other things; gives reports, averaged weights and what is exported."""
    draw = torch.Generator().manual_seed(10 + rank)
    clip = {"video": (48, 2, 2, 2), "audio": (5, 64), "text": (3, 48)}
    batch = [{name: torch.randn(shape, generator=draw) for name, shape in clip.items()} for _ in range(2)]
    task = make_task(*CASES[case][:2], mesh, recomputes_layers)
    seeds = [torch.Generator().manual_seed(100 * rank + index) for index in range(NUM_STEPS)]
    reports = [task.step(batch, index, seed) for index, seed in enumerate(seeds)]
    averages = {name: whole(tensor) for name, tensor in task.state_dict()["average"].items()}
    return reports, averages, task.export()


def make_shard_bytes(mesh):
    """What one worker is expected to hold of a network, and with a mesh what it does hold."""
    network = make_task("base", torch.float32, mesh, False).transformer
    if mesh is None:
        return shard_bytes(network, NUM_WORKERS)
    return sum(parameter.to_local().nbytes for parameter in network.parameters())


def work(rank, port, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=NUM_WORKERS)
    mesh = init_device_mesh("cpu", (NUM_WORKERS,))
    results = {case: (train(case, None, rank, False), train(case, mesh, rank, True)) for case in CASES}
    results["shard_bytes"] = [make_shard_bytes(None), make_shard_bytes(mesh)]
    torch.save(results, f"{path}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each worker found: by case, with all weights and sharded."""
    path = tmp_path_factory.mktemp("workers")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(rank, port, str(path))) for rank in range(NUM_WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    return [torch.load(path / f"{rank}.pt") for rank in range(NUM_WORKERS)]


@pytest.mark.parametrize("case", CASES)
def test_sharded_workers_learn_what_workers_with_all_weights_do(results, case):
    for result in results:
        (reports, *tensors), (sharded_reports, *sharded_tensors) = result[case]
        for report, other in zip(reports, sharded_reports, strict=True):
            assert other == pytest.approx(report, rel=CASES[case][2])
        torch.testing.assert_close(sharded_tensors, tensors, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("case", CASES)
def test_all_workers_end_with_the_same_weights(results, case):
    for one, other in zip(results[0][case], results[1][case], strict=True):
        assert one[0] != other[0]  # of their own clips
        assert all(torch.equal(tensor, other[1][name]) for name, tensor in one[1].items())


@pytest.mark.parametrize("case", CASES)
def test_the_first_worker_alone_gets_what_is_exported(results, case):
    for (_, averages, exported), (_, _, others) in zip(results[0][case], results[1][case], strict=True):
        assert exported.keys() == averages.keys()
        assert all(torch.equal(tensor, averages[name].to(tensor.dtype)) for name, tensor in exported.items())
        assert exported["block.layers.0.mlp.down_proj.weight"].dtype == torch.bfloat16
        assert others == {}


def test_a_worker_holds_as_much_as_the_dry_run_says(results):
    for result in results:
        expected, found = result["shard_bytes"]
        assert found == expected
