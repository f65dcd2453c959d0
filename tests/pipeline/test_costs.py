from dataclasses import replace

import pytest
import yaml

from actors.request import ClipRequest
from model.capabilities import Samplers
from model.geometry import ClipLength, latent_size
from model.operations import transformer_flops
from model.packing import SequenceLayout
from model.sampling import DistilledSampling, SuperResolutionSampling
from model.variants import release_config
from pipeline.costs import CostError, CostModel, CostTable, load_costs, published_costs
from pipeline.lane import Lane
from tests.tiny_checkpoint import tiny_config

MODEL = CostModel(published_costs())


def clip(resolution="256p", **values):
    return ClipRequest(id="a", prompt="p", language="en", resolution=resolution, **values)


def seconds(request, model=MODEL, mode="distill"):
    return model.lane_seconds(Lane(mode, request.resolution), [request])


def passes_petaflop(variant, size, clip_seconds):
    length = ClipLength.from_seconds(clip_seconds)
    layout = SequenceLayout(length.num_video_latents, *latent_size(*size), length.num_audio_latents, 300)
    return sum(transformer_flops(release_config(variant), layout)) / 1e15


@pytest.mark.parametrize(("resolution", "total"), [("256p", 2.0), ("540p", 8.0), ("1080p", 38.4)])
def test_the_clip_of_the_paper_costs_what_the_paper_says(resolution, total):
    found = seconds(clip(resolution, seconds=5))
    assert sum(found[stage] for stage in found if stage not in ("conditioning", "writing")) == pytest.approx(total)
    assert found == seconds(clip(resolution)), "five seconds are the default"


@pytest.mark.parametrize(
    ("variant", "size", "petaflop"),
    [("distill", (448, 256), 0.10), ("sr_540p", (896, 512), 0.5), ("sr_1080p", (1920, 1088), 3.8)],
)
def test_operations_of_a_pass_are_those_of_the_model_card(variant, size, petaflop):
    assert passes_petaflop(variant, size, 5) == pytest.approx(petaflop, rel=0.05)


def test_longer_clips_cost_their_operations_and_pixels():
    short, long = (seconds(clip("540p", seconds=s)) for s in (5, 15))
    for stage, variant, size in (
        ("base_generation", "distill", (448, 256)),
        ("super_resolution", "sr_540p", (896, 512)),
    ):
        ratio = passes_petaflop(variant, size, 15) / passes_petaflop(variant, size, 5)
        assert long[stage] / short[stage] == pytest.approx(ratio)
        assert ratio > 3, "attention grows with the square"
    assert long["decoding"] / short["decoding"] == pytest.approx(3, rel=0.01)
    assert long["conditioning"] == short["conditioning"]


def test_local_windows_grow_with_the_length_not_with_its_square():
    at_1080p, at_540p = (
        seconds(clip(resolution, seconds=15))["super_resolution"] / seconds(clip(resolution))["super_resolution"]
        for resolution in ("1080p", "540p")
    )
    assert at_1080p < 5
    full = replace(release_config("sr_1080p"), local_attention_layers=())
    without_windows = replace(MODEL, networks={**MODEL.networks, "sr_1080p": full})
    longer = [seconds(clip("1080p", seconds=s), without_windows)["super_resolution"] for s in (5, 15)]
    assert longer[1] / longer[0] > 1.2 * at_1080p
    assert at_540p > 3


def test_guided_generation_takes_two_passes_of_four_times_as_many_steps():
    distilled, guided = seconds(clip()), seconds(clip(), mode="base")
    assert guided["base_generation"] == pytest.approx(8 * distilled["base_generation"])
    assert guided["decoding"] == distilled["decoding"]


def test_samplers_count():
    samplers = Samplers(distill=DistilledSampling(num_steps=4), super_resolution=SuperResolutionSampling(guidance=2.0))
    found, usual = seconds(clip("540p"), replace(MODEL, samplers=samplers)), seconds(clip("540p"))
    assert found["base_generation"] == pytest.approx(usual["base_generation"] / 2)
    assert found["super_resolution"] == pytest.approx(usual["super_resolution"] * 2)


def test_a_lane_costs_the_average_of_its_clips():
    lane, short, long = Lane("distill", "256p"), clip(seconds=2), clip(seconds=10)
    mixed = MODEL.lane_seconds(lane, [short, long], [3, 1])
    for stage in lane.stages:
        assert mixed[stage] == pytest.approx((3 * seconds(short)[stage] + seconds(long)[stage]) / 4)


