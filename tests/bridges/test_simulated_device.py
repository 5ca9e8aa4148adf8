"""Validating, mapping and applying on a device: nothing is left behind on the CPU. Without a GPU, on a simulated one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from bridges.alignment import align
from bridges.bridge import Bridge
from bridges.edits.fit import node_edit
from bridges.edits.mapping import map_nodes
from bridges.edits.paired import make_paired
from bridges.edits.standing import walk_edited
from bridges.edits.standing_artefact import load_standing, save_standing
from bridges.validation import isolation
from bridges.validation.isolation import ReferenceText
from bridges.validation.validate import Effort, validate_circuit
from dense_adapters import DenseStack
from foundation.fingerprints import model_fingerprint
from sparse_model.circuits.circuit import Circuit
from sparse_model.tasks.splits import Splits
from sparse_model.transformer.nodes import Node, node_locations
from tests.bridges.validation.conftest import token_pairs
from tests.simulated_device import OnDevice, moved, simulated


@pytest.fixture
def on_device(tiny_sparse: Callable, tiny_gpt2: Callable, monkeypatch: pytest.MonkeyPatch):
    """Models, bridge, circuit and pairs that were moved to the device."""
    monkeypatch.setattr(isolation, "UNRELATED_BELOW", 0.5)
    sparse, dense = tiny_sparse().requires_grad_(False), DenseStack(tiny_gpt2())
    bridge = Bridge(align(sparse, dense), sparse.d_model, dense.d_model, 0.25).requires_grad_(False)
    keep = {name: torch.arange(w) % 6 == 1 for name, w in node_locations(sparse.config).items()}
    values = {name: torch.zeros(len(mask)) for name, mask in keep.items()}
    circuit = Circuit("tiny", model_fingerprint(sparse), keep, values, "zero")
    fingerprint = dense.fingerprint
    for module in (sparse, dense.model, bridge):
        moved(module)
    dense._fingerprint = fingerprint
    return sparse, dense, bridge, circuit


def test_a_tensor_left_on_the_cpu_is_noticed_or_this_file_tests_nothing() -> None:
    with simulated() as device:
        there, here = torch.ones(2, 3, device=device), torch.ones(3, 2)
        assert isinstance(there, OnDevice)
        with pytest.raises(RuntimeError, match="is on the CPU"):
            there @ here
        assert (there @ here.to(there)).cpu().tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_a_verdict_is_reached_on_the_device(on_device) -> None:
    sparse, dense, bridge, circuit = on_device
    with simulated() as device:
        splits = Splits(*(token_pairs(6, seed).to(device) for seed in (1, 2, 3)))
        text = ReferenceText(dense, torch.randint(0, 40, (6, 14)).numpy(), str(device))
        found = validate_circuit(circuit, bridge, sparse, dense, splits, text, 99, effort=Effort(null_bridges=1))
    assert found.word in ("explains", "steers", "fails")
    assert found.report["standing"]


def test_standing_edits_made_or_loaded_on_the_cpu_act_on_the_device(on_device, tmp_path) -> None:
    sparse, dense, bridge, _ = on_device
    with simulated() as device:
        tokens = torch.randint(0, 40, (2, 7)).to(device)
        text = ReferenceText(dense, torch.randint(0, 40, (3, 14)).numpy(), str(device))
        edit = node_edit([Node(1, "attn", "act_in", 7)], "ablate", {}, bridge, sparse, dense, text.h)
        save_standing(edit, tmp_path / "e")
        loaded = load_standing(tmp_path / "e")
        here, there = (walk_edited(dense, one, tokens).cpu() for one in (edit, replace(loaded)))
    torch.testing.assert_close(here, there)


def test_paired_edits_run_on_the_device(on_device) -> None:
    sparse, dense, bridge, _ = on_device
    with simulated() as device:
        pairs = token_pairs(4, 1).to(device)
        prompt, other = pairs.tokens_a[:1], pairs.tokens_b[:1]
        sites = map_nodes([Node(0, "mlp", "act_in", 3)], bridge, sparse, dense)
        edit = make_paired(sites, bridge, dense, "t", "claims", "closed", 1.0)
        with torch.no_grad(), edit.applied(dense, prompt, other):
            edited = dense.model(prompt).logits
        assert not torch.equal(edited.cpu(), dense.model(prompt).logits.cpu())
