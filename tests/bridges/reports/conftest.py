"""A real validation of a random circuit on tiny untrained models, which fails its verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from bridges.alignment import align
from bridges.bridge import Bridge
from bridges.evaluate import evaluate_bridge
from bridges.jobs.explain import Explanation, dense_accuracy
from bridges.reports.circuit_graph import circuit_graph
from bridges.validation.isolation import ReferenceText
from bridges.validation.validate import Validation, validate_circuit
from dense_adapters import DenseStack
from foundation.fingerprints import model_fingerprint
from sparse_model import SparseTransformer
from sparse_model.circuits.ablation import ablation_values
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.evaluate import evaluate_circuit
from sparse_model.corpus.reference_text import builtin_blocks
from sparse_model.tasks.splits import Splits
from sparse_model.tasks.task import TextPair
from sparse_model.tasks.token_pairs import TokenPairs, tokenise_pairs
from sparse_model.transformer.nodes import node_locations


@dataclass(frozen=True)
class Explained:
    """Everything a report of one task is made from."""

    model: SparseTransformer
    circuit: Circuit
    pairs: TokenPairs
    tokenizer: PreTrainedTokenizerFast
    validation: Validation
    report: dict[str, Any]


@pytest.fixture(scope="session")
def explained(
    tiny_gpt2: Callable[..., GPT2LMHeadModel],
    tiny_sparse: Callable[..., SparseTransformer],
    tokenizer: PreTrainedTokenizerFast,
) -> Explained:
    """One task of a demo report on tiny models."""
    torch.manual_seed(0)
    vocabulary = {"vocab_size": len(tokenizer)}
    dense = DenseStack(tiny_gpt2(n_positions=32, **vocabulary))
    sparse = tiny_sparse(block_size=32, **vocabulary)
    bridge = Bridge(align(sparse, dense), sparse.d_model, dense.d_model, 0.25)
    for module in (dense.model, bridge):
        module.requires_grad_(False)
    splits = Splits(*(tokenise_pairs(quote_pairs(words), tokenizer, 4) for words in WORDS))
    blocks = builtin_blocks(tokenizer, "held_out", 4, 24)
    values = ablation_values(sparse, blocks)
    circuit = Circuit("closing_quote", model_fingerprint(sparse), random_keep(sparse), values, "mean")
    validation = validate_circuit(circuit, bridge, sparse, dense, splits, ReferenceText(dense, blocks), draws=99)
    explanation = Explanation(
        circuit,
        evaluate_circuit(sparse, circuit, splits.held_out, draws=2),
        dense_accuracy(dense, splits.held_out),
        validation,
        splits.held_out,
    )
    evaluation = evaluate_bridge(sparse, dense, bridge, blocks, mixed_paths=2).to_json()
    sparse.requires_grad_(False)  # the density of a model is that of what it trains, so not before its evaluation
    graph = circuit_graph(sparse, circuit, splits.held_out, tokenizer)
    report = {
        "verdict": "fails",
        "seconds": 12.5,
        "versions": {"sparsebridge": "0.1.0", "torch": torch.__version__},
        "models": {
            "dense": {"name": "tiny <gpt2>", "fingerprint": dense.fingerprint},
            "sparse": {"fingerprint": model_fingerprint(sparse)},
        },
        **{key: evaluation[key] for key in ("density", "ce_dense", "ce_sparse", "kl_dense_sparse")},
        "evaluation": {"tinypython": evaluation},
        "tasks": {"closing_quote": {**explanation.to_json(), "circuit": graph}},
    }
    return Explained(sparse, circuit, splits.held_out, tokenizer, validation, report)


WORDS = (("a", "b", "c", "d"), ("e", "f", "g", "h"), ("i", "j", "k", "l"))
"""One letter per pair of the training, the validation and the held-out split."""


def quote_pairs(letters: tuple[str, ...]) -> list[TextPair]:
    """Short prompts that close a string with the quote that opened it."""
    return [TextPair(f"x = '{letter}", "'", "", f'x = "{letter}', '"', "", "assignment") for letter in letters]


def random_keep(model: SparseTransformer) -> dict[str, torch.Tensor]:
    """A third of the channels of every location; q and k alike."""
    generator = torch.Generator().manual_seed(3)
    keep: dict[str, torch.Tensor] = {}
    for name, width in node_locations(model.config).items():
        keep[name] = (
            keep[name[:-1] + "q"].clone() if name.endswith(".k") else torch.rand(width, generator=generator) < 0.33
        )
    return keep
