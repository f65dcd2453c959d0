import pytest

from pipeline.lane import Lane
from pipeline.plan import PlanError, plan_pools
from pipeline.settings import Settings


def sizes(pools):
    return {pool.stage: pool.size for pool in pools}


def test_a_laptop_gets_one_actor_per_stage_and_no_gpu():
    pools = plan_pools(Lane("distill", "540p"), Settings(), num_gpus=0)
    assert sizes(pools) == {
        "conditioning": 1,
        "base_generation": 1,
        "super_resolution": 1,
        "decoding": 1,
        "writing": 1,
    }
    assert all(pool.num_gpus == 0 for pool in pools)


@pytest.mark.parametrize("num_gpus", [4, 8, 64, 512])
@pytest.mark.parametrize("resolution", ["256p", "540p", "1080p"])
def test_gpus_are_all_used_and_no_move_makes_the_bottleneck_faster(num_gpus, resolution):
    from pipeline.plan import _SECONDS_PER_CLIP

    lane = Lane("distill", resolution)
    pools = [pool for pool in plan_pools(lane, Settings(), num_gpus) if pool.num_gpus]
    assert sum(pool.size * pool.num_gpus for pool in pools) == num_gpus
    seconds = _SECONDS_PER_CLIP[resolution]
    loads = {pool.stage: seconds[pool.stage] / pool.size for pool in pools}
    slowest = max(loads, key=lambda stage: loads[stage])
    for pool in pools:
        if pool.stage != slowest and pool.size > 1:
            assert seconds[pool.stage] / (pool.size - 1) >= loads[slowest], "a GPU could be moved with profit"


def test_few_gpus_are_shared_by_all_stages():
    pools = plan_pools(Lane("distill", "1080p"), Settings(), num_gpus=2)
    shares = [pool.num_gpus for pool in pools if pool.stage != "writing"]
    assert shares == [0.25] * 4
    assert sizes(pools)["super_resolution"] == 2


def test_pinned_sizes_are_kept():
    settings = Settings.model_validate({"pools": {"decoding": {"size": 3}, "writing": {"size": 2, "num_cpus": 4}}})
    pools = plan_pools(Lane("distill", "540p"), settings, num_gpus=16)
    assert sizes(pools)["decoding"] == 3
    assert sizes(pools)["writing"] == 2
    assert sum(pool.size for pool in pools if pool.num_gpus) == 16


def test_pools_that_do_not_fit_are_refused():
    settings = Settings.model_validate({"pools": {"decoding": {"size": 9}}})
    with pytest.raises(PlanError, match=r"pools need 11 GPUs \(.*decoding 9 x 1\), the run may use 8"):
        plan_pools(Lane("distill", "256p"), settings, num_gpus=8)
