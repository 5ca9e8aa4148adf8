"""Nonsense controls: a task's prompts with answers that follow no rule, that reverse it, or that mean nothing.

A circuit found for it measures what pruning can force out of any set of pairs (METHOD §3).
"""

from dataclasses import replace
from random import Random

import torch

from sparse_model.tasks.token_pairs import TokenPairs


def nonsense(pairs: TokenPairs, seed: int = 0) -> TokenPairs:
    """The same prompts; an independent fair coin per pair decides whether its two answers change places.

    The coin depends on the pair's text and `seed` only, so a pair keeps its labels wherever it appears, while knowing
    the labels of some pairs says nothing about the others. `texts` keeps the real answers.
    """
    coins = [Random(f"{seed}/{text.prompt_a}/{text.prompt_b}").random() < 0.5 for text in pairs.texts]
    exchange = torch.tensor(coins, device=pairs.answer_a.device)
    return replace(
        pairs,
        name=f"{pairs.name}_nonsense",
        answer_a=torch.where(exchange, pairs.answer_b, pairs.answer_a),
        answer_b=torch.where(exchange, pairs.answer_a, pairs.answer_b),
    )


def reversed_answers(pairs: TokenPairs) -> TokenPairs:
    """The same prompts; the two answers of every pair change places, so that the rule is the opposite of what a model does.

    `texts` keeps the real answers.
    """
    return replace(pairs, name=f"{pairs.name}_reversed", answer_a=pairs.answer_b, answer_b=pairs.answer_a)


def arbitrary_answers(pairs: TokenPairs, seed: int = 0) -> TokenPairs:
    """The same prompts; every answer token is replaced by another of the prompts' tokens, always by the same one.

    The rule can be known, since it is the task's with other words, but nothing in text suggests it. Tokens are drawn by
    `seed` from those of all prompts that are no answers, and from the answers themselves where these are too few.
    `texts` keeps the real answers.
    """
    answers = torch.cat([pairs.answer_a, pairs.answer_b]).unique()
    seen = torch.cat([pairs.tokens_a[pairs.mask], pairs.tokens_b[pairs.mask]]).unique()
    others = seen[~torch.isin(seen, answers)]
    generator = torch.Generator().manual_seed(seed)
    drawn = others[torch.randperm(len(others), generator=generator).to(others.device)]
    others = torch.cat([drawn, answers.roll(1)])[: len(answers)]
    return replace(
        pairs,
        name=f"{pairs.name}_arbitrary",
        answer_a=others[torch.searchsorted(answers, pairs.answer_a)],
        answer_b=others[torch.searchsorted(answers, pairs.answer_b)],
    )
