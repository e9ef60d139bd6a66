import pytest

from robe.train import TrainConfig
from robe.train.schedule import rate_factor


def factors(config, steps, *, epoch=0.0, drops=0):
    return [rate_factor(config, step, epoch, drops) for step in steps]


def test_nothing_asked_for():
    assert factors(TrainConfig(), [0, 10, 10**6], epoch=3, drops=5) == [1, 1, 1]


def test_warm_up():
    assert factors(TrainConfig(warmup_steps=4), range(6)) == [0.25, 0.5, 0.75, 1, 1, 1]


def test_exponential_decay():
    assert rate_factor(TrainConfig(learning_rate_decay=0.5), 0, 1.5, 0) == pytest.approx(0.5**1.5)


def test_polynomial_decay():
    config = TrainConfig(decay_start_step=10, decay_steps=4)
    assert factors(config, [8, 9, 10, 11, 12, 13, 99]) == [1, 1, 0.75**2, 0.5**2, 0.25**2, 0, 0]


def test_drops_on_plateaus():
    assert rate_factor(TrainConfig(plateau_factor=0.1), 7, 0, 2) == pytest.approx(0.01)


@pytest.mark.parametrize(("rule", "factor"), [("linear", 4), ("sqrt", 2)])
def test_batch_size_rule(rule, factor):
    assert rate_factor(TrainConfig(batch_size=8192, base_batch_size=2048, batch_scaling=rule), 0, 0, 0) == factor


def test_all_together():
    config = TrainConfig(warmup_steps=10, plateau_factor=0.5, batch_size=100, base_batch_size=50)
    assert rate_factor(config, 4, 0, 1) == pytest.approx(2 * 0.5 * 0.5)
