"""Floating-point operations of attention are counted whatever the shapes of its heads."""

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from sparse_model.training.speed import ATTENTION, attention_backward_flops, attention_flops, count_flops


def test_the_formulas_are_torchs_own_where_torch_has_them() -> None:
    query, key, value = (2, 6, 7, 4), (2, 6, 9, 4), (2, 6, 9, 5)
    assert attention_flops(query, key, value) == sdpa_flop_count(query, key, value)
    gradient = (2, 6, 7, 5)
    assert attention_backward_flops(gradient, query, key, value) == sdpa_backward_flop_count(
        gradient, query, key, value
    )


def test_grouped_queries_cost_what_the_same_queries_cost_with_all_heads() -> None:
    query, few, all_heads = (2, 6, 7, 4), (2, 2, 7, 4), (2, 6, 7, 4)
    assert attention_flops(query, few, few) == attention_flops(query, all_heads, all_heads)
    assert attention_backward_flops(query, query, few, few) == attention_backward_flops(query, query, *[all_heads] * 2)


def test_a_pass_with_grouped_queries_is_counted_forward_and_back() -> None:
    q = torch.randn(2, 6, 7, 4, requires_grad=True)
    k, v = (torch.randn(2, 2, 7, 4, requires_grad=True) for _ in range(2))
    with count_flops() as counted:
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).sum().backward()
    shapes = tuple(q.shape), tuple(k.shape), tuple(v.shape)
    assert counted.get_total_flops() == attention_flops(*shapes) + attention_backward_flops(shapes[0], *shapes)


def test_every_fused_attention_that_this_torch_has_is_counted_by_these_formulas() -> None:
    known = [name for name in ATTENTION if hasattr(torch.ops.aten, name)]
    registry = count_flops().flop_registry
    assert known
    for name in known:
        assert registry[getattr(torch.ops.aten, name)]((1, 4, 3, 2), (1, 2, 3, 2), (1, 2, 3, 2)) == 2 * 4 * 3 * 3 * 4
