"""The masked model on a task's prompts, doing only the work a loss depends on: the one engine of pruning and evidence.

Exactly the model with every node outside a mask frozen (`ablation.Ablate` and `final_logits` are the definition it is
tested against), for k masks, each with its own prompts:

- one row per distinct prefix, and per distinct (token, position) up to the first attention (`prompts.Prompts`);
- after the last attention only each prompt's last token;
- with gradients every map starts from kept channels alone, forward and backward (`masked_sublayers`); without, a small
  circuit's maps compute kept channels alone (`kept_sublayers`). So cost falls with the number of nodes kept.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_model.circuits.kept_sublayers import KeptPass, NodeTap
from sparse_model.circuits.masked_sublayers import EdgeMask, EdgeMasks, MaskedPass, Masks
from sparse_model.circuits.prompts import PromptRows, Prompts

__all__ = ["EdgeMask", "EdgeMasks", "Masks", "NodeTap", "answer_differences"]
PAYS_BELOW = 0.1
"""Share of all nodes kept up to which computing kept channels alone is faster."""


def answer_differences(
    prompts: Prompts,
    rows: PromptRows,
    keep: Masks,
    values: Mapping[str, Tensor],
    edges: EdgeMasks | None = None,
    tap: NodeTap | None = None,
    scales: Float[Tensor, "sites tokens"] | None = None,
) -> Float[Tensor, "k M"]:
    """Logit of the right answer minus that of the wrong one, per mask and prompt.

    Args:
        keep: per node location k masks of exactly 0 and 1; gradients towards them are those of value + (x − value) · mask.
        values: what removed nodes are frozen at [W].
        edges: per target location k edge masks (see `circuits.edges`), with gradients likewise.
        tap: called at every location with the kept channels of one mask, without gradients; what it returns goes on.
        scales: 1/RMS before each sublayer and the final norm at each of all M·T tokens, instead of the stream's own; of
            one mask, without gradients.
    """
    learned = [*keep.values(), *(one.mask for masks in (edges or {}).values() for one in masks)]
    if torch.is_grad_enabled() and any(mask.requires_grad for mask in learned):
        return MaskedPass(prompts, rows, keep, values, edges or {}).run()
    with torch.no_grad():
        if tap is not None or scales is not None or _is_small(keep):
            return KeptPass(prompts, rows, keep, values, edges or {}, tap, scales).run()
        return MaskedPass(prompts, rows, keep, values, edges or {}).run()


def _is_small(keep: Masks) -> bool:
    """One mask of few nodes."""
    if any(len(mask) != 1 for mask in keep.values()):
        return False
    kept = sum(int(mask.sum()) for mask in keep.values())
    return kept <= PAYS_BELOW * sum(mask.numel() for mask in keep.values())
