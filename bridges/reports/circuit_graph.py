"""A circuit as a graph in plain types: what every drawing and table of it is made from.

    nodes            kept channels, with their mean activation on a and on b prompts in the whole sparse model
    edges            nonzero weights between kept nodes (`circuit_edges`)
    residual links   a kept write of channel c and every later kept read of channel c: no weight, the stream itself
    example          the shortest pair, token by token, with every node's activation on both prompts

The same graph without a model (`bare_graph`) has nodes and residual links only.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sparse_model.circuits.circuit import Circuit, circuit_edges
from sparse_model.circuits.circuit_file import PART_ORDER
from sparse_model.circuits.prune import trim
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node
from sparse_model.transformer.taps import Recorder


@torch.no_grad()
def circuit_graph(
    model: SparseTransformer, circuit: Circuit, pairs: TokenPairs, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """The graph of `circuit` with its activations on `pairs`.

    Per node: `mean_a_last`, `mean_b_last` (at the last token), `mean_a_contrast`, `mean_b_contrast` (at each pair's
    token where the node differs most), `difference` (mean a − mean b there), `selectivity` (the difference over the
    sum of the two means' magnitudes, from −1 to 1), `relative_difference` (its magnitude over the location's largest)
    and `activations` (on the example, per token).

    Raises:
        UserError: the circuit was pruned from another model.
    """
    circuit.check_model(model)
    short = trim(pairs)
    kept = sorted(circuit.nodes, key=_forward)
    recorded = [_record(model, tokens, kept) for tokens in (short.tokens_a, short.tokens_b)]
    shown = shortest(short)
    nodes = []
    for node in kept:
        a, b = (found[node.location][..., node.channel].float().cpu() for found in recorded)
        nodes.append({**_describe(node), **_means(a, b, short), "activations": _on_example(a, b, short, shown)})
    largest: dict[str, float] = defaultdict(float)
    for node, found in zip(kept, nodes, strict=True):
        largest[node.location] = max(largest[node.location], abs(found["difference"]))
    for node, found in zip(kept, nodes, strict=True):
        found["relative_difference"] = (
            abs(found["difference"]) / largest[node.location] if largest[node.location] else 0.0
        )
    edges = [
        {"source": str(edge.source), "target": str(edge.target), "weight": edge.weight}
        for edge in circuit_edges(model, circuit.keep, circuit.edges)
    ]
    return {
        "task": circuit.task,
        "model_fingerprint": circuit.model_fingerprint,
        "ablation": circuit.ablation,
        "pairs": len(short),
        "nodes": nodes,
        "edges": edges,
        "residual_links": residual_links(kept),
        "example": _example(short, shown, tokenizer),
    }


def shortest(pairs: TokenPairs) -> int:
    """Index of the pair that serves as the example: the first of the fewest tokens."""
    return int(pairs.last.argmin())


def bare_graph(task: str, addresses: Iterable[str]) -> dict[str, Any]:
    """A circuit's graph where only its node addresses are known: no activations and no weights.

    Raises:
        UserError: an address is malformed.
    """
    nodes = sorted(map(Node.parse, addresses), key=_forward)
    return {
        "task": task,
        "nodes": [_describe(node) for node in nodes],
        "edges": [],
        "residual_links": residual_links(nodes),
    }


def residual_links(nodes: Sequence[Node]) -> list[dict[str, str]]:
    """Every kept write of a stream channel with every kept read of the same channel by a later sublayer."""
    reads: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.part == "act_in":
            reads[node.channel].append(node)
    return [
        {"source": str(write), "target": str(read)}
        for write in nodes
        if write.part == "resid_delta"
        for read in reads[write.channel]
        if read.sublayer > write.sublayer
    ]


def _forward(node: Node) -> tuple[int, int, int]:
    """Sorts nodes in the order a forward pass computes them."""
    return node.layer, PART_ORDER.index(f"{node.block}.{node.part}"), node.channel


def _record(model: SparseTransformer, tokens: Tensor, nodes: Sequence[Node]) -> dict[str, Tensor]:
    recorder = Recorder({node.location for node in nodes})
    model(tokens, tap=recorder)
    return recorder.activations


def _describe(node: Node) -> dict[str, Any]:
    return {
        "address": str(node),
        "layer": node.layer,
        "block": node.block,
        "sublayer": node.sublayer,
        "part": node.part,
        "channel": node.channel,
    }


def _means(a: Float[Tensor, "N T"], b: Float[Tensor, "N T"], pairs: TokenPairs) -> dict[str, float]:
    """Means over pairs at the last token, and at each pair's token of largest difference."""
    rows, last = torch.arange(len(a)), pairs.last.cpu()
    contrast = ((a - b).abs() * pairs.mask.cpu()).argmax(dim=1)
    means = {
        "mean_a_last": float(a[rows, last].mean()),
        "mean_b_last": float(b[rows, last].mean()),
        "mean_a_contrast": float(a[rows, contrast].mean()),
        "mean_b_contrast": float(b[rows, contrast].mean()),
    }
    difference = means["mean_a_contrast"] - means["mean_b_contrast"]
    size = abs(means["mean_a_contrast"]) + abs(means["mean_b_contrast"])
    return {**means, "difference": difference, "selectivity": difference / size if size else 0.0}


def _on_example(
    a: Float[Tensor, "N T"], b: Float[Tensor, "N T"], pairs: TokenPairs, shown: int
) -> dict[str, list[float]]:
    length = int(pairs.last[shown]) + 1
    return {"a": a[shown, :length].tolist(), "b": b[shown, :length].tolist()}


def _example(pairs: TokenPairs, shown: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    length = int(pairs.last[shown]) + 1

    def side(tokens: Tensor, answer: Tensor) -> dict[str, Any]:
        return {
            "tokens": [token_text(tokenizer, token) for token in tokens[:length].tolist()],
            "answer": token_text(tokenizer, int(answer)),
        }

    return {
        "template": pairs.template[shown],
        "a": side(pairs.tokens_a[shown], pairs.answer_a[shown]),
        "b": side(pairs.tokens_b[shown], pairs.answer_b[shown]),
    }


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """One token as text."""
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))
