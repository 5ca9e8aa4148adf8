"""Circuits as node sets: edges, unread nodes, random sets, artefacts."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.circuits.circuit import Calibration, Circuit, circuit_edges, drop_unread, random_circuit
from sparse_model.transformer.nodes import Node


def test_edges_are_the_nonzero_weights_between_kept_nodes_counted_one_by_one(known, circuit: Circuit) -> None:
    model, expected = known.model, []
    for layer, block in enumerate(model.blocks):
        width = model.config.d_attn
        matrices = [
            (block.attn.c_attn.weight[i * width : (i + 1) * width], "attn.act_in", f"attn.{part}")
            for i, part in enumerate("qkv")
        ]
        matrices += [
            (block.attn.c_proj.weight, "attn.v", "attn.resid_delta"),
            (block.mlp.c_fc.weight, "mlp.act_in", "mlp.post_act"),
            (block.mlp.c_proj.weight, "mlp.post_act", "mlp.resid_delta"),
        ]
        nodes = {str(node) for node in circuit.nodes}
        for weight, source, target in matrices:
            for row in range(weight.shape[0]):
                for column in range(weight.shape[1]):
                    ends = f"{layer}.{source}:{column}", f"{layer}.{target}:{row}"
                    if weight[row, column] != 0 and ends[0] in nodes and ends[1] in nodes:
                        expected.append((*ends, float(weight[row, column])))
    found = [(str(edge.source), str(edge.target), edge.weight) for edge in circuit_edges(model, circuit.keep)]
    assert sorted(found) == sorted(expected)
    assert (
        50
        < len(found)
        < sum(int((w != 0).sum()) for b in model.blocks for w in (b.attn.c_attn.weight, b.mlp.c_fc.weight))
    )


@torch.no_grad()
def test_dropping_unread_nodes_leaves_the_logits_exactly_where_no_top_k_lets_channels_compete(
    tiny_sparse: Callable[..., SparseTransformer], known, circuit: Circuit, tokens: torch.Tensor
) -> None:
    model = tiny_sparse(topk_fraction=None)
    model.load_state_dict(known.model.state_dict())
    keep = {name: mask.clone() for name, mask in circuit.keep.items()}
    for name in ("0.attn.resid_delta", "1.mlp.resid_delta"):
        keep[name][:] = False
        keep[name][:2] = True
    fewer = drop_unread(model, keep)
    size = [sum(int(mask.sum()) for mask in masks.values()) for masks in (fewer, keep)]
    assert 0 < size[0] < size[1]
    assert all(bool((fewer[name] <= keep[name]).all()) for name in keep)
    before, after = (
        model(tokens, tap=Circuit("own", "", kept, known.values, "mean").only()).logits for kept in (keep, fewer)
    )
    torch.testing.assert_close(before, after, atol=2e-5, rtol=1e-5)
    read = {edge.source for edge in circuit_edges(model, fewer)}
    nodes = Circuit("own", "", fewer, known.values, "mean").nodes
    assert {node for node in nodes if node.part in ("act_in", "v", "post_act")} <= read


def test_a_random_circuit_outside_never_meets_the_circuit_and_has_its_size_everywhere(circuit: Circuit) -> None:
    generator = torch.Generator().manual_seed(0)
    met = 0
    for _ in range(10):
        outside = random_circuit(circuit, generator, outside=True)
        anywhere = random_circuit(circuit, generator, outside=False)
        for name, mask in circuit.keep.items():
            room = int((~mask).sum())
            assert int(outside[name].sum()) == min(int(mask.sum()), room)
            assert int(anywhere[name].sum()) == int(mask.sum())
            assert not (outside[name] & mask).any()
            met += int((anywhere[name] & mask).sum())
            if name.endswith(".k"):
                assert torch.equal(outside[name], outside[name[:-1] + "q"])
    assert met > 0


@torch.no_grad()
def test_only_and_without_are_complements(known, circuit: Circuit) -> None:
    name = "1.attn.v"
    x = torch.randn(1, 2, len(circuit.keep[name]))
    kept, removed = circuit.only()(name, x), circuit.without()(name, x)
    torch.testing.assert_close(kept + removed, x + circuit.values[name])
    assert not torch.equal(kept, x)


def test_an_artefact_comes_back_as_it_was(circuit: Circuit, tmp_path: Path, known) -> None:
    from dataclasses import replace

    saved = replace(circuit, calibration=Calibration(1.25, -0.5), metrics={"nodes": 3}, settings={"seed": 1})
    saved.save(tmp_path / "c")
    found = Circuit.load(tmp_path / "c")
    assert (found.task, found.ablation, found.calibration) == ("own", "mean", Calibration(1.25, -0.5))
    assert found.metrics == {"nodes": 3}
    assert found.nodes == circuit.nodes
    assert found.nodes == tuple(Node.parse(str(node)) for node in circuit.nodes)
    assert all(torch.equal(found.keep[name], mask) for name, mask in circuit.keep.items())
    assert all(torch.equal(found.values[name], value) for name, value in circuit.values.items())
    found.check_model(known.model)
    with pytest.raises(UserError, match="already exists"):
        saved.save(tmp_path / "c")


def test_a_circuit_whose_files_disagree_is_refused(circuit: Circuit, tmp_path: Path) -> None:
    circuit.save(tmp_path / "c")
    path = tmp_path / "c" / "circuit.json"
    description = json.loads(path.read_text())
    description["nodes"] = description["nodes"][1:]
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match="name different nodes"):
        Circuit.load(tmp_path / "c")


@pytest.mark.parametrize(
    "key", ["task", "model_fingerprint", "ablation", "calibration", "nodes", "metrics", "settings"]
)
def test_a_circuit_without_one_of_its_keys_is_refused_in_one_line(key: str, circuit: Circuit, tmp_path: Path) -> None:
    circuit.save(tmp_path / "c")
    path = tmp_path / "c" / "circuit.json"
    description = json.loads(path.read_text())
    del description[key]
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match=key):
        Circuit.load(tmp_path / "c")


def test_truncated_tensors_are_refused(circuit: Circuit, tmp_path: Path) -> None:
    circuit.save(tmp_path / "c")
    path = tmp_path / "c" / "circuit.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        Circuit.load(tmp_path / "c")


@pytest.mark.parametrize("described", [True, False], ids=["fingerprint", "made before there was one"])
@pytest.mark.parametrize(
    ("tensor", "change", "reason"),
    [
        ("value/0.attn.v", lambda t: t.index_fill(0, torch.tensor([1]), float("nan")), "NaN or infinity"),
        ("value/0.attn.v", lambda t: t.index_fill(0, torch.tensor([1]), float("inf")), "NaN or infinity"),
        ("value/0.attn.v", lambda t: t[0].clone(), r"is of shape \[\], not"),
        ("value/0.attn.v", lambda t: t.long(), "not floating-point numbers"),
        ("cut/0.mlp.post_act", lambda t: t.index_fill(0, torch.tensor([0]), -1), "holds -1, less than 0"),
        ("cut/0.mlp.post_act", lambda t: t.index_fill(0, torch.tensor([0]), 10_000), "beyond its channels"),
        ("cut/0.mlp.post_act", lambda t: t.float(), "not whole numbers"),
    ],
)
def test_numbers_that_a_circuit_cannot_have_are_refused_in_one_line(
    tensor: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    reason: str,
    described: bool,
    circuit: Circuit,
    tmp_path: Path,
) -> None:
    widths = {name: len(mask) for name, mask in circuit.keep.items()}
    edges = {"0.mlp.post_act": torch.rand(widths["0.mlp.post_act"], widths["0.mlp.act_in"]) > 0.5}
    dataclasses.replace(circuit, edges=edges).save(tmp_path / "c")
    Circuit.load(tmp_path / "c")
    description, path = tmp_path / "c" / "circuit.json", tmp_path / "c" / "circuit.safetensors"
    if not described:
        values = json.loads(description.read_text())
        del values["tensors_fingerprint"]
        description.write_text(json.dumps(values))
    tensors = load_file(path)
    save_file({**tensors, tensor: change(tensors[tensor])}, path)
    with pytest.raises(UserError, match="NaN or infinity|other numbers" if described else reason) as refusal:
        Circuit.load(tmp_path / "c")
    assert "\n" not in str(refusal.value)


def test_another_models_circuit_is_refused(circuit: Circuit, tiny_sparse: Callable[..., SparseTransformer]) -> None:
    with pytest.raises(UserError, match="pruned from another sparse model"):
        circuit.check_model(tiny_sparse(seed=5))


def test_a_circuit_survives_its_folder_whatever_order_its_locations_were_found_in(
    circuit: Circuit, tmp_path: Path
) -> None:
    shuffled = dataclasses.replace(circuit, keep=dict(reversed(list(circuit.keep.items()))))
    shuffled.save(tmp_path / "c")
    assert Circuit.load(tmp_path / "c").nodes == circuit.nodes == shuffled.nodes
