from itertools import product

import pytest

from pipeline.gpu_shares import spread
from pipeline.lane import Lane
from pipeline.plan import plan_lane, plan_pools
from pipeline.pools import Cluster, GpuMemory, PlanError, clips_per_second, fullest_gpu, needed_gb, utilisation
from pipeline.settings import Settings

SECONDS = {
    "256p": {"conditioning": 0.1, "base_generation": 1.6, "decoding": 0.4, "writing": 0.2},
    "540p": {"conditioning": 0.1, "base_generation": 1.6, "super_resolution": 5.1, "decoding": 1.3, "writing": 0.2},
    "1080p": {"conditioning": 0.1, "base_generation": 1.6, "super_resolution": 31.0, "decoding": 5.8, "writing": 0.2},
}
NEEDED_GB = {"conditioning": 20.04, "base_generation": 33, "super_resolution": 42, "decoding": 43}


def plan(resolution, num_gpus, memory=None, settings=None, **others):
    cluster = others.pop("cluster", Cluster(num_gpus))
    seconds = SECONDS[resolution]
    return plan_pools(Lane("distill", resolution), settings or Settings(), cluster, seconds, memory, **others)


def pins(**pools):
    return Settings.model_validate({"pools": pools})


def sizes(pools):
    return {pool.stage: pool.size for pool in pools}


def shares(pools):
    return {pool.stage: pool.num_gpus for pool in pools if pool.num_gpus}


def test_a_laptop_gets_one_actor_per_stage_and_no_gpu():
    pools = plan("540p", 0)
    assert set(sizes(pools)) == set(SECONDS["540p"])
    assert all((pool.size, pool.num_gpus, pool.num_cpus) == (1, 0, 0.5) for pool in pools)


@pytest.mark.parametrize("num_gpus", [4, 8, 64, 512])
@pytest.mark.parametrize("resolution", ["256p", "540p", "1080p"])
def test_gpus_are_all_used_and_no_move_makes_the_bottleneck_faster(num_gpus, resolution):
    pools = [pool for pool in plan(resolution, num_gpus) if pool.num_gpus]
    assert all(pool.num_gpus == 1 for pool in pools), "memory is not known, so none is shared"
    assert sum(pool.size for pool in pools) == num_gpus
    loads = {pool.stage: SECONDS[resolution][pool.stage] / pool.size for pool in pools}
    slowest = max(loads, key=lambda stage: loads[stage])
    for pool in pools:
        if pool.stage != slowest and pool.size > 1:
            moved = SECONDS[resolution][pool.stage] / (pool.size - 1)
            assert moved >= loads[slowest], "a GPU could be moved with profit"


@pytest.mark.parametrize("resolution", ["256p", "540p", "1080p"])
@pytest.mark.parametrize("fixed", [{}, {"decoding": 2}, {"base_generation": 1, "decoding": 3}])
def test_no_other_way_to_spread_whole_gpus_is_faster(resolution, fixed):
    seconds = {stage: s for stage, s in SECONDS[resolution].items() if stage != "writing"}
    for num_gpus in range(len(seconds) + 3, 11):
        found = spread(seconds, dict.fromkeys(seconds, 1.0), fixed, num_gpus)
        choices = (dict(zip(seconds, n, strict=True)) for n in product(range(1, num_gpus), repeat=len(seconds)))
        allowed = [n for n in choices if sum(n.values()) <= num_gpus and fixed.items() <= n.items()]
        best = min(max(seconds[stage] / n[stage] for stage in n) for n in allowed)
        assert fixed.items() <= found.items()
        assert max(seconds[stage] / found[stage] for stage in found) == best


def test_no_stage_has_more_actors_than_there_are_clips():
    assert sizes(plan("1080p", 64, num_clips=3)) == dict.fromkeys(SECONDS["1080p"], 3) | {"writing": 1}


def test_where_memory_is_not_known_no_more_stages_share_a_gpu_than_must():
    pools = plan("1080p", 3)
    assert shares(pools) == {"conditioning": 0.1, "base_generation": 0.9, "super_resolution": 0.9, "decoding": 0.9}
    pools = plan("1080p", 1)
    assert shares(pools) == {"conditioning": 0.1, "base_generation": 0.1, "super_resolution": 0.7, "decoding": 0.1}
    assert sizes(pools) == dict.fromkeys(SECONDS["1080p"], 1)


