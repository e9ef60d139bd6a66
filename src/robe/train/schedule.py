"""Learning rates over the steps of a run: a function of where it stands, so that resuming needs no state for them."""

from __future__ import annotations

import math

from robe.train.config import TrainConfig


def rate_factor(config: TrainConfig, step: int, epoch: float, drops: int) -> float:
    """What every learning rate is multiplied by.

    Args:
        config: warm-up, decays, plateau and batch scaling.
        step: optimizer steps done.
        epoch: passes over the training rows done.
        drops: evaluations so far without a better validation AUC.

    Returns:
        The product of: the batch-size rule; a linear warm-up; the exponential decay per epoch; the polynomial decay of
        power 2 of MLPerf's DLRM; the drops on plateaus.
    """
    factor: float = batch_factor(config) * config.learning_rate_decay**epoch
    number = step + 1  # of this step, counted from 1 as MLPerf does: no step is lost to a rate of 0
    if number < config.warmup_steps:
        factor *= number / config.warmup_steps
    if config.decay_start_step is not None and config.decay_steps is not None and number > config.decay_start_step:
        factor *= max(0.0, 1 - (number - config.decay_start_step) / config.decay_steps) ** 2
    if config.plateau_factor is not None:
        factor *= config.plateau_factor**drops
    return factor


def batch_factor(config: TrainConfig) -> float:
    """What the batch-size rule makes of all learning rates; 1 without ``base_batch_size``."""
    if config.base_batch_size is None:
        return 1.0
    ratio = config.batch_size / config.base_batch_size
    return ratio if config.batch_scaling == "linear" else math.sqrt(ratio)
