"""The prompts of a task as distinct prefixes, with what no mask touches computed once.

A causal model's state at a token is a function of the tokens up to it. Prompts made from templates share most of their
prefixes, the two of a pair everything before the first difference; and before the first sublayer a state is a
function of the token and its position alone (a *stem*). So a masked pass works on rows, one per distinct prefix
(per distinct stem up to the first attention), and gathers them into sequences only to attend.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.execution import choose, compress
from sparse_model.transformer.layers import keep_topk
from sparse_model.transformer.model import SparseTransformer


@dataclass(frozen=True)
class PromptRows:
    """M prompts for each of k masks: which rows there are, and where each token finds its own.

    Row numbers in `at`, `at_stem`, `leaf`, `leaf_stem` and `sample` count through all k masks (k·R, k·R0, k·M·T).
    """

    stems: Int[Tensor, "k R0"]
    """stem of every stem row"""
    prefix_stems: Int[Tensor, "k R"]
    """stem of every prefix row"""
    at_stem: Int[Tensor, "k M T"]
    at: Int[Tensor, "k M T"]
    sample: Int[Tensor, "k R"]
    """one token, of all M·T of its mask's prompts, whose prefix the row is"""
    stem_sample: Int[Tensor, "k R0"]
    """one token whose stem the row is"""
    leaf: Int[Tensor, "k M"]
    """prefix row of each prompt's last token"""
    leaf_stem: Int[Tensor, "k M"]
    """stem row of each prompt's last token"""
    allowed: Bool[Tensor, "kM 1 T T"]
    allowed_last: Bool[Tensor, "kM 1 1 T"]
    direction: Float[Tensor, "k M S"]
    """unembedding of the right answer minus that of the wrong one"""
    offset: Float[Tensor, "k M"]
    """what biases and bigrams add to their difference"""


