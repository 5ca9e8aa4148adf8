"""Held-out loss during training: the objective on the corpus' validation blocks, a curve and the choice of the best.

Sources count by their share of the training text. The blocks are the same every time, and so are the objective's random
choices, so that two figures of one run differ by the model alone. `sequence_losses` is the plain cross-entropy of a model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from sparse_model.corpus.corpus import Corpus
from sparse_model.training.objective import Objective
from sparse_model.training.train_config import TrainConfig


@dataclass(frozen=True)
class Validation:
    """Named token blocks [N, T] and their weights (any positive numbers)."""

    blocks: Mapping[str, NDArray[np.integer]]
    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, corpus: Corpus) -> "Validation":
        """The validation split of a corpus, by source."""
        sources = corpus.description["sources"]
        return cls(corpus.validation, {name: float(sources[name]["weight"]) for name in corpus.validation})


@torch.no_grad()
def held_out_terms(
    objective: nn.Module, validation: Validation, config: TrainConfig, accelerator: Accelerator
) -> dict[str, float]:
    """`validation_<term>` for every loss term, and `validation_loss/<source>`.

    The work is divided over the processes; each gets the whole result.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    size = max(1, config.batch_size // (world * config.accumulate))
    total = sum(validation.weights.get(name, 1.0) for name in validation.blocks)
    found: dict[str, float] = {}
    for name, blocks in validation.blocks.items():
        sums: dict[str, Tensor] = {}
        count = torch.zeros((), device=accelerator.device)
        pieces = list(_batches(blocks[: config.validation_blocks], size))
        for number in range(rank, -(-len(pieces) // world) * world, world):  # as many passes on every process
            tokens = pieces[min(number, len(pieces) - 1)]
            counted = len(tokens) if number < len(pieces) else 0
            with accelerator.autocast():
                terms = cast(Objective, objective)(tokens.to(accelerator.device), draw=0)
            count += counted
            for term, value in terms.items():
                sums[term] = sums.get(term, torch.zeros_like(count)) + value.float() * counted
        share = validation.weights.get(name, 1.0) / total
        if world > 1:
            values = accelerator.reduce(torch.stack([count, *sums.values()]), "sum")
            sums, count = dict(zip(sums, values[1:], strict=True)), values[0]
        for term, value in sums.items():
            mean = float(value / count)
            found[f"validation_{term}"] = found.get(f"validation_{term}", 0.0) + share * mean
            if term == "loss" and len(validation.blocks) > 1:
                found[f"validation_loss/{name}"] = mean
    return found


def _batches(blocks: NDArray[np.integer], size: int) -> Iterator[Int[Tensor, "b T"]]:
    for start in range(0, len(blocks), size):
        yield torch.from_numpy(np.asarray(blocks[start : start + size], dtype=np.int64))


@torch.no_grad()
def sequence_losses(model: nn.Module, blocks: NDArray[np.integer], batch_size: int = 16) -> Float[np.ndarray, " N"]:
    """Mean next-token cross-entropy of each of N token blocks [N, T], in nats per token.

    Args:
        model: maps tokens to an output with `.logits`.
        batch_size: blocks per forward pass.
    """
    device = next(model.parameters()).device
    losses = []
    for start in tqdm(range(0, len(blocks), batch_size), desc="evaluating", unit="batch", delay=2, leave=False):
        tokens = torch.from_numpy(np.asarray(blocks[start : start + batch_size], dtype=np.int64)).to(device)
        logits = model(tokens).logits[:, :-1].transpose(1, 2).float()
        losses.append(F.cross_entropy(logits, tokens[:, 1:], reduction="none").mean(-1).cpu())
    return torch.cat(losses).double().numpy()
