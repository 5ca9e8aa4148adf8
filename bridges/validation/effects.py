"""What an intervention did to the answers: logit difference and probability of the target, prompt by prompt."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from bridges.edits.paired import Direction
from foundation.statistics import Estimate, mean_estimate, ratio_estimate


@dataclass(frozen=True)
class Effect:
    """Per prompt [N]: logit(target) − logit(original), and P(target) over the full vocabulary."""

    logit_difference: NDArray[np.floating]
    p_target: NDArray[np.floating]

    @classmethod
    def of(cls, logits: Float[Tensor, "N V"], direction: Direction) -> "Effect":
        """From logits at the last position."""
        logits = logits.double()
        target = logits.gather(1, direction.target[:, None])[:, 0]
        original = logits.gather(1, direction.original[:, None])[:, 0]
        probability = logits.softmax(-1).gather(1, direction.target[:, None])[:, 0]
        return cls((target - original).cpu().numpy(), probability.cpu().numpy())

    @property
    def flips(self) -> float:
        """Share of prompts whose target has the larger logit."""
        return float((self.logit_difference > 0).mean())


def recovered(edit: Effect, none: Effect, full: Effect, seed: int = 0) -> Estimate:
    """(LD(edit) − LD(none)) / (LD(full patch) − LD(none)), ratio of means with its interval."""
    return ratio_estimate(
        edit.logit_difference - none.logit_difference, full.logit_difference - none.logit_difference, seed
    )


def summary(effect: Effect, seed: int = 0) -> dict[str, Any]:
    """Means with intervals, as JSON."""
    return {
        "p_target": mean_estimate(effect.p_target, seed).to_json(),
        "logit_difference": mean_estimate(effect.logit_difference, seed).to_json(),
        "flip_rate": effect.flips,
    }