class Prompts:
    """Both prompts of every pair, their distinct prefixes, and the model's frozen work on them.

    Rows 0..N−1 are the a prompts, N..2N−1 the b prompts.
    """

    @torch.no_grad()
    def __init__(self, model: SparseTransformer, pairs: TokenPairs) -> None:
        batch = pairs.prompts()
        width = int(batch.last.max()) + 1
        self.model, self.N, self.last = model, len(pairs), batch.last
        self._compressed: dict[str, Tensor | None] = {}
        self._frozen: dict[str, tuple[Tensor, Tensor]] = {}
        tokens = batch.tokens[:, :width]
        walk = model.walk(tokens)
        device = tokens.device
        causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        self.allowed = causal[None, None] if walk.allowed is None else walk.allowed
        position = walk.position
        h = walk.embedding()
        real = torch.arange(width, device=device) <= batch.last[:, None]
        self.tokens, self.templates = tokens, pairs.template
        self.ends: Int[Tensor, " M"] = torch.arange(len(tokens), device=device) * width + batch.last
        """each prompt's last token among all M·T"""
        numbers = _prefixes(tokens, real, model.config.vocab_size)
        self.prefix = torch.where(real, numbers, numbers[:, :1])  # padding, which nothing reads, is no row of its own
        # a stem is a token and its position: states before the first sublayer that are equal
        place = torch.arange(width, device=device).expand_as(tokens)
        if position is not None and len(position) > 1:  # restarts inside a prompt: the prefix decides the position
            stems = self.prefix
        else:
            stems = torch.unique((tokens * width + place).masked_fill(~real, -1), return_inverse=True)[1]
        self.stem = stems = torch.where(real, stems, stems[:, :1])
        sample = torch.zeros(int(stems.max()) + 1, dtype=torch.long, device=device)
        sample[stems[real]] = real.flatten().nonzero().flatten()
        self.embedding: Float[Tensor, "U S"] = h.flatten(0, 1)[sample]
        self.position: Float[Tensor, "U P"] | None = None
        if position is not None and model.config.position == "concatenated":
            self.position = position.expand(len(tokens), -1, -1).flatten(0, 1)[sample]
        first = model.norm(0)(self.embedding)
        if self.position is not None:
            first = torch.cat([first, model.blocks[0].ln_p1(self.position)], dim=-1)
        self.first_read: Float[Tensor, "U R"] = keep_topk(model.config, "attn_in", first)
        """act_in of the first sublayer, before any mask"""
        unembedding, rows = model.lm_head.weight, torch.arange(len(tokens), device=device)
        self.direction = unembedding[batch.answer] - unembedding[batch.other]
        self.offset = model.final_logits_bias[batch.answer] - model.final_logits_bias[batch.other]
        if model.bigram_table is not None:
            table, final = model.bigram_table, tokens[rows, batch.last]
            self.offset = self.offset + table[final, batch.answer] - table[final, batch.other]

    def __len__(self) -> int:
        return 2 * self.N

    def compressed(self, target: str, weight: Float[Tensor, "O I"]) -> Tensor | None:
        """The weights of the map that makes `target` as its nonzeros (CSR), made once; None where that would not pay."""
        if target not in self._compressed:
            self._compressed[target] = compress(weight) if choose(weight).kind == "csr" else None
        return self._compressed[target]

    def frozen(self, target: str, weight: Float[Tensor, "O I"], values: Float[Tensor, " I"]) -> Float[Tensor, " O"]:
        """What the map that makes `target` gives of inputs all frozen at these values, made once."""
        held = self._frozen.get(target)
        if held is None or held[0] is not values:
            held = self._frozen[target] = values, weight @ values
        return held[1]

    def both(self, pairs: Int[Tensor, "k m"]) -> Int[Tensor, "k M"]:
        """The prompts of the given pairs, M = 2m: all a prompts, then all b prompts."""
        return torch.cat([pairs, pairs + self.N], dim=1)

    def rows(self, chosen: Int[Tensor, "k M"] | None = None) -> PromptRows:
        """The rows of the chosen prompts; None: of all, for one mask."""
        if chosen is None:
            chosen = torch.arange(len(self), device=self.last.device)[None]
        k, M = chosen.shape
        last = self.last[chosen]
        T = int(last.max()) + 1
        prefix, at = _by_mask(self.prefix[chosen][:, :, :T])
        stems, at_stem = _by_mask(self.stem[chosen][:, :, :T])
        real = torch.arange(T, device=at.device) <= last[:, :, None]
        tokens = real.flatten().nonzero().flatten()
        sample = torch.zeros(prefix.shape, dtype=torch.long, device=at.device)
        sample.view(-1)[at[real]] = tokens
        stem_sample = torch.zeros(stems.shape, dtype=torch.long, device=at.device)
        stem_sample.view(-1)[at_stem[real]] = tokens
        prefix_stems = self.stem[chosen][:, :, :T].flatten()[sample]
        allowed = self.allowed[:, :, :T, :T]
        if len(allowed) > 1:
            allowed = allowed[chosen.flatten()]
        final = allowed.expand(k * M, -1, -1, -1)[torch.arange(k * M, device=at.device), :, last.flatten()][:, :, None]
        return PromptRows(
            stems=stems,
            prefix_stems=prefix_stems,
            at_stem=at_stem,
            at=at,
            sample=sample,
            stem_sample=stem_sample,
            leaf=at.gather(2, last[:, :, None])[:, :, 0],
            leaf_stem=at_stem.gather(2, last[:, :, None])[:, :, 0],
            allowed=allowed.expand(k * M, -1, -1, -1),
            allowed_last=final,
            direction=self.direction[chosen],
            offset=self.offset[chosen],
        )


def _prefixes(tokens: Int[Tensor, "M T"], real: Bool[Tensor, "M T"], vocabulary: int) -> Int[Tensor, "M T"]:
    """A number per distinct prefix; padding is prefix 0."""
    numbers = torch.zeros_like(tokens)
    before = torch.zeros_like(tokens[:, 0])
    count = 1
    for t in range(tokens.shape[1]):
        _, found = torch.unique((before * vocabulary + tokens[:, t]).masked_fill(~real[:, t], -1), return_inverse=True)
        before = torch.where(real[:, t], found + count, 0)
        count += int(found.max()) + 1
        numbers[:, t] = before
    return numbers


def _by_mask(numbers: Int[Tensor, "k M T"]) -> tuple[Int[Tensor, "k R"], Int[Tensor, "k M T"]]:
    """The distinct numbers of each mask, padded with their first, and every token's row among all k·R."""
    k = len(numbers)
    span = int(numbers.max()) + 1
    mask = torch.arange(k, device=numbers.device)
    distinct, at = torch.unique(numbers + span * mask[:, None, None], return_inverse=True)
    owner = distinct // span
    counts = torch.bincount(owner, minlength=k)
    starts = counts.cumsum(0) - counts
    R = int(counts.max())
    column = torch.arange(len(distinct), device=numbers.device) - starts[owner]
    rows = (distinct[starts] - span * mask)[:, None].repeat(1, R)
    rows[owner, column] = distinct - span * owner
    return rows, (owner * R + column)[at]
