import pytest

from pipeline.lane import Lane
from pipeline.plan import GpuMemory, PlanError, plan_pools
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


NEEDED_GB = {"conditioning": 20.04, "base_generation": 33, "super_resolution": 42, "decoding": 43}


def test_pools_tell_what_their_actors_need_of_a_gpu():
    pools = plan_pools(Lane("distill", "1080p"), Settings(), 8, GpuMemory(NEEDED_GB, 80))
    needed = {pool.stage: pool.gpu_memory_gb for pool in pools}
    assert needed == {**NEEDED_GB, "conditioning": 20.0, "writing": None}
    assert sizes(pools) == sizes(plan_pools(Lane("distill", "1080p"), Settings(), 8))


def test_an_actor_on_the_cpu_needs_nothing_of_a_gpu():
    settings = Settings.model_validate({"pools": {"decoding": {"num_gpus": 0}}})
    pools = plan_pools(Lane("distill", "1080p"), settings, 8, GpuMemory({**NEEDED_GB, "decoding": 500}, 80))
    assert {pool.stage: pool.gpu_memory_gb for pool in pools}["decoding"] is None
    assert all(pool.gpu_memory_gb is None for pool in plan_pools(Lane("distill", "1080p"), Settings(), 0))


def test_an_actor_that_needs_more_than_a_gpu_has_is_refused():
    memory = GpuMemory({**NEEDED_GB, "super_resolution": 117}, 80)
    reason = r"pool super_resolution needs 117 GB of GPU memory, a GPU has 80: precision: fp8, shorter clips"
    with pytest.raises(PlanError, match=reason):
        plan_pools(Lane("distill", "1080p"), Settings(), 8, memory)
    pools = plan_pools(Lane("distill", "1080p"), Settings(), 8, GpuMemory(memory.actors_gb))
    assert {pool.stage: pool.gpu_memory_gb for pool in pools}["super_resolution"] == 117, "told, not refused"


def test_actors_that_do_not_fit_one_gpu_together_are_refused():
    reason = (
        r"pools that share a GPU need 138 GB of its memory \(conditioning 20, base_generation 33, super_resolution "
        r"42, decoding 43\), a GPU has 80: 4 GPUs give each pool its own"
    )
    with pytest.raises(PlanError, match=reason):
        plan_pools(Lane("distill", "1080p"), Settings(), 1, GpuMemory(NEEDED_GB, 80))
    [*gpu_pools, _] = plan_pools(Lane("distill", "1080p"), Settings(), 1, GpuMemory(NEEDED_GB, 141))
    assert [pool.num_gpus for pool in gpu_pools] == [0.25] * 4


def test_few_gpus_are_shared_by_memory_where_equal_shares_do_not_fit():
    """Four thirds of the release's models: two equal ones on a GPU would not fit, whatever else is there."""
    memory = GpuMemory({"conditioning": 20, "base_generation": 33, "super_resolution": 39, "decoding": 10}, 80)
    [*gpu_pools, _] = plan_pools(Lane("distill", "540p"), Settings(), 2, memory)
    assert [pool.size for pool in gpu_pools] == [1] * 4
    assert [pool.num_gpus for pool in gpu_pools] == [0.25, 0.413, 0.488, 0.125]
    assert all(pool.num_gpus * 80 >= pool.gpu_memory_gb for pool in gpu_pools)


def test_where_shares_by_memory_leave_room_the_bottleneck_gets_more_actors():
    [*gpu_pools, _] = plan_pools(Lane("distill", "1080p"), Settings(), 2, GpuMemory(NEEDED_GB, 141))
    assert [pool.num_gpus for pool in gpu_pools] == [0.143, 0.235, 0.298, 0.305]
    assert [pool.size for pool in gpu_pools] == [1, 1, 3, 1]


def test_shares_by_memory_are_not_taken_where_an_actor_might_find_no_place():
    """Two and two of these fit two GPUs, but Ray could put the two smaller ones together first."""
    memory = GpuMemory({"conditioning": 30, "base_generation": 30, "super_resolution": 50, "decoding": 50}, 80)
    with pytest.raises(PlanError, match="pools that share a GPU need"):
        plan_pools(Lane("distill", "540p"), Settings(), 2, memory)


def test_pinned_pools_that_may_meet_on_a_gpu_are_held_against_its_memory():
    settings = Settings.model_validate({"pools": {"decoding": {"num_gpus": 0.5, "size": 4}}})
    pools = plan_pools(Lane("distill", "1080p"), settings, 8, GpuMemory({**NEEDED_GB, "decoding": 40}, 80))
    assert sizes(pools)["decoding"] == 4
    with pytest.raises(PlanError, match=r"need 86 GB of its memory \(decoding 43, decoding 43\), a GPU has 80"):
        plan_pools(Lane("distill", "1080p"), settings, 8, GpuMemory(NEEDED_GB, 80))
