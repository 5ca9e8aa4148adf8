"""Shuffled weights: the random-weights control, which keeps the sparsity mask and the values, and loses what was learned."""

import copy

import torch

from sparse_model.transformer.model import SparseTransformer


@torch.no_grad()
def shuffled(model: SparseTransformer, seed: int = 0) -> SparseTransformer:
    """A copy with the nonzero values of every weight, bias and embedding exchanged among their places; gains stay."""
    generator = torch.Generator().manual_seed(seed)
    random = copy.deepcopy(model)
    gains = {id(random.norm_gain(i)) for i in range(len(random.sublayers) + 1)}
    for parameter in random.parameters():
        if id(parameter) in gains:
            continue
        nonzero = parameter != 0
        values = parameter[nonzero]
        parameter[nonzero] = values[torch.randperm(len(values), generator=generator).to(values.device)]
    return random