def test_a_light_stage_shares_a_gpu_where_a_whole_one_would_be_wasted():
    """Four GPUs for 0.1 + 1.6 + 0.4 s: whole, base generation has two; beside conditioning, three."""
    memory = GpuMemory({"conditioning": 20, "base_generation": 32, "decoding": 5}, 80)
    whole, shared = plan("256p", 4), plan("256p", 4, memory)
    assert sizes(whole) == {"conditioning": 1, "base_generation": 2, "decoding": 1, "writing": 1}
    assert sizes(shared)["base_generation"] == 4, "decoding and conditioning fit beside it, too"
    assert clips_per_second(shared, SECONDS["256p"]) == pytest.approx(4 / 2.1)
    assert clips_per_second(whole, SECONDS["256p"]) == pytest.approx(2 / 1.6)


@pytest.mark.parametrize("num_gpus", [17, 64])
def test_whole_gpus_where_sharing_gains_little(num_gpus):
    """With 17 it would be two hundredths."""
    memory = GpuMemory({"conditioning": 20, "base_generation": 32, "decoding": 5}, 80)
    assert set(shares(plan("256p", num_gpus, memory)).values()) == {1.0}


@pytest.mark.parametrize("gpu_gb", [80, 141])
@pytest.mark.parametrize("num_gpus", range(3, 25))
@pytest.mark.parametrize("resolution", ["256p", "540p", "1080p"])
def test_shares_find_a_place_and_fit_whatever_ray_decides(resolution, num_gpus, gpu_gb):
    """Heavy actors cannot meet, and light ones all together leave room for one."""
    pools = [pool for pool in plan(resolution, num_gpus, GpuMemory(NEEDED_GB, gpu_gb)) if pool.num_gpus]
    assert needed_gb(fullest_gpu(pools)) <= gpu_gb
    heavy, light = ([p for p in pools if (p.num_gpus > 0.5) == is_heavy] for is_heavy in (True, False))
    assert sum(pool.size for pool in heavy) <= num_gpus
    assert max(pool.num_gpus for pool in heavy) + sum(pool.size * pool.num_gpus for pool in light) <= 1 + 1e-9
    whole = plan(resolution, num_gpus) if num_gpus >= len(pools) else None
    if whole is not None:
        assert clips_per_second(pools, SECONDS[resolution]) >= clips_per_second(whole, SECONDS[resolution])


def test_a_light_actor_is_busy_half_of_the_time_at_most():
    memory = GpuMemory({"conditioning": 1, "base_generation": 30, "decoding": 1}, 80)
    pools = plan("256p", 12, memory)
    light = [pool.stage for pool in pools if 0 < pool.num_gpus < 0.5]
    assert light
    assert all(utilisation(pools, SECONDS["256p"])[stage] <= 0.5 for stage in light)
    assert sizes(pools)["decoding"] > 1


def test_pinned_sizes_are_kept():
    pools = plan("540p", 16, settings=pins(decoding={"size": 3}, writing={"size": 2, "num_cpus": 4}))
    assert sizes(pools)["decoding"] == 3
    assert sizes(pools)["writing"] == 2
    assert {pool.stage: pool.num_cpus for pool in pools}["writing"] == 4
    assert sum(pool.size for pool in pools if pool.num_gpus) == 16


def test_a_pinned_share_frees_the_rest_of_its_gpus_for_others():
    pools = plan("540p", 8, settings=pins(decoding={"size": 4, "num_gpus": 0.25}))
    assert shares(pools)["decoding"] == 0.25
    assert sum(pool.size for pool in pools if pool.num_gpus == 1) == 7


def test_pools_that_do_not_fit_are_refused():
    with pytest.raises(PlanError, match=r"pools need 11 GPUs \(.*decoding 9 x 1\), the run may use 8"):
        plan("256p", 8, settings=pins(decoding={"size": 9}))
    with pytest.raises(PlanError, match=r"pools need 1 GPUs \(decoding 1 x 1\), the run may use 0"):
        plan("256p", 0, settings=pins(decoding={"num_gpus": 1}))


