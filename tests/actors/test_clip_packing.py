import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.clip_packing import ClipPacker, _Waiting
from actors.turns import WaitedSeconds


class Network:
    """Doubles numbers; the first batch waits for a sign, so that others come meanwhile."""

    def __init__(self, max_tokens):
        self.batches, self.begun, self.go_on = [], threading.Event(), threading.Event()
        self.pack = ClipPacker(self.run, max_tokens)

    def run(self, clips):
        self.batches.append(list(clips))
        if len(self.batches) == 1:
            self.begun.set()
            assert self.go_on.wait(10)
        if "bad" in clips:
            raise ValueError("a bad clip" if len(clips) == 1 else "a bad batch")
        return [2 * clip for clip in clips]

    def results(self, clips, num_tokens=10):
        """Results and errors of clips that come one after the other while the first is computed."""
        with ThreadPoolExecutor(len(clips)) as pool:
            futures = []
            for index, clip in enumerate(clips):
                futures.append(pool.submit(self.pack, clip, num_tokens))
                if index == 0:
                    assert self.begun.wait(10)
                self.wait_until_waiting(index)
            self.go_on.set()
            return [future.exception() or future.result() for future in futures]

    def wait_until_waiting(self, number):
        end = time.monotonic() + 10
        while len(self.pack._waiting) < number:
            assert time.monotonic() < end
            time.sleep(0.001)


def test_clips_that_came_meanwhile_are_computed_together_in_their_order():
    network = Network(max_tokens=30)
    assert network.results([1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]
    assert network.batches == [[1], [2, 3, 4], [5]]


def test_without_a_budget_every_clip_is_alone():
    network = Network(max_tokens=0)
    assert network.results([1, 2, 3]) == [2, 4, 6]
    assert network.batches == [[1], [2], [3]]


def test_a_clip_over_the_budget_is_alone_and_not_lost():
    network = Network(max_tokens=30)
    assert network.results([1, 2, 3], num_tokens=31) == [2, 4, 6]
    assert network.batches == [[1], [2], [3]]


def test_a_bad_clip_fails_alone():
    network = Network(max_tokens=100)
    first, second, third, fourth = network.results([1, 2, "bad", 4])
    assert (first, second, fourth) == (2, 4, 8)
    assert str(third) == "a bad clip"
    assert network.batches == [[1], [2, "bad", 4], [2], ["bad"], [4]]


def test_errors_of_a_clip_alone_are_its_own():
    pack = ClipPacker(lambda clips: [1 / clip for clip in clips], max_tokens=10)
    with pytest.raises(ZeroDivisionError):
        pack(0, 1)
    assert pack(4, 1) == 0.25


def test_what_a_failed_batch_made_is_let_go_of_before_its_clips_are_tried_alone():
    made, alive = [], []

    class Activations:
        pass

    def run(clips):
        alive.append([reference() is not None for reference in made])
        activations = Activations()
        made.append(weakref.ref(activations))
        if len(clips) > 1 or clips == ["bad"]:
            raise MemoryError(str(activations))
        return clips

    packer = ClipPacker(run, max_tokens=100)
    packer._waiting += [_Waiting("good", 1), _Waiting("bad", 1)]
    batch = list(packer._waiting)
    with pytest.raises(MemoryError):
        packer("bad", 1)
    assert batch[0].result.result() == "good"
    assert alive == [[], [False], [False, False], [False, False, False]]


def test_too_few_results_are_an_error_of_every_clip():
    with pytest.raises(RuntimeError, match="0 results came of 1 clips"):
        ClipPacker(lambda clips: [], max_tokens=10)(1, 1)


def test_a_clip_s_own_seconds_are_its_share_of_the_batch_and_the_rest_is_waiting():
    waited, busy, begun = WaitedSeconds(), {}, threading.Event()

    def run(clips):
        begun.set()
        time.sleep(0.3)
        return clips

    packer = ClipPacker(run, max_tokens=100, waited=waited)

    def call(clip, num_tokens):
        began, before = time.perf_counter(), waited.total
        packer(clip, num_tokens)
        busy[clip] = time.perf_counter() - began - (waited.total - before)

    threads = [threading.Thread(target=call, args=clip) for clip in (("first", 10), ("short", 10), ("long", 50))]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert busy["first"] == pytest.approx(0.3, rel=0.4), "it was alone"
    assert busy["short"] + busy["long"] == pytest.approx(0.3, rel=0.4), "they shared one batch"
    assert busy["long"] == pytest.approx(5 * busy["short"], rel=0.2)
