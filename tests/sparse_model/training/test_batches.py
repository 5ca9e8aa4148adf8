"""Batches are a function of the step."""

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from sparse_model.training.batches import Batches

BLOCKS = np.arange(50, dtype=np.uint16)[:, None].repeat(3, axis=1)


def ids(tokens: torch.Tensor) -> list[int]:
    return tokens[:, 0].tolist()


def test_a_step_gives_the_same_sequences_whatever_came_before() -> None:
    fresh, used = Batches(BLOCKS, 8, seed=3), Batches(BLOCKS, 8, seed=3)
    for step in (40, 2, 17):
        used.at(step)
    assert all(torch.equal(fresh.at(step), used.at(step)) for step in (17, 0, 31))


def test_an_epoch_visits_no_block_twice_and_the_next_has_another_order() -> None:
    batches = Batches(BLOCKS, 8, seed=3)
    epoch = [block for step in range(batches.per_epoch) for block in ids(batches.at(step))]
    following = [block for step in range(batches.per_epoch, 2 * batches.per_epoch) for block in ids(batches.at(step))]
    assert len(epoch) == len(set(epoch)) == 48
    assert epoch != following


def test_processes_share_a_batch_without_overlap() -> None:
    batches = Batches(BLOCKS, 8, seed=3)
    shares = [ids(batches.at(5, rank, 4)) for rank in range(4)]
    assert sorted(block for share in shares for block in share) == sorted(ids(batches.at(5)))
    assert {len(share) for share in shares} == {2}


def test_another_seed_gives_another_order() -> None:
    assert not torch.equal(Batches(BLOCKS, 8, seed=0).at(0), Batches(BLOCKS, 8, seed=1).at(0))


def test_a_corpus_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match="50 training blocks, fewer than batch_size 51"):
        Batches(BLOCKS, 51, seed=0)