def test_a_recording_of_known_length_counts_and_an_unknown_one_is_taken_for_the_default():
    assert seconds(clip(audio="a.wav", seconds=60))["decoding"] == pytest.approx(12 * 0.4, rel=0.01)
    assert seconds(clip(audio="a.wav"))["decoding"] == pytest.approx(0.4, rel=0.01)


def test_another_network_changes_how_length_counts():
    """In a small network attention is a larger part, so it grows faster."""
    tiny = replace(MODEL, networks={"distill": tiny_config("distill")})
    growth = [
        seconds(clip(seconds=15), m)["base_generation"] / seconds(clip(), m)["base_generation"] for m in (MODEL, tiny)
    ]
    assert growth[1] > 1.5 * growth[0]


def test_observed_medians_replace_figures():
    lane, fast = Lane("distill", "256p"), {"conditioning": 0.2, "base_generation": 0.8, "decoding": 0.4}
    clips = [(clip(seconds=5), fast)] * 3 + [(clip(seconds=5), dict.fromkeys(fast, 99))]
    found = seconds(clip(), MODEL.observed(lane, clips))
    assert {stage: found[stage] for stage in fast} == pytest.approx(fast)
    assert found["writing"] == seconds(clip())["writing"], "nothing was seen of it"
    table = MODEL.observed(lane, clips).table
    assert table.figure("base_generation", "256p").source == "observed, 4 clips"
    assert table.figure("base_generation", "540p").source == "published"


def test_observed_clips_of_other_lengths_tell_the_same():
    lane = Lane("base", "540p")
    twice = [
        (c, {s: 2 * t for s, t in seconds(c, mode="base").items()})
        for c in (clip("540p", seconds=s) for s in (2, 7, 12))
    ]
    found, usual = (seconds(clip("540p"), model, "base") for model in (MODEL.observed(lane, twice), MODEL))
    assert found == pytest.approx({stage: 2 * value for stage, value in usual.items()})


def test_too_few_clips_or_such_of_unknown_length_replace_nothing():
    lane = Lane("distill", "256p")
    assert MODEL.observed(lane, [(clip(), {"decoding": 9.0})] * 2).table == MODEL.table
    assert MODEL.observed(lane, [(clip(audio="a.wav"), {"decoding": 9.0})] * 5).table == MODEL.table


def write_costs(tmp_path, device, **changes):
    figure = {"stage": "decoding", "resolution": "256p", "seconds": 0.25, "clip_seconds": 2.5, "source": "measured"}
    path = tmp_path / "costs.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "device": device, "figures": [{**figure, **changes}]}))
    return str(path)


def test_measured_figures_come_before_published_ones(tmp_path):
    table = load_costs(write_costs(tmp_path, "NVIDIA H100 80GB HBM3"))
    found = seconds(clip(), CostModel(table))
    assert found["decoding"] == pytest.approx(0.5, rel=0.02), "twice as long as what was measured"
    assert found["base_generation"] == 1.6
    assert CostTable.from_yaml(table.to_yaml(), "again") == table


def test_figures_of_a_gpu_say_nothing_about_a_cpu(tmp_path):
    table = load_costs(write_costs(tmp_path, "cpu"))
    assert table.is_of_cpu
    assert {figure.stage for figure in table.figures} == {"decoding", "writing"}
    with pytest.raises(
        CostError, match=r"no figure for decoding at 540p on cpu, there is 256p; jobs\.benchmark --reso"
    ):
        table.figure("decoding", "540p")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": -1}, r"figures\.0\.seconds=-1: input should be greater than 0"),
        ({"stage": "dreaming"}, r"figures\.0\.stage='dreaming': input should be 'conditioning'"),
        ({"passes": 0}, r"figures\.0\.passes=0"),
        ({"colour": "red"}, r"figures\.0\.colour='red': extra inputs are not permitted"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, changes, message):
    with pytest.raises(CostError, match=message) as caught:
        load_costs(write_costs(tmp_path, "H100", **changes))
    assert "\n" not in str(caught.value)


def test_other_wrong_files_are_told_too(tmp_path):
    path = tmp_path / "costs.yaml"
    path.write_text("{")
    with pytest.raises(CostError, match="is not YAML"):
        load_costs(str(path))
    figure = {"stage": "decoding", "resolution": "256p", "seconds": 1, "source": "x"}
    path.write_text(yaml.safe_dump({"version": 1, "device": "H100", "figures": [figure, figure]}))
    with pytest.raises(CostError, match="decoding at 256p must be there once"):
        load_costs(str(path))
    path.write_text(yaml.safe_dump({"version": 2, "device": "H100", "figures": []}))
    with pytest.raises(CostError, match="version=2: input should be 1"):
        load_costs(str(path))
