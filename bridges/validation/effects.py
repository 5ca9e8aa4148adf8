"""What an intervention did, as shares of the model's own difference between the two prompts (METHOD §6).

    e = (LD under the edit − LD of the presented prompt) / (LD of the counterfactual − LD of the presented prompt)

LD is logit(target) − logit(original); sums over prompts are taken above and below before dividing, and intervals draw
whole templates. The denominator is the model's own, not that of a patch at the same place, which may be near zero.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bridges.validation.contrast import Answers, Streams
from foundation.statistics import Estimate, from_resamples, template_weights

RESAMPLES = 1000


class Shares:
    """Effects in one model on one contrast, over the same resampled templates.

    Args:
        rows: which prompts count (one direction); None for all of them.
    """

    def __init__(self, streams: Streams, rows: slice | None = None, seed: int = 0) -> None:
        self.rows = slice(None) if rows is None else rows
        templates = streams.contrast.templates[self.rows]
        self.weights = template_weights(templates, RESAMPLES, seed)
        self._none = _numpy(streams.none.difference)[self.rows]
        self._own = self.weights @ (_numpy(streams.full.difference)[self.rows] - self._none)

    def resampled(self, answers: Answers | Sequence[Answers]) -> NDArray[np.floating]:
        """e of one edit [1 + R], or of J edits [J, 1 + R]; the first column is the figure itself."""
        if isinstance(answers, Answers):
            gain = _numpy(answers.difference)[self.rows] - self._none
            return self.weights @ gain / self._own
        gains = np.stack([_numpy(one.difference)[self.rows] - self._none for one in answers])
        return np.asarray(gains @ self.weights.T / self._own)

    def estimate(self, answers: Answers) -> Estimate:
        """e of one edit."""
        return from_resamples(self.resampled(answers))

    def mean(self, values: torch.Tensor) -> Estimate:
        """Weighted mean of any figure per prompt [M]."""
        return from_resamples(self.weights @ _numpy(values)[self.rows] / self.weights.sum(1))


def _numpy(values: torch.Tensor) -> NDArray[np.floating]:
    return values.detach().double().cpu().numpy()
