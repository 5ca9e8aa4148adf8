"""Settings of one pruning run, and of a comparison of two models by circuits."""

from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from foundation.settings import Settings

MODELS = ("sparse", "dense")
"""What a comparison compares."""


class Elimination(NamedTuple):
    """How nodes that learned masks left over are eliminated (see `eliminate`)."""

    rounds: int
    """gradients taken at most, by each start and after; 0: none"""
    starts: int = 1
    seed: int = 0
    """of the random factors of further starts"""
    tied: bool = True
    """whether a query channel goes together with its key"""


class PruneConfig(Settings):
    """Settings of one pruning run."""

    target_loss: float = Field(0.15, gt=0, description="binary task loss the circuit must reach, in nats")
    seeds: int = Field(1, ge=1, description="mask seeds trained at once; the one with the fewest edges is the circuit")
    steps: int = Field(200, ge=1, description="optimiser steps of the masks")
    batch_pairs: int = Field(16, ge=1, description="pairs per step")
    pairs: int = Field(256, ge=2, description="training pairs, and half as many for validation")
    k_coef: float = Field(3e-3, ge=0, description="loss per node kept, in nats")
    ramp: float = Field(0.6, ge=0, lt=1, description="fraction of steps over which k_coef rises from 0 to its value")
    lr: float = Field(0.03, gt=0, description="peak learning rate of the masks (linear decay to 0)")
    warmup: float = Field(0.05, ge=0, lt=1, description="fraction of steps with rising learning rate")
    beta2: float = Field(0.95, gt=0, lt=1, description="AdamW second-moment decay")
    weight_decay: float = Field(1e-3, ge=0, description="AdamW weight decay of τ")
    gradient_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    temperature: float = Field(1.0, gt=0, description="of the sigmoid that stands in for the step in the backward pass")
    init_noise: float = Field(1e-2, ge=0, description="standard deviation of τ at the start")
    init_bias: float = Field(0.1, description="mean of τ at the start")
    tied: bool = Field(True, description="one mask for the query and the key of a channel")
    ablation: Literal["mean", "zero"] = Field("mean", description="what removed nodes are frozen at")
    signal: Literal["complete", "random", "adversarial"] = Field(
        "complete",
        description="which removed nodes are ablated while learning: all, a random half, or the worst subset",
    )
    adversary_steps: int = Field(8, ge=1, description="ascent steps per step of the masks (adversarial signal)")
    adversary_step_size: float = Field(0.25, gt=0, le=1, description="of one ascent step, in units of a whole node")
    calibrate_in_decision: bool = Field(
        True,
        description="whether every decision about nodes and edges fits scale and shift of the two logits' difference first",
    )
    max_scale: float = Field(
        4.0, gt=0, description="the most that calibration may amplify the circuit's logit difference by"
    )
    elimination_rounds: int = Field(
        1000, ge=0, description="gradients taken at most while removing nodes the learned masks left over; 0: keep them"
    )
    elimination_starts: int = Field(
        8,
        ge=1,
        description="eliminations tried, all but the first with perturbed harms; the one that leaves the fewest edges counts",
    )
    edge_steps: int = Field(
        100, ge=0, description="optimiser steps of the masks of edges between kept nodes; 0: keep all"
    )
    edge_coef: float = Field(3e-3, ge=0, description="loss per edge kept, in nats")
    seed: int = Field(0, ge=0, description="of masks and batches; further seeds count on from it")

    @property
    def elimination(self) -> Elimination:
        """What these settings say about elimination."""
        return Elimination(self.elimination_rounds, self.elimination_starts, self.seed, self.tied)


class CompareConfig(Settings):
    """Settings of a comparison, the same for both models; what is not here is as in `PruneConfig`."""

    targets: list[float] = Field(
        [0.05, 0.1, 0.15, 0.25, 0.4], min_length=1, description="task losses to reach, in nats; repeatable"
    )
    at: float = Field(0.15, gt=0, description="the target the main figure is given at, in nats")
    k_coefs: list[float] = Field(
        [3e-3, 6e-3], min_length=1, description="losses per node kept to try, in nats; repeatable"
    )
    seeds: int = Field(1, ge=1, description="mask seeds per k_coef; the fewest edges count")
    steps: int = Field(400, ge=1, description="optimiser steps of the masks; dense models need more than sparse ones")
    batch_pairs: int = Field(16, ge=1, description="pairs per step")
    pairs: int = Field(256, ge=2, description="training pairs")
    evaluate_pairs: int = Field(32, ge=2, description="validation pairs, and held-out pairs")
    edge_steps: int = Field(
        100,
        ge=0,
        description="optimiser steps of edge masks, learned at the main target beside the node masks; 0: none",
    )
    calibrate_in_decision: bool = Field(
        True,
        description="whether every decision about nodes and edges fits scale and shift of the two logits' difference first",
    )
    elimination_rounds: int = Field(
        1000,
        ge=0,
        description="gradients taken at most per target while removing nodes the learned masks left over; 0: keep them",
    )
    ablation: Literal["mean", "zero"] = Field("mean", description="what removed nodes are frozen at")
    seed: int = Field(0, ge=0, description="of pairs, masks, batches and intervals")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(target > 0 for target in self.targets) or not all(k >= 0 for k in self.k_coefs):
            raise ValueError("targets must be above 0 and k_coefs at least 0")
        if self.at not in self.targets:
            raise ValueError(f"'at' ({self.at}) must be one of the targets")
        return self

    def pruning(self, k_coef: float) -> PruneConfig:
        """The settings of one pruning run."""
        return PruneConfig(
            steps=self.steps, batch_pairs=self.batch_pairs, pairs=self.pairs, k_coef=k_coef, ablation=self.ablation,
            edge_steps=self.edge_steps, elimination_rounds=self.elimination_rounds, elimination_starts=1, seed=self.seed,
            calibrate_in_decision=self.calibrate_in_decision,
        )  # fmt: skip
