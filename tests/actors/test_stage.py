import json
import threading
import time

import pytest
import torch

from actors.row import Failure, RowError, new_row, pack, unpack
from actors.stage import Compute, Stage

REQUEST = json.dumps({"id": "a", "prompt": "x", "language": "en"})


class Doubling(Stage):
    name = "decoding"

    def process(self, work):
        work.notes.append("doubled")
        work.tensors = {"x": 2 * work.tensors.get("x", torch.ones(2, dtype=torch.bfloat16))}


class Refusing(Stage):
    name = "conditioning"

    def process(self, work):
        raise RowError("image", "a.png", "cannot be read")


class Broken(Stage):
    name = "writing"

    def process(self, work):
        raise ZeroDivisionError("division by zero")


def test_a_row_carries_tensors_times_and_notes_from_stage_to_stage():
    row = Doubling(Compute())(Doubling(Compute())(new_row("a", REQUEST)))
    assert torch.equal(unpack(row["payload"])["x"], torch.full((2,), 4, dtype=torch.bfloat16))
    assert json.loads(row["notes"]) == ["doubled", "doubled"]
    assert json.loads(row["stage_seconds"])["decoding"] >= 0
    assert row["failure"] is None


def test_a_refusal_names_the_field_and_drops_the_payload():
    row = Refusing(Compute())({**new_row("a", REQUEST), "payload": pack({"x": torch.ones(1)})})
    assert Failure.from_json(row["failure"]) == Failure("conditioning", "image", "a.png", "cannot be read")
    assert row["payload"] == b""


def test_an_unexpected_error_fails_the_row_and_not_the_stage():
    stage = Broken(Compute())
    failure = Failure.from_json(stage(new_row("a", REQUEST))["failure"])
    assert failure == Failure("writing", "", None, "ZeroDivisionError: division by zero")


def test_a_broken_gpu_fails_the_run_and_not_row_after_row():
    class Sticky(Broken):
        def process(self, work):
            raise torch.AcceleratorError("unspecified launch failure")

    with pytest.raises(torch.AcceleratorError):
        Sticky(Compute())(new_row("a", REQUEST))


def test_a_failed_row_passes_untouched():
    failed = Refusing(Compute())(new_row("a", REQUEST))
    assert Doubling(Compute())(failed) == failed


def test_payloads_keep_dtype_shape_and_values_even_of_views():
    tensors = {"view": torch.arange(12).reshape(3, 4).T, "half": torch.randn(2, 3).half(), "empty": torch.zeros(0, 5)}
    for name, tensor in unpack(pack(tensors)).items():
        assert torch.equal(tensor, tensors[name])
        assert tensor.dtype == tensors[name].dtype


def test_threads_are_set_in_whichever_thread_calls():
    seen = []

    class Counting(Doubling):
        def process(self, work):
            seen.append(torch.get_num_threads())

    stage = Counting(Compute(num_threads=2))
    torch.set_num_threads(1)
    try:
        thread = threading.Thread(target=stage, args=(new_row("a", REQUEST),))
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(1)
    assert seen == [2]


class Slow(Doubling):
    """Works for 0.2 s while nothing else does, and then for 0.1 s beside others."""

    def process(self, work):
        with self.lock:
            time.sleep(0.2)
        time.sleep(0.1)
        super().process(work)


def test_seconds_of_a_stage_are_its_own_without_waiting_for_other_clips():
    stage, rows = Slow(Compute()), []
    threads = [threading.Thread(target=lambda: rows.append(stage(new_row("a", REQUEST)))) for _ in range(3)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.perf_counter() - began >= 0.7, "they took turns"
    assert [json.loads(row["stage_seconds"])["decoding"] for row in rows] == [pytest.approx(0.3, abs=0.15)] * 3


def test_a_turn_is_given_up_by_an_error():
    class Failing(Doubling):
        def process(self, work):
            with self.lock:
                raise ZeroDivisionError

    stage = Failing(Compute())
    assert [stage(new_row("a", REQUEST))["failure"] is None for _ in range(2)] == [False, False]
