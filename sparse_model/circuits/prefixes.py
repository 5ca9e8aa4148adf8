"""The distinct prefixes of a set of prompts: all that a causal model computes about them, once each.

What a causal model holds at token t of a prompt follows from tokens 0..t alone. Prompts of one task share most of their
beginnings (those of a pair differ in a few tokens), so there are far fewer distinct prefixes P than tokens M·T; and
before the first attention sublayer only the last token and its position count, of which there are U distinct *cells*.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prefixes:
    """P distinct prefixes of M prompts of up to T tokens, shorter ones first."""

    token: Int[Tensor, " P"]
    """last token of the prefix"""
    position: Int[Tensor, " P"]
    """of that token, from 0"""
    ancestors: Int[Tensor, "P T"]
    """row of the prefix's own first s + 1 tokens; the prefix itself beyond its position"""
    end: Int[Tensor, " M"]
    """row of each whole prompt"""
    rows: Int[Tensor, "M T"]
    """row of each prompt's first t + 1 tokens; that of the whole prompt beyond its end"""
    first: Int[Tensor, " P"]
    """where in the flattened [M·T] tokens the prefix comes first"""
    cell: Int[Tensor, " P"]
    """which distinct (token, position) the prefix ends in"""
    cell_row: Int[Tensor, " U"]
    """a prefix that ends in each cell"""

    def __len__(self) -> int:
        return len(self.token)


def distinct_prefixes(tokens: Int[Tensor, "M T"], last: Int[Tensor, " M"]) -> Prefixes:
    """The prefixes of prompts that end at position `last`; tokens after it are never read."""
    device, (M, T) = tokens.device, tokens.shape
    vocabulary = int(tokens.max()) + 1
    rows = torch.zeros(M, T, dtype=torch.int64, device=device)
    parent = torch.zeros(M, dtype=torch.int64, device=device)
    found: dict[str, list[Tensor]] = {"token": [], "position": [], "ancestors": [], "first": []}
    total = 0
    for t in range(int(last.max()) + 1):
        alive = (last >= t).nonzero().flatten()
        key, inverse = (parent[alive] * vocabulary + tokens[alive, t]).unique(return_inverse=True)
        example = torch.full((len(key),), M, device=device).scatter_reduce_(0, inverse, alive, "amin")
        own = total + torch.arange(len(key), device=device)
        line = own[:, None].repeat(1, T)
        line[:, :t] = rows[example, :t]
        found["token"].append(tokens[example, t])
        found["position"].append(torch.full_like(own, t))
        found["ancestors"].append(line)
        found["first"].append(example * T + t)
        rows[alive, t] = parent[alive] = own[inverse]
        total += len(key)
    end = rows.gather(1, last[:, None])[:, 0]
    beyond = torch.arange(T, device=device)[None] > last[:, None]
    columns = {name: torch.cat(parts) for name, parts in found.items()}
    cells, cell = (columns["position"] * vocabulary + columns["token"]).unique(return_inverse=True)
    cell_row = torch.full((len(cells),), total, device=device)
    cell_row.scatter_reduce_(0, cell, torch.arange(total, device=device), "amin")
    return Prefixes(end=end, rows=torch.where(beyond, end[:, None], rows), cell=cell, cell_row=cell_row, **columns)


def begins_anew(prefixes: Prefixes, document_token: int | None) -> bool:
    """Whether a document begins inside a prompt, so that a token attends to less than its whole prefix."""
    return document_token is not None and bool(((prefixes.token == document_token) & (prefixes.position > 0)).any())
