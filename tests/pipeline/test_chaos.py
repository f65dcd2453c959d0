"""Blows as they are drawn, and the comparison of what came out."""

from collections import Counter
from copy import deepcopy

import pytest
import torch

from actors.fingerprint import LaneFingerprint
from actors.row import new_row, pack
from actors.stage import Compute
from actors.writing import Writing
from pipeline.chaos.blows import KINDS, SHARES, draw_blows
from pipeline.chaos.comparison import Outcomes, find_differences, read_outcomes
from pipeline.ledger import Ledger
from tests.media_files import colour_bars, make_clip, speech_like

IDS = ["a", "b", "c"]
SOUND = Outcomes(
    clips={"a": {"seed": 1, "mp4": {"media_sha256": "x"}}, "b": {"seed": 2, "mp4": {"media_sha256": "y"}}},
    dead_letters=[("c", "image: no such file")],
    table=["a", "b"],
)


def test_shares_make_a_whole():
    assert sum(SHARES.values()) == pytest.approx(1)
    assert {*SHARES} == {*KINDS}


@pytest.mark.parametrize(("num_blows", "num_clips"), [(1, 5), (7, 12), (50, 190)])
def test_as_many_blows_as_asked_for_in_order_and_before_the_end(num_blows, num_clips):
    blows = draw_blows(num_blows, num_clips, seed=3)
    assert len(blows) == num_blows
    places = [blow.after_clips for blow in blows]
    assert places == sorted(places)
    assert places[-1] <= 0.85 * num_clips


def test_a_seed_changes_the_order_alone():
    one, same, other = (draw_blows(50, 190, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert Counter(blow.kind for blow in one) == Counter(blow.kind for blow in other)
    assert {blow.kind for blow in one} == {*KINDS}


def test_no_blows_are_refused():
    with pytest.raises(ValueError, match="num_blows must be at least 1, got 0"):
        draw_blows(0, 10, seed=0)


def test_equal_outcomes_have_no_differences():
    assert find_differences(IDS, SOUND, deepcopy(SOUND)) == []


def broken(change):
    other = deepcopy(SOUND)
    change(other)
    return find_differences(IDS, SOUND, other)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda o: o.clips["a"].update(mp4={"media_sha256": "z"}), "clip a differs in mp4"),
        (lambda o: o.clips["a"].update(damaged="z"), "disturbed: a is damaged"),
        (lambda o: o.clips.pop("b"), "disturbed: row b has 0 outcomes"),
        (lambda o: o.dead_letters.append(("a", "died")), "disturbed: row a has 2 outcomes"),
        (lambda o: o.dead_letters.append(("d", "died")), "disturbed: d is no row of the manifest"),
        (lambda o: o.table.append("a"), "disturbed: the table of results and the clips differ in a"),
        (lambda o: o.table.remove("b"), "disturbed: the table of results and the clips differ in b"),
        (lambda o: o.strays.append("run.lock"), "disturbed: run.lock was left behind"),
        (lambda o: o.dead_letters.__setitem__(0, ("c", "x")), "row c failed otherwise: image: no such file and x"),
    ],
)
def test_every_difference_is_told(change, line):
    assert line in broken(change)


def outcomes_of(output, mp4):
    """Those of a run that has written this clip alone."""
    tensors = {
        name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in (("mp4", mp4), ("poster", b"p"))
    }
    request = '{"id": "a", "prompt": "x", "language": "en"}'
    row = Writing(Compute(), str(output), LaneFingerprint("lane"), {})(
        {**new_row("a", request), "payload": pack(tensors)}
    )
    assert row["failure"] is None
    ledger = Ledger(str(output))
    ledger.write_results(ledger.fingerprints({"a"}))
    ledger.write_dead_letters(b"")
    (output / "ledger").rmdir()  # a store has no empty folders
    return read_outcomes(str(output))


def test_clips_made_at_other_times_are_the_same_and_others_are_not(tmp_path):
    def made(year, num_frames=5):
        tags = {"creation_time": f"{year}-01-02T03:04:05Z"}
        return make_clip(colour_bars(num_frames), speech_like(9000), metadata=tags)

    first, second = made(2026), made(2027)
    assert first != second
    one, same, other = (
        outcomes_of(tmp_path / name, mp4)
        for name, mp4 in (("one", first), ("same", second), ("other", made(2026, num_frames=6)))
    )
    assert find_differences(["a"], one, same) == []
    assert find_differences(["a"], one, other) == ["clip a differs in mp4"]
    path = tmp_path / "same/clips/a.mp4"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert find_differences(["a"], one, read_outcomes(str(tmp_path / "same")))[0] == "disturbed: a is damaged"