def test_pools_tell_what_their_actors_need_of_a_gpu():
    pools = plan("1080p", 8, GpuMemory(NEEDED_GB, 80))
    assert {pool.stage: pool.gpu_memory_gb for pool in pools} == {**NEEDED_GB, "conditioning": 20.0, "writing": None}


def test_an_actor_on_the_cpu_needs_nothing_of_a_gpu_and_there_are_enough_of_them():
    settings = pins(decoding={"num_gpus": 0})
    pools = plan("1080p", 8, GpuMemory({**NEEDED_GB, "decoding": 500}, 80), settings)
    assert {pool.stage: pool.gpu_memory_gb for pool in pools}["decoding"] is None
    assert sizes(pools)["decoding"] * 31 >= 5.8 * sizes(pools)["super_resolution"]
    assert all(pool.gpu_memory_gb is None for pool in plan("1080p", 0))


def test_an_actor_that_needs_more_than_a_gpu_has_is_refused():
    memory = GpuMemory({**NEEDED_GB, "super_resolution": 117}, 80)
    reason = r"pool super_resolution needs 117 GB of GPU memory, a GPU has 80: precision: fp8, shorter clips"
    with pytest.raises(PlanError, match=reason):
        plan("1080p", 8, memory)
    pools = plan("1080p", 8, GpuMemory(memory.actors_gb))
    assert {pool.stage: pool.gpu_memory_gb for pool in pools}["super_resolution"] == 117, "told, not refused"


def test_actors_that_do_not_fit_one_gpu_together_are_refused():
    reason = (
        r"pools that share a GPU need 138 GB of its memory \(conditioning 20, base_generation 33, super_resolution "
        r"42, decoding 43\), a GPU has 80: 4 GPUs give each pool its own"
    )
    with pytest.raises(PlanError, match=reason):
        plan("1080p", 1, GpuMemory(NEEDED_GB, 80))
    assert sum(shares(plan("1080p", 1, GpuMemory(NEEDED_GB, 141))).values()) == pytest.approx(1)


def test_the_bottleneck_has_an_actor_on_every_gpu_where_all_others_fit_beside_it():
    pools = plan("1080p", 2, GpuMemory(NEEDED_GB, 141))
    assert sizes(pools) == {**dict.fromkeys(SECONDS["1080p"], 1), "super_resolution": 2}
    assert clips_per_second(pools, SECONDS["1080p"]) == pytest.approx(2 / 38.5)


def test_two_gpus_of_80_gb_are_enough_for_540p():
    memory = GpuMemory({"conditioning": 20, "base_generation": 33, "super_resolution": 39, "decoding": 12}, 80)
    assert shares(plan("540p", 2, memory)) == {
        "conditioning": 0.1,
        "base_generation": 0.8,
        "super_resolution": 0.8,
        "decoding": 0.1,
    }


def test_shares_by_memory_where_heavy_and_light_do_not_fit():
    """Any two fit a GPU together, but no three do."""
    even = GpuMemory(dict.fromkeys(NEEDED_GB, 30), 80)
    assert shares(plan("540p", 2, even)) == dict.fromkeys(NEEDED_GB, 0.375)


def test_shares_by_memory_are_not_taken_where_an_actor_might_find_no_place():
    """Two and two of these fit two GPUs, but Ray could put the two smaller ones together first."""
    memory = GpuMemory({"conditioning": 30, "base_generation": 30, "super_resolution": 50, "decoding": 50}, 80)
    with pytest.raises(PlanError, match="pools that share a GPU need"):
        plan("540p", 2, memory)


def test_pinned_pools_that_may_meet_on_a_gpu_are_held_against_its_memory():
    settings = pins(decoding={"num_gpus": 0.5, "size": 4})
    pools = plan("1080p", 8, GpuMemory({**NEEDED_GB, "decoding": 40}, 80), settings)
    assert sizes(pools)["decoding"] == 4
    with pytest.raises(PlanError, match=r"need 86 GB of its memory \(decoding 43, decoding 43\), a GPU has 80"):
        plan("1080p", 8, GpuMemory(NEEDED_GB, 80), settings)


