"""Objectives: modules whose forward takes a batch of tokens and returns named loss terms.

An objective owns what trains and is what `accelerate` wraps. `loss` is what the optimiser minimises; the other
terms are reported. Language modelling serves the sparse model and any Hugging Face causal LM.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a peak learning rate and ε; None means the run's own (`TrainConfig`).

    `sharkfin` says whether the rate is multiplied by 1/√density on the way.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr: float | None = None
    eps: float | None = None
    sharkfin: bool = True


class Objective(nn.Module, ABC):
    """What the training loop trains: a module that says what trains, what is kept sparse, and what its loss is.

    A base class and no protocol: from Python 3.12 on, a check against a protocol does not see what a module registers
    (its submodules and parameters), and `projected` is one.
    """

    projected: nn.Module | None
    """The module whose weights are kept sparse; None for none."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Everything that trains."""

    @abstractmethod
    def forward(self, tokens: Int[Tensor, "B T"], draw: int) -> dict[str, Tensor]:
        """Loss terms of one batch, `loss` among them; `draw` seeds any random choice, so that a step can be replayed."""


class LanguageModelling(Objective):
    """Next-token cross-entropy of any module that maps tokens to an output with `.logits`."""

    def __init__(self, model: nn.Module, projected: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.projected = projected

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group: all parameters that require gradients."""
        return [ParameterGroup("model", trainable(self.model.parameters()))]

    def forward(self, tokens: Int[Tensor, "B T"], draw: int) -> dict[str, Tensor]:
        """`loss`: mean cross-entropy, nats per token."""
        return {"loss": next_token_loss(self.model(tokens).logits, tokens)}


def trainable(parameters: Iterable[nn.Parameter]) -> tuple[nn.Parameter, ...]:
    """The parameters that require gradients."""
    return tuple(p for p in parameters if p.requires_grad)


def next_token_loss(logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of position t against token t + 1, nats per token, in fp32."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten().long())
