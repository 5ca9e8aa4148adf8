"""Removed edges: what they carry, and that circuits with edge masks are counted, saved and loaded by them."""

import dataclasses
from pathlib import Path

import pytest
import torch

from foundation.errors import UserError
from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.edges import circuit_edges, count_edges, cut_edges, edge_weights, edges_between, source_of
from sparse_model.transformer.taps import Recorder

SOURCE_PARTS = ("0.attn.act_in", "1.attn.act_in", "0.attn.v", "1.mlp.act_in", "0.mlp.post_act")


def all_edges(model) -> dict[str, torch.Tensor]:
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in edge_weights(model).items()}


@torch.no_grad()
def test_cutting_no_edge_changes_nothing(known, tokens: torch.Tensor) -> None:
    cut = cut_edges(known.model, all_edges(known.model), known.values)
    torch.testing.assert_close(cut(tokens).logits, known.model(tokens).logits)
    assert cut.lm_head.weight is known.model.lm_head.weight


@torch.no_grad()
@pytest.mark.parametrize("source", SOURCE_PARTS)
def test_removing_every_edge_of_a_source_removes_the_node(known, tokens: torch.Tensor, source: str) -> None:
    model, channel = known.model, 3
    edges = all_edges(model)
    for target, mask in edges.items():
        if source_of(target) == source:
            mask[:, channel] = False
    keep = torch.ones(len(known.values[source]), dtype=torch.bool)
    keep[channel] = False
    cut = cut_edges(model, edges, known.values)(tokens).logits
    removed = model(tokens, tap=Ablate({source: keep}, known.values)).logits
    torch.testing.assert_close(cut, removed, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(cut, model(tokens).logits, atol=1e-3)


@torch.no_grad()
def test_a_removed_edge_carries_weight_times_value_into_its_target_alone(known, tokens: torch.Tensor) -> None:
    model, row, column, target = known.model, 5, 2, "0.mlp.post_act"
    model.blocks[0].mlp.c_fc.weight[row, column] = 0.7
    edges = all_edges(model)
    edges[target][row, column] = False
    record = Recorder({"0.mlp.act_in"})
    model(tokens, tap=record)
    x, fc = record.activations["0.mlp.act_in"], model.blocks[0].mlp.c_fc
    expected = fc(x)
    expected[..., row] += fc.weight[row, column] * (known.values["0.mlp.act_in"][column] - x[..., column])
    found = cut_edges(model, edges, known.values).blocks[0].mlp.c_fc(x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def with_cut_edges(known, circuit: Circuit) -> Circuit:
    """The circuit without every second of its edges."""
    edges = all_edges(known.model)
    for target, between in edges_between(known.model, circuit.keep).items():
        cut = between.nonzero()[::2]
        edges[target][cut[:, 0], cut[:, 1]] = False
    return dataclasses.replace(circuit, edges=edges)


@torch.no_grad()
def test_a_circuit_is_counted_run_and_saved_with_its_removed_edges(
    known, circuit: Circuit, tmp_path: Path, tokens: torch.Tensor
) -> None:
    fewer = with_cut_edges(known, circuit)
    before, after = count_edges(known.model, circuit.keep), count_edges(known.model, fewer.keep, fewer.edges)
    assert after < before
    assert after == len(list(circuit_edges(known.model, fewer.keep, fewer.edges)))
    assert circuit.within(known.model) is known.model
    fewer.save(tmp_path / "c")
    loaded = Circuit.load(tmp_path / "c")
    assert loaded.edges is not None
    assert all(torch.equal(loaded.edges[name], mask) for name, mask in fewer.edges.items())
    cut, whole = (c.within(known.model)(tokens, tap=c.only()).logits for c in (loaded, circuit))
    assert not torch.allclose(cut, whole, atol=1e-3)
    circuit.save(tmp_path / "whole")
    assert Circuit.load(tmp_path / "whole").edges is None


def test_edge_masks_of_a_location_without_edges_are_refused(known, circuit: Circuit, tmp_path: Path) -> None:
    edges = {"0.attn.act_in": torch.ones(3, 3, dtype=torch.bool)}
    dataclasses.replace(circuit, edges=edges).save(tmp_path / "c")
    with pytest.raises(UserError, match=r"cuts edges into '0\.attn\.act_in'"):
        Circuit.load(tmp_path / "c")
