"""M5: circuit nodes as dense directions, against the formula written out."""

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bridges.alignment import align
from bridges.bridge import Bridge
from bridges.edits.mapping import check_base_model, map_circuit, map_nodes, read_direction, unplaced
from dense_adapters import DenseStack
from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint
from sparse_model.circuits.circuit import Circuit
from sparse_model.transformer.nodes import Node, node_locations


def written_out(setting, node: Node, **without: bool) -> torch.Tensor:
    """(W_dec[:, c] centred) · γ · ρ / g; each factor can be left out by name."""
    site, c = node.sublayer, node.channel
    block = setting.dense.model.transformer.h[site // 2]
    gamma = (block.ln_2 if site % 2 else block.ln_1).weight
    sparse_block = setting.sparse.transformer["h"][site // 2]
    gain = (sparse_block.ln_2 if site % 2 else sparse_block.ln_1).weight[c]
    column = setting.bridge.decoders[site].weight[:, c].clone()
    if not without.get("centring"):
        column = column - sum(column) / len(column)
    if not without.get("gamma"):
        column = column * gamma
    if not without.get("ratio"):
        column = column * setting.bridge.rms_ratio[site]
    return column if without.get("gain") else column / gain


@pytest.mark.parametrize("name", ["0.attn.act_in:3", "0.mlp.act_in:0", "1.attn.act_in:17", "1.mlp.act_in:23"])
def test_a_read_direction_is_the_formula_and_needs_every_factor(name: str, setting: Callable) -> None:
    found_in, node = setting(), Node.parse(name)
    found = read_direction(node, found_in.bridge, found_in.sparse, found_in.dense)
    torch.testing.assert_close(found, written_out(found_in, node))
    for factor in ("centring", "gamma", "ratio", "gain"):
        assert not torch.allclose(found, written_out(found_in, node, **{factor: True}), rtol=1e-3, atol=1e-5), factor


def test_nothing_is_centred_where_the_dense_norm_is_an_rms_norm(tiny_sparse: Callable) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=20, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight.add_(torch.rand(20))
    dense, sparse = DenseStack(model), tiny_sparse().requires_grad_(False)
    bridge = Bridge(align(sparse, dense), sparse.d_model, dense.d_model, 0.25).requires_grad_(False)
    found = read_direction(Node.parse("0.mlp.act_in:5"), bridge, sparse, dense)
    gamma, gain = model.model.layers[0].post_attention_layernorm.weight, sparse.blocks[0].ln_2.weight[5]
    torch.testing.assert_close(found, bridge.decoders[1].weight[:, 5] * gamma / gain)


def test_a_read_node_whose_gain_is_zero_maps_to_nothing(pair: Callable) -> None:
    sparse, dense, bridge = pair()
    with torch.no_grad():
        sparse.blocks[0].ln_1.weight[4] = 0.0
    mapped = map_nodes([Node.parse("0.attn.act_in:4"), Node.parse("0.attn.act_in:5")], bridge, sparse, dense)
    assert [node.channel for site in mapped for node in site.nodes] == [5]


def test_a_first_order_change_of_the_sparse_read_arrives_in_the_dense_read(setting: Callable) -> None:
    """Decode a small change of the stream at frozen norms: the dense read changes by M5."""
    found_in, node, site = setting(), Node.parse("1.attn.act_in:9"), 2
    dense_h = torch.randn(20)
    norm = found_in.dense.model.transformer.h[1].ln_1
    scale_dense = (dense_h - dense_h.mean()).square().mean().add(norm.eps).sqrt()
    change_read = 0.3  # of the sparse read; the stream changes by change · RMS(h^s) / g
    rms_sparse = found_in.bridge.rms_ratio[site] * scale_dense
    change_stream = change_read * rms_sparse / found_in.sparse.norm_gain(site)[9]
    change = found_in.bridge.decoders[site].weight[:, 9] * change_stream
    expected = (change - change.mean()) / scale_dense * norm.weight
    found = read_direction(node, found_in.bridge, found_in.sparse, found_in.dense) * change_read
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_write_nodes_and_neurons_change_the_stream_after_their_sublayer(setting: Callable) -> None:
    found_in = setting()
    nodes = [Node.parse("0.mlp.post_act:7"), Node.parse("0.mlp.resid_delta:3"), Node.parse("1.attn.resid_delta:2")]
    mapped = map_nodes(nodes, found_in.bridge, found_in.sparse, found_in.dense)
    assert [(site.kind, site.dense_site) for site in mapped] == [("residual", 2), ("residual", 3)]
    decoder = found_in.bridge.decoders[2].weight
    written = found_in.sparse.blocks[0].mlp.c_proj.weight[:, 7]
    torch.testing.assert_close(mapped[0].directions[0], torch.stack([decoder[d] @ written for d in range(20)]))
    torch.testing.assert_close(mapped[0].directions[1], decoder[:, 3])
    assert mapped[1].nodes == (nodes[2],)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_nodes_inside_attention_are_refused_by_name(part: str, setting: Callable) -> None:
    found_in = setting()
    with pytest.raises(UserError, match=rf"0\.attn\.{part}:2.*inside attention"):
        map_nodes([Node.parse(f"0.attn.{part}:2")], found_in.bridge, found_in.sparse, found_in.dense)


def test_a_node_the_model_does_not_have_is_refused(setting: Callable) -> None:
    found_in = setting()
    with pytest.raises(UserError, match="channels 0 to 23"):
        map_nodes([Node.parse("0.attn.act_in:24")], found_in.bridge, found_in.sparse, found_in.dense)


def test_with_unequal_depth_a_read_becomes_a_residual_edit_at_its_own_site(setting: Callable) -> None:
    found_in = setting(n_layer=2, dense_layers=4)
    assert not found_in.bridge.alignment.is_identity
    nodes = [Node.parse("0.attn.act_in:1"), Node.parse("1.attn.act_in:2"), Node.parse("1.mlp.resid_delta:3")]
    mapped = map_nodes(nodes, found_in.bridge, found_in.sparse, found_in.dense)
    assert [(site.kind, site.place, site.dense_site) for site in mapped] == [
        ("residual", 0, 0),
        ("residual", 1, 4),
        ("residual", 2, 8),
    ]
    for site, node in zip(mapped, nodes, strict=True):
        torch.testing.assert_close(site.directions[0], found_in.bridge.decoders[site.place].weight[:, node.channel])


def test_a_node_whose_site_meets_no_dense_site_is_named_and_never_moved_to_another(setting: Callable) -> None:
    """Read nodes of an MLP and the next attention would otherwise land on one column and be added twice."""
    found_in = setting(n_layer=2, dense_layers=4)
    lost = [Node.parse("0.mlp.act_in:2"), Node.parse("1.mlp.act_in:2"), Node.parse("0.attn.resid_delta:3")]
    kept = [Node.parse("1.attn.act_in:2"), Node.parse("0.mlp.post_act:3"), Node.parse("0.attn.q:1")]
    assert unplaced([*lost, *kept], found_in.bridge, found_in.sparse.d_model) == tuple(lost)
    for node in lost:
        with pytest.raises(UserError, match=rf"{node}.*meets no dense site \(aligned: 0, 2, 4\)"):
            map_nodes([node], found_in.bridge, found_in.sparse, found_in.dense)
    keep = {name: torch.arange(w) == 2 for name, w in node_locations(found_in.sparse.config).items()}
    circuit = Circuit("t", "", keep, {name: torch.zeros(len(mask)) for name, mask in keep.items()}, "zero")
    mapped = map_circuit(circuit, found_in.bridge, found_in.sparse, found_in.dense)
    assert [str(node) for site in mapped for node in site.nodes] == ["0.attn.act_in:2", "1.attn.act_in:2"]


def test_a_circuit_maps_its_reads_to_one_edit_per_sublayer_and_one_without_reads_is_refused(setting: Callable) -> None:
    found_in = setting()
    keep = {name: torch.arange(w) % 5 == 0 for name, w in node_locations(found_in.sparse.config).items()}
    values = {name: torch.zeros(len(mask)) for name, mask in keep.items()}
    circuit = Circuit("t", model_fingerprint(found_in.sparse), keep, values, "zero")
    mapped = map_circuit(circuit, found_in.bridge, found_in.sparse, found_in.dense)
    assert [(site.dense_site, site.kind) for site in mapped] == [(i, "read") for i in range(4)]
    assert {node for site in mapped for node in site.nodes} == {n for n in circuit.nodes if n.part == "act_in"}
    bare = {name: mask & ("act_in" not in name) for name, mask in keep.items()}
    with pytest.raises(UserError, match="no read nodes to map"):
        map_circuit(Circuit("t", "", bare, values, "zero"), found_in.bridge, found_in.sparse, found_in.dense)


def test_another_base_model_is_refused(setting: Callable) -> None:
    check_base_model(setting().dense.fingerprint, setting().dense, "model")
    with pytest.raises(UserError, match="another base model"):
        check_base_model("0" * 64, setting().dense, "model")
