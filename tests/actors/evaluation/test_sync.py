import numpy as np
import pytest

from actors.evaluation.sync import best_lag, correlation, onset

RNG = np.random.default_rng(0)
SOUND = np.convolve(RNG.random(60), np.ones(3) / 3, mode="same")


def test_correlation_is_pearsons_over_what_both_have():
    other = RNG.random(50)
    assert correlation(SOUND, other) == pytest.approx(np.corrcoef(SOUND[:50], other)[0, 1])
    assert correlation(3 * SOUND + 1, SOUND) == pytest.approx(1)
    assert correlation(np.ones(60), SOUND) == 0


@pytest.mark.parametrize("lag", [-6, -1, 0, 2, 5])
def test_a_late_mouth_has_a_positive_lag(lag):
    assert best_lag(np.roll(SOUND, lag), SOUND) == lag


def test_there_is_no_lag_without_correlation():
    assert best_lag(np.ones(60), SOUND) is None
    assert best_lag(SOUND[:9], SOUND[:9]) is None


def test_a_sound_begins_where_it_opens_a_mouth_and_not_with_noise():
    assert onset(np.array([0.0, 0.2, 0.1, 0.3, 0.9, 0.1])) == 3
    assert onset(np.full(20, 0.2)) is None
    assert onset(np.zeros(0)) is None
