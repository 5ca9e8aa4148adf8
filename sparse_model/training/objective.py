"""Objectives: modules whose forward takes a batch of tokens and returns named loss terms.

An objective owns what trains and is what `accelerate` wraps. `loss` is what the optimiser minimises; the other
terms are reported. Language modelling serves the sparse model and any Hugging Face causal LM.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a peak learning rate and ε; None means the run's own (`TrainConfig`)."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr: float | None = None
    eps: float | None = None


@runtime_checkable
class Objective(Protocol):
    """What the training loop needs of an objective (beside being an `nn.Module`)."""

    projected: nn.Module | None
    """The module whose weights are kept sparse; None for none."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """Everything that trains."""
        ...

    def __call__(self, tokens: Int[Tensor, "B T"], draw: int) -> dict[str, Tensor]:
        """Loss terms of one batch, `loss` among them; `draw` seeds any random choice, so that a step can be replayed."""
        ...


class LanguageModelling(nn.Module):
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
