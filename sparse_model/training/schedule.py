"""Density anneal and the sharkfin learning rate (METHOD §2): pure functions of the step."""

import math

from sparse_model.training.train_config import TENSOR_KINDS, TensorKind, TrainConfig


def density_at(config: TrainConfig, step: int, kind: TensorKind = "matrix") -> float:
    """Kept fraction of a kind of tensor after step `step` (0-based): from 1 to its final value over the first `config.anneal`."""
    final = config.final_densities()[kind]
    progress = min(1.0, (step + 1) / max(1.0, config.anneal * config.steps))
    if config.anneal_shape == "exponential":
        return math.exp(progress * math.log(final))
    if config.anneal_shape == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return 1 - progress * (1 - final)


def densities_at(config: TrainConfig, step: int) -> dict[TensorKind, float]:
    """`density_at` of every kind."""
    return {kind: density_at(config, step, kind) for kind in TENSOR_KINDS}


def anneal_is_over(config: TrainConfig, step: int) -> bool:
    """Whether every density after step `step` (0-based) is the final one."""
    return set(config.final_densities().values()) == {1} or step + 1 >= config.anneal * config.steps


def learning_rate_factor(config: TrainConfig, step: int, sharkfin: bool = True) -> float:
    """What the peak rate is multiplied by at step `step`: warm-up, linear decay to 0, times 1/√density.

    Args:
        sharkfin: whether 1/√density belongs to it; it makes up for weights being few, and a bridge's are not.
    """
    warmup = max(1, round(config.warmup * config.steps))
    rise = min(1.0, (step + 1) / warmup)
    fall = (config.steps - step) / config.steps
    return rise * fall / (math.sqrt(density_at(config, step)) if sharkfin else 1.0)
