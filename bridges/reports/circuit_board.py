"""Everything the board of a circuit shows: its graph, and where it begins, ends, works and fires.

token       per node the token of the example where it does most of its work: the largest |gradient of the logit
            difference × (activation − ablation value)| in the circuit, over both prompts
inputs      entries of the token and position embeddings in the channels that kept nodes read, at the node's token
outputs     what each kept write adds to the two answers' logits: unembedding × final gain, before the final norm's scale
heads       kept queries and keys of one channel, which meet in an attention score without a weight
contexts    per node the passages of ordinary text where it is most active in the whole model
description one line of what these passages have in common, or what a person wrote in its place
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bridges.reports.circuit_graph import circuit_graph, shortest, token_text
from bridges.reports.node_description import describe
from sparse_model.circuits.ablation import final_logits
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.contexts import top_contexts
from sparse_model.circuits.edges import edges_between, source_of
from sparse_model.circuits.prune import trim
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node
from sparse_model.transformer.taps import Chain, Recorder


def circuit_board(
    model: SparseTransformer,
    circuit: Circuit,
    pairs: TokenPairs,
    tokenizer: PreTrainedTokenizerBase,
    blocks: NDArray[np.integer],
    contexts: int = 5,
) -> dict[str, Any]:
    """The graph of `circuit_graph` with `token`, `effects`, `contexts`, `description`, `edges_used` and `edges_total` per
    node, `inputs`, `outputs` and `heads`.

    Args:
        blocks: token blocks [N, T] of ordinary text.
        contexts: passages per node.

    Raises:
        UserError: the circuit was pruned from another model.
    """
    board = circuit_graph(model, circuit, pairs, tokenizer)
    nodes = [Node.parse(found["address"]) for found in board["nodes"]]
    one = trim(trim(pairs).select([shortest(pairs)]))
    effects = token_effects(model, circuit, one, nodes)
    passages = top_contexts(model, nodes, blocks, contexts)
    for node, found in zip(nodes, board["nodes"], strict=True):
        found["effects"] = effects[node].ablated.tolist()
        found["contexts"] = [
            {
                "tokens": [token_text(tokenizer, token) for token in context.tokens],
                "at": context.at,
                "activation": context.activation,
            }
            for context in passages[node]
        ]
        found["description"] = describe(found["contexts"])
    weights = weights_of(model, circuit, nodes)
    for node, found in zip(nodes, board["nodes"], strict=True):
        found["edges_used"], found["edges_total"] = weights[node]
    tokens = places(nodes, effects, board)
    for found in board["nodes"]:
        found["token"] = tokens[found["address"]]
    board["inputs"] = _inputs(model, one, board["nodes"])
    board["outputs"] = _outputs(model, one, nodes)
    board["heads"] = _heads(model, nodes)
    return board


def weights_of(model: SparseTransformer, circuit: Circuit, nodes: Sequence[Node]) -> dict[Node, tuple[int, int]]:
    """Per node how many of the model's nonzero weights into and out of it are edges of the circuit, and how many there are."""
    everything = {name: torch.ones_like(mask) for name, mask in circuit.keep.items()}
    counts = []
    for between in (edges_between(model, circuit.keep, circuit.edges), edges_between(model, everything)):
        found = {name: torch.zeros(len(mask), dtype=torch.long) for name, mask in circuit.keep.items()}
        for target, edges in between.items():
            found[target] += edges.sum(1).cpu()
            found[source_of(target)] += edges.sum(0).cpu()
        counts.append(found)
    used, total = counts
    return {node: (int(used[node.location][node.channel]), int(total[node.location][node.channel])) for node in nodes}


class TokenEffects(NamedTuple):
    """Of one node per token [T], summed over both prompts: what ablating it there does to the logit difference, to first
    order, and how steeply the difference depends on it there. Magnitudes."""

    ablated: Tensor
    slope: Tensor


