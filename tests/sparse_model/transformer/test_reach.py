"""Documents packed into one block do not see each other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.transformer.shape import SparseShape

Make = Callable[..., SparseTransformer]
START = 7
SWITCHES: list[dict[str, Any]] = [
    {},
    {"attention_sink": True},
    {"position": "added"},
    {"position": "concatenated", "d_position": 6},
]
each_switch = pytest.mark.parametrize("switch", SWITCHES, ids=str)


@pytest.fixture
def packed() -> torch.Tensor:
    """A block that begins inside a document; others begin at 3 and 8."""
    tokens = torch.randint(8, 40, (2, 12), generator=torch.Generator().manual_seed(3))
    tokens[:, [3, 8]] = START
    return tokens


@each_switch
@torch.no_grad()
def test_changing_an_earlier_document_changes_no_logit_of_a_later_one(
    switch: dict[str, Any], tiny_sparse: Make, packed: torch.Tensor
) -> None:
    other = packed.clone()
    other[:, 5] += 1
    apart, leaking = tiny_sparse(document_token=START, **switch), tiny_sparse(**switch)
    assert torch.equal(apart(packed).logits[:, 8:], apart(other).logits[:, 8:])
    assert torch.equal(apart(packed).logits[:, :5], apart(other).logits[:, :5])
    assert not torch.equal(apart(packed).logits[:, 5:8], apart(other).logits[:, 5:8])
    assert not torch.equal(leaking(packed).logits[:, 8:], leaking(other).logits[:, 8:])


@each_switch
@torch.no_grad()
def test_a_document_reads_the_same_in_a_block_as_alone(
    switch: dict[str, Any], tiny_sparse: Make, packed: torch.Tensor
) -> None:
    model = tiny_sparse(document_token=START, **switch)
    whole = model(packed).logits
    for span in (slice(0, 3), slice(3, 8), slice(8, 12)):
        torch.testing.assert_close(whole[:, span], model(packed[:, span]).logits, atol=1e-5, rtol=1e-5)


@each_switch
@torch.no_grad()
def test_left_padding_changes_nothing_even_when_it_is_the_token_that_begins_documents(
    switch: dict[str, Any], tiny_sparse: Make, packed: torch.Tensor
) -> None:
    model = tiny_sparse(document_token=START, **switch)
    padded = torch.cat([torch.full((2, 3), START), packed], dim=1)
    mask = torch.cat([torch.zeros(2, 3), torch.ones(2, 12)], dim=1)
    seen = model(padded, attention_mask=mask).logits[:, 3:]
    torch.testing.assert_close(seen, model(packed).logits, atol=1e-5, rtol=1e-5)


@each_switch
@torch.no_grad()
def test_a_single_document_reads_as_in_a_model_that_lets_attention_cross(
    switch: dict[str, Any], tiny_sparse: Make, packed: torch.Tensor
) -> None:
    alone = packed[:, 3:8]
    apart, leaking = tiny_sparse(document_token=START, **switch), tiny_sparse(**switch)
    assert torch.equal(apart(alone).logits, leaking(alone).logits)


def test_a_document_token_outside_the_vocabulary_is_refused(tiny_sparse: Make) -> None:
    with pytest.raises(UserError, match="document_token = 40"):
        tiny_sparse(document_token=40)


@pytest.mark.parametrize(("leak", "bridged", "apart"), [
    (None, False, True), (None, True, False), (True, False, False), (True, True, False), (False, True, True),
])  # fmt: skip
def test_documents_are_kept_apart_unless_asked_or_bridged_to_a_model_that_does_not(
    leak: bool | None, bridged: bool, apart: bool
) -> None:
    assert SparseShape(leak=leak).document_token(START, bridged) == (START if apart else None)
