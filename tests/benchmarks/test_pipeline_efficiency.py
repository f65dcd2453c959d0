"""What the benchmark counts, and that every way of running makes all clips."""

import statistics
import time

import pytest

from benchmarks.pipeline_efficiency import main, measure
from benchmarks.simulated_lane import SimulatedLane, payload_bytes, relative_seconds
from benchmarks.steady_state import SteadyState
from benchmarks.ways_to_run import WAYS


def test_start_and_end_are_no_steady_state():
    """Ten seconds until the first clip, a slow quarter, sixteen clips at two a second, a slow quarter."""
    times = [10.0 + 5 * n for n in range(8)]
    times += [times[-1] + 0.5 * n for n in range(1, 17)]
    times += [times[-1] + 7 * n for n in range(1, 9)]
    steady = SteadyState(times)
    assert (steady.begins, steady.ends) == (45, 53)
    assert steady.clips_per_s == 2
    assert steady.halves_per_s == (2, 2)
    assert steady.busy_s([(0, 45.5), (46, 47), (52, 60), (53, 54)]) == 0.5 + 1 + 1


def test_a_run_that_still_gets_faster_has_unlike_halves():
    steady = SteadyState([n**0.5 for n in range(40)])
    assert steady.halves_per_s[0] < 0.9 * steady.halves_per_s[1]


@pytest.mark.parametrize("stage", ["conditioning", "base_generation", "super_resolution", "decoding", "writing"])
def test_clips_take_what_the_figure_says_on_average_in_any_stretch(stage):
    for first in (0, 37, 100):
        factors = [relative_seconds(number, stage) for number in range(first, first + 100)]
        assert statistics.mean(factors) == pytest.approx(1, abs=0.005)
        assert 0.9 <= min(factors) < 0.91
        assert 1.09 < max(factors) <= 1.1


def test_payloads_are_as_large_as_the_releases():
    """Counted by hand: 48 channels, 32 latent frames, a sixteenth of the pixels each way, 2 bytes."""
    small, large = payload_bytes("540p"), payload_bytes("1080p")
    assert small["base_generation"] == {"video": 48 * 32 * 16 * 28 * 2, "audio": 126 * 64 * 2, "text": 300 * 3584 * 2}
    assert small["super_resolution"]["video"] == 48 * 32 * 32 * 56 * 2
    assert large["super_resolution"]["video"] == 48 * 32 * 68 * 120 * 2
    assert sum(large["super_resolution"].values()) == pytest.approx(25e6, rel=0.01)


def test_an_actor_loads_before_it_works_as_long_as_its_weights_take():
    """15.3 billion parameters in 2 bytes at 1 GB/s are 30.6 s, a hundredth of which is slept."""
    stage_class, arguments = SimulatedLane("540p", 8, 200, 0.01).stages["super_resolution"]
    started = time.monotonic()
    stage_class(**arguments)
    assert 0.306 <= time.monotonic() - started < 0.6


def test_the_bound_is_that_of_the_plans_slowest_pool():
    lane = SimulatedLane("1080p", 8, 200, 0.1)
    assert {pool.stage: pool.size for pool in lane.plan().pools if pool.num_gpus} == {
        "conditioning": 1,
        "base_generation": 1,
        "super_resolution": 5,
        "decoding": 1,
    }
    assert lane.bottleneck.stage == "super_resolution"
    assert lane.bound_per_s == pytest.approx(5 / 3.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "3"], "num_gpus must be 0, or 4 (stages) or more, got 3"),
        (["--clips", "7"], "num_clips must be at least 8, got 7"),
        (["--scale", "0"], "scale must be a number above 0, got 0.0"),
    ],
)
def test_what_cannot_be_measured_is_told(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.usefixtures("driver")
def test_every_way_makes_every_clip():
    """Of the stages of 540p decoding alone takes 1.3 s, base generation 1.6 s and super-resolution 5.1 s."""
    lane = SimulatedLane("540p", 0, 12, 0.05)
    figures = {way: measure(way, lane) for way in WAYS}
    assert {way: each["bottleneck"] for way, each in figures.items()} == dict.fromkeys(WAYS, "super_resolution")
    for way, each in figures.items():
        assert each["bound_per_s"] == pytest.approx(1 / 0.255, rel=1e-3)
        # Six clips are no steady state: those that waited for the next stage's process come faster. A whole run cannot.
        assert each["of_bound"] > 0.3, way
        assert each["beyond_s"] > 0, way
        assert 0 < each["first_s"] <= each["begins_s"] < each["ends_s"] <= each["whole_s"]
    assert 0.3 < figures["planned"]["busy"] < 1.01