def token_effects(
    model: SparseTransformer, circuit: Circuit, pair: TokenPairs, nodes: Sequence[Node]
) -> dict[Node, TokenEffects]:
    """The effects of every node in the circuit alone, on the only pair."""
    batch = pair.prompts()
    recorder = Recorder({node.location for node in nodes})
    with torch.enable_grad():
        logits = final_logits(
            circuit.within(model), batch.tokens, batch.last, Chain(_require_gradient, circuit.only(), recorder)
        )
        difference = logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.other[:, None])
        names = list(recorder.activations)
        found = torch.autograd.grad(difference.sum(), [recorder.activations[name] for name in names], allow_unused=True)
    gradients = dict(zip(names, found, strict=True))
    effects = {}
    for node in nodes:
        gradient, activation = gradients[node.location], recorder.activations[node.location]
        if gradient is None:
            effects[node] = TokenEffects(*torch.zeros(2, batch.tokens.shape[1]))
            continue
        moved = activation[..., node.channel] - circuit.values[node.location][node.channel]
        slope = gradient[..., node.channel]
        effects[node] = TokenEffects(*(x.detach().abs().sum(0).cpu() for x in (slope * moved, slope)))
    return effects


def _require_gradient(name: str, tensor: Tensor, /) -> Tensor:
    """A tap that makes gradients flow whether or not the model's weights have any."""
    return tensor if tensor.requires_grad else tensor.detach().requires_grad_()


def places(nodes: Sequence[Node], effects: Mapping[Node, TokenEffects], board: Mapping[str, Any]) -> dict[str, int]:
    """Every node's token, readers before what they read."""
    readers: dict[str, tuple[float, str]] = {}
    for edge in board["edges"]:
        if not edge["source"].split(":")[0].endswith(".v"):  # a value is read at other tokens than its own
            heaviest = readers.get(edge["source"], (0.0, ""))
            readers[edge["source"]] = max(heaviest, (abs(edge["weight"]), edge["target"]))
    tokens: dict[str, int] = {}
    for node, found in zip(reversed(nodes), reversed(board["nodes"]), strict=True):
        reader = readers.get(found["address"], (0.0, ""))[1]
        tokens[found["address"]] = place_of(effects[node], found["activations"], tokens.get(reader))
    return tokens


def place_of(effects: TokenEffects, activations: Mapping[str, Sequence[float]], reader: int | None = None) -> int:
    """The token of largest effect; without any (as of nodes whose readers AbsTopK silences on the example) that of the
    steepest slope, then of the node's reader, then of largest activation, then the last.
    """
    for sizes in effects:
        if float(sizes.max()) > 0:
            return int(sizes.argmax())
    if reader is not None:
        return reader
    active = np.abs(np.asarray([activations["a"], activations["b"]])).max(0)
    return int(active.argmax()) if active.max() > 0 else len(active) - 1


def _inputs(model: SparseTransformer, pair: TokenPairs, nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Nonzero embedding entries of the tokens at which kept reads stand.

    `side` is a, b, or ab where both prompts have the same token; position for the position embedding.
    """
    words, found = model.embeddings("wte").weight.detach(), []
    places = model.embeddings("wpe").weight.detach() if model.config.position == "added" else None
    for node in nodes:
        if node["part"] != "act_in" or node["channel"] >= model.config.d_model:
            continue
        token, channel = node["token"], node["channel"]
        a, b = int(pair.tokens_a[0, token]), int(pair.tokens_b[0, token])
        for side, word in (("ab", a),) if a == b else (("a", a), ("b", b)):
            found.append((node["address"], token, side, float(words[word, channel])))
        if places is not None:
            found.append((node["address"], token, "position", float(places[token, channel])))
    return [
        {"target": address, "token": token, "side": side, "weight": weight}
        for address, token, side, weight in found
        if weight
    ]


def _outputs(model: SparseTransformer, pair: TokenPairs, nodes: Sequence[Node]) -> list[dict[str, Any]]:
    """Nonzero weights from kept writes to the two answers of the pair."""
    rows = model.lm_head.weight.detach() * model.norm_gain(len(model.sublayers)).detach()
    answers = {"a": int(pair.answer_a[0]), "b": int(pair.answer_b[0])}
    return [
        {"source": str(node), "side": side, "weight": weight}
        for node in nodes
        if node.part == "resid_delta"
        for side, answer in answers.items()
        if (weight := float(rows[answer, node.channel]))
    ]


def _heads(model: SparseTransformer, nodes: Sequence[Node]) -> list[dict[str, Any]]:
    """Kept query and key of the same channel."""
    kept = {str(node) for node in nodes}
    return [
        {"query": str(node), "key": key, "head": node.channel // model.config.d_head}
        for node in nodes
        if node.part == "q" and (key := f"{node.layer}.attn.k:{node.channel}") in kept
    ]
