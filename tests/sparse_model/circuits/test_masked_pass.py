"""The fast masked pass is the model with nodes frozen: same differences, same gradients, under every switch."""

from collections.abc import Callable

import pytest
import torch

from sparse_model import SparseTransformer
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.edges import cut_edges, edge_weights, source_of
from sparse_model.circuits.masked_pass import EdgeMask, answer_differences
from sparse_model.circuits.prompts import Prompts
from sparse_model.tasks.loss import logit_difference
from sparse_model.transformer.nodes import node_locations
from tests.sparse_model.circuits.conftest import own_pairs, random_keep

SWITCHES = [
    {},
    {"n_layer": 1},
    {"n_layer": 3, "position": "none"},
    {"position": "concatenated", "d_position": 8, "attention_sink": True},
    {"norm": "layer", "activation": "relu", "bias": False, "topk_fraction": None},
    {"residual_activation": "relu", "bigram_table": "learned", "tie_word_embeddings": True},
    {"topk_locations": ("attn_q", "mlp_neuron", "resid_post_attn", "resid_post_mlp"), "document_token": 0},
    {"activation": "gelu_tanh", "norm_eps": 0.3},
]


def values_of(model: SparseTransformer) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(width, generator=generator) for name, width in node_locations(model.config).items()}


def reference(model, pairs, mask, values) -> torch.Tensor:
    batch = pairs.prompts()
    logits = final_logits(model, batch.tokens, batch.last, Ablate(mask, values))
    return logit_difference(logits, batch.answer, batch.other)


@pytest.mark.parametrize("idle", [0, 1, 2], ids="{} idle heads of 2".format)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_it_gives_the_frozen_models_differences_and_gradients_for_several_masks_at_once(
    tiny_sparse: Callable[..., SparseTransformer], switches: dict, idle: int
) -> None:
    model = tiny_sparse(**switches)
    model.requires_grad_(False)
    pairs, values = own_pairs(model, 3), values_of(model)
    pairs.tokens_a[3, 2] = pairs.tokens_b[3, 2] = 0  # a document ends inside a prompt
    prompts = Prompts(model, pairs)
    chosen = torch.tensor([[0, 3, 5], [1, 3, 7]])
    masks = [random_keep(model, share, seed) for share, seed in ((0.5, 1), (0.9, 2))]
    for mask in masks:
        for name, kept in mask.items():
            if name.endswith((".k", ".v")):  # a head without kept keys and values is not computed
                kept[: idle * len(kept) // model.config.n_head] = False
    keep = {name: torch.stack([m[name].float() for m in masks]).requires_grad_() for name in values}
    weigh = torch.randn(2, 6, generator=torch.Generator().manual_seed(6))
    found = answer_differences(prompts, prompts.rows(prompts.both(chosen)), keep, values)
    gradients = torch.autograd.grad((found * weigh).sum(), list(keep.values()), materialize_grads=True)
    for s in range(2):
        mask = {name: m[s].detach().clone().requires_grad_() for name, m in keep.items()}
        expected = reference(model, pairs.select(chosen[s]), mask, values)
        torch.testing.assert_close(found[s], expected, atol=2e-4, rtol=1e-4)
        wanted = torch.autograd.grad((expected * weigh[s]).sum(), list(mask.values()))
        for name, got, want in zip(values, gradients, wanted, strict=True):
            torch.testing.assert_close(got[s], want, atol=5e-4, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")
    assert any(bool(gradient.abs().max() > 1e-2) for gradient in gradients)


def test_removed_edges_are_those_of_the_cut_model_and_their_gradients_finite_differences(known) -> None:
    model, values = known.model, known.values
    mask = random_keep(model, 0.7)
    generator = torch.Generator().manual_seed(1)
    edges, full = {}, {}
    for target, weight in edge_weights(model).items():
        rows, columns = mask[target].nonzero()[:, 0], mask[source_of(target)].nonzero()[:, 0]
        drawn = (torch.rand(len(rows), len(columns), generator=generator) < 0.6).float().requires_grad_()
        edges[target] = [EdgeMask(rows, columns, drawn)]
        full[target] = torch.ones_like(weight, dtype=torch.bool)
        full[target][rows[:, None], columns[None]] = edges[target][0].mask > 0
    prompts = Prompts(model, known.train)
    keep = {name: m[None].float() for name, m in mask.items()}
    found = answer_differences(prompts, prompts.rows(), keep, values, edges)[0]
    expected = reference(cut_edges(model, full, values), known.train, mask, values)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)

    target = "1.mlp.resid_delta"
    (gradient,) = torch.autograd.grad(found.sum(), [edges[target][0].mask])
    row, column = divmod(int(gradient.abs().argmax()), gradient.shape[1])
    moved = []
    for step in (-1e-2, 1e-2):
        changed = edges[target][0].mask.detach().clone()
        changed[row, column] += step
        moved.append(
            answer_differences(
                prompts, prompts.rows(), keep, values, {**edges, target: [edges[target][0]._replace(mask=changed)]}
            ).sum()
        )
    assert (moved[1] - moved[0]).item() / 2e-2 == pytest.approx(float(gradient[row, column]), rel=0.05)


def test_rows_are_the_distinct_prefixes(known) -> None:
    prompts = Prompts(known.model, known.train)
    rows = prompts.rows()
    batch = known.train.prompts()
    expected = {
        tuple(tokens[: t + 1])
        for tokens, last in zip(batch.tokens.tolist(), batch.last.tolist(), strict=True)
        for t in range(last + 1)
    }
    real = torch.arange(rows.at.shape[2])[None] <= batch.last[:, None]
    assert len(rows.at[0][real].unique()) == len(expected) < int(real.sum())