@pytest.mark.parametrize(("num_cpus", "num_nodes"), [(2, 1), (8, 1), (9, 1), (16, 2), (12, 4), (1000, 8)])
@pytest.mark.parametrize("num_gpus", [0, 8])
def test_actors_leave_a_cpu_on_every_node(num_gpus, num_cpus, num_nodes):
    pools = plan("540p", 0, cluster=Cluster(num_gpus, num_cpus, num_nodes))
    assert all(pool.num_cpus > 0 for pool in pools)
    used = sum(pool.size * pool.num_cpus for pool in pools)
    assert used <= num_cpus - num_nodes + 1e-9
    usual = 1.0 if num_gpus else 0.5
    sparse = max(pool.num_cpus for pool in pools) < usual
    assert sparse == (sum(pool.size for pool in pools) * usual > num_cpus - num_nodes), "no less than there is"


def test_cpus_that_are_not_known_are_not_checked():
    assert all(pool.num_cpus == 1 for pool in plan("540p", 0, cluster=Cluster(64, None)))


def test_pinned_cpus_that_leave_none_are_refused():
    settings = pins(decoding={"size": 3, "num_cpus": 4})
    reason = (
        r"pools need 12\.04 CPUs \(most of them decoding, 3 x 4\) and 1 stays free, the cluster has 13: "
        r"14 CPUs would do, or a lower pools\.decoding\.num_cpus or size"
    )
    with pytest.raises(PlanError, match=reason):
        plan("540p", 0, settings=settings, cluster=Cluster(0, 13))
    assert sizes(plan("540p", 0, settings=settings, cluster=Cluster(0, 14)))["decoding"] == 3


def test_in_phases_each_stage_has_all_gpus_to_itself():
    memory = GpuMemory(NEEDED_GB, 80)
    pools = plan("1080p", 2, memory, is_phased=True)
    assert shares(pools) == dict.fromkeys(NEEDED_GB, 1.0)
    assert sizes(pools) == {**dict.fromkeys(NEEDED_GB, 2), "writing": 1}
    rate = clips_per_second(pools, SECONDS["1080p"], is_phased=True)
    assert rate == pytest.approx(1 / (38.5 / 2 + 0.2))
    assert sum(utilisation(pools, SECONDS["1080p"], is_phased=True).values()) == pytest.approx(1)
    with pytest.raises(PlanError, match=r"pool super_resolution needs 117 GB"):
        plan("1080p", 2, GpuMemory({**NEEDED_GB, "super_resolution": 117}, 80), is_phased=True)


def test_in_phases_cpus_are_needed_by_one_stage_at_a_time():
    settings = pins(conditioning={"num_cpus": 4}, decoding={"num_cpus": 4})
    cluster = Cluster(0, 5)
    assert plan("256p", 0, settings=settings, cluster=cluster, is_phased=True)
    with pytest.raises(PlanError, match="pools need"):
        plan("256p", 0, settings=settings, cluster=cluster)


def how(memory, execution="auto", settings=None, num_gpus=1):
    lane, cluster = Lane("distill", "1080p"), Cluster(num_gpus)
    return plan_lane(lane, settings or Settings(), cluster, SECONDS["1080p"], memory, execution=execution)


def test_a_lane_is_phased_where_only_so_it_fits_the_memory():
    assert not how(GpuMemory(NEEDED_GB, 141)).is_phased
    assert how(GpuMemory(NEEDED_GB, 80)).is_phased
    assert not how(None).is_phased


def test_what_the_user_says_decides():
    assert how(GpuMemory(NEEDED_GB, 141), "phased").is_phased
    with pytest.raises(PlanError, match=r"pools that share a GPU need 138 GB.*; execution: phased would fit"):
        how(GpuMemory(NEEDED_GB, 80), "streaming")


def test_what_neither_way_mends_is_told_as_streaming_lacks_it():
    with pytest.raises(PlanError, match=r"pool super_resolution needs 99.4 GB of GPU memory, a GPU has 80") as caught:
        how(GpuMemory({**NEEDED_GB, "super_resolution": 99.4}, 80))
    assert "phased" not in str(caught.value)
    with pytest.raises(PlanError, match=r"pools that share a GPU need .* GB"):
        how(GpuMemory(NEEDED_GB, 80), settings=pins(decoding={"size": 9}))
