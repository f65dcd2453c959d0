import threading
import time

import pytest

from pipeline.gate import Gate


def start(target):
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_many_share_and_one_is_alone():
    gate, inside, most, alone_beside = Gate(), [], [], []

    def shared():
        with gate.shared():
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    def alone():
        with gate.alone():
            alone_beside.append(len(inside))
            time.sleep(0.02)
            alone_beside.append(len(inside))

    threads = [start(target) for target in [shared, shared, alone, shared, alone, shared] * 5]
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert max(most) > 1
    assert alone_beside == [0] * 20


def test_who_waits_to_be_alone_goes_before_those_who_come_later():
    gate, order, is_in = Gate(), [], threading.Event()

    def first():
        with gate.shared():
            is_in.set()
            time.sleep(0.2)

    def note(name, enter):
        with enter():
            order.append(name)

    holder = start(first)
    is_in.wait()
    alone = start(lambda: note("alone", gate.alone))
    time.sleep(0.05)
    late = start(lambda: note("late", gate.shared))
    for thread in (holder, alone, late):
        thread.join(timeout=10)
    assert order == ["alone", "late"]


@pytest.mark.parametrize("enter", ["shared", "alone"])
def test_an_error_inside_lets_the_others_in(enter):
    gate = Gate()
    with pytest.raises(ValueError, match="inside"), getattr(gate, enter)():
        raise ValueError("inside")
    with gate.alone():
        pass
