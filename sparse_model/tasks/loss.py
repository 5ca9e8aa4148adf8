"""How well logits solve a task: pure functions of the logits at each prompt's last position.

`M` counts prompts (both directions of N pairs make M = 2N); `answer` is the right next token, `other` the wrong one.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def last_logits(logits: Float[Tensor, "M T V"], last: Int[Tensor, " M"]) -> Float[Tensor, "M V"]:
    """The logits at each prompt's last token."""
    return logits[torch.arange(len(last), device=logits.device), last]


def logit_difference(
    logits: Float[Tensor, "M V"], answer: Int[Tensor, " M"], other: Int[Tensor, " M"]
) -> Float[Tensor, " M"]:
    """Logit of the right answer minus logit of the wrong one."""
    right = logits.gather(1, answer[:, None])
    wrong = logits.gather(1, other[:, None])
    return (right - wrong)[:, 0]


def binary_loss(logits: Float[Tensor, "M V"], answer: Int[Tensor, " M"], other: Int[Tensor, " M"]) -> Float[Tensor, ""]:
    """Mean cross-entropy over the two candidate logits, in nats (METHOD §3). Chance is log 2."""
    return F.softplus(-logit_difference(logits, answer, other).float()).mean()


def full_loss(logits: Float[Tensor, "M V"], answer: Int[Tensor, " M"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the right answer over the whole vocabulary, in nats."""
    return F.cross_entropy(logits.float(), answer)


def accuracy(logits: Float[Tensor, "M V"], answer: Int[Tensor, " M"], other: Int[Tensor, " M"]) -> Float[Tensor, ""]:
    """Fraction of prompts whose right answer has the larger logit; a tie counts as wrong. Chance is 0.5."""
    return (logit_difference(logits, answer, other) > 0).float().mean()
