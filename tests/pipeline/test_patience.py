import pytest

from pipeline.patience import Patience, Sight, is_short, judge
from pipeline.pools import LanePlan, Pool

PATIENCE = Patience(stall_s=100, replacement_s=10)


@pytest.mark.parametrize(
    ("sight", "verdict"),
    [
        (Sight(idle_s=1, barren_s=1, short_s=0), "goes on"),
        (Sight(idle_s=1, barren_s=500, short_s=0), "goes on"),  # actors report: a clip may take long
        (Sight(idle_s=101, barren_s=101, short_s=0), "stalled"),
        (Sight(idle_s=101, barren_s=50, short_s=0), "goes on"),  # a lost board has nothing to tell
        (Sight(idle_s=1, barren_s=1, short_s=500), "goes on"),  # fewer actors, but clips come
        (Sight(idle_s=1, barren_s=11, short_s=11), "cluster shrank"),
        (Sight(idle_s=1, barren_s=500, short_s=5), "goes on"),  # a replacement may come
        (Sight(idle_s=500, barren_s=500, short_s=500), "cluster shrank"),
        (Sight(idle_s=1, barren_s=1, short_s=0, spare_s=11), "cluster grew"),
        (Sight(idle_s=1, barren_s=1, short_s=0, spare_s=9), "goes on"),  # it may go again
    ],
)
def test_a_lane_is_ended_only_where_it_does_not_go_on_by_itself(sight, verdict):
    assert judge(sight, PATIENCE) == verdict


POOLS = [Pool("base_generation", 2, 0.5, 1), Pool("decoding", 2, 0.5, 0.5), Pool("writing", 1, 1, 0)]


@pytest.mark.parametrize(
    ("resources", "short"),
    [
        ({"GPU": 3, "CPU": 3}, False),
        ({"GPU": 8, "CPU": 64}, False),
        ({"GPU": 2, "CPU": 64}, True),
        ({"CPU": 64}, True),
        ({"GPU": 3, "CPU": 2}, True),
    ],
)
def test_a_cluster_is_short_where_the_pools_find_no_place(resources, short):
    assert is_short(LanePlan(tuple(POOLS), is_phased=False), resources) == short


def test_pools_that_take_turns_need_no_more_than_the_largest():
    plan = LanePlan(tuple(POOLS), is_phased=True)
    assert not is_short(plan, {"GPU": 2, "CPU": 1})
    assert is_short(plan, {"GPU": 1, "CPU": 1})
