"""`sparsebridge circuit show`: a circuit as tables, or drawn on a board with what its nodes are active on."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import CorpusText, Json, Overwrite, Seed
from cli.output import print_json, print_table, say, suggest
from cli.replacing import check_drawing
from foundation.errors import UserError

KINDS = (".html", ".svg")
MOST_NODES = 300
"""On a board; nobody reads a larger one."""


def show(
    circuit: Annotated[Path, typer.Argument(help="a circuit folder", show_default=False)],
    model: Annotated[
        Path, typer.Option("--model", help="the sparse model or bridge the circuit was pruned from", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="draw it into this .html (a self-contained page) or .svg file; unset: tables"),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="another task; unset: the circuit's own")] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="held-out pairs activations are averaged over")] = 64,
    contexts: Annotated[int, typer.Option("--contexts", min=1, help="passages of text per node")] = 5,
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="text blocks the passages are chosen from")] = 256,
    corpus: CorpusText = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """List a circuit's nodes and weights, or draw all of it with activations and the text its nodes are active on.

    Example: sparsebridge circuit show runs/closing_quote --model runs/bridge --out closing_quote.html
    """
    from cli.loading import load_sparse, load_tokenizer
    from foundation.writing import write_file
    from sparse_model.circuits.circuit import Circuit
    from sparse_model.corpus.reference_text import reference_blocks

    if out is not None:
        kind = check_drawing(out, overwrite, KINDS)
    loaded = Circuit.load(circuit)
    sparse = load_sparse(model, "cpu")
    loaded.check_model(sparse, str(model))
    if out is None:
        _list(sparse, loaded, as_json)
        if not as_json:
            suggest("circuit", "show", circuit, "--model", model, "--out", f"{loaded.task}.html")
        return

    from bridges.reports.board_page import board_page
    from bridges.reports.circuit_board import circuit_board
    from bridges.reports.figures.board_drawing import board_drawing
    from bridges.reports.node_description import FILE as DESCRIPTIONS
    from bridges.reports.node_description import keep_descriptions, kept_descriptions
    from sparse_model.tasks.registry import find_task, kept_task
    from sparse_model.tasks.splits import FEWEST
    from sparse_model.tasks.token_pairs import tokenise_pairs

    if not loaded.nodes:
        raise UserError(
            f"{circuit}: keeps no node, so there is nothing to draw; prune again with a lower --target-loss"
        )
    if len(loaded.nodes) > MOST_NODES:
        raise UserError(
            f"{circuit}: {len(loaded.nodes)} nodes do not fit a board of {MOST_NODES}; prune to fewer nodes, or list "
            "them without --out"
        )
    tokenizer, found = load_tokenizer(model), find_task(task or kept_task(circuit, loaded.task))
    fewest = min(pairs, FEWEST) if found.is_finite else None
    held_out = tokenise_pairs(found, tokenizer, pairs, "held_out", seed, fewest=fewest)
    text = reference_blocks(tokenizer, "held_out", blocks, sparse.config.block_size, corpus)
    board = circuit_board(sparse, loaded, held_out, tokenizer, text, contexts)
    written = kept_descriptions(circuit)
    for node in board["nodes"]:
        node["description"] = written.get(node["address"], node["description"])
    if not written and os.access(circuit, os.W_OK):
        keep_descriptions(circuit, board)
        say(f"a line per node written to {circuit / DESCRIPTIONS}; change it there and show the circuit again")
    drawn = board_page(board, found.description) if out.suffix == ".html" else board_drawing(board, "board") + "\n"
    write_file(out, drawn, overwrite, kind)
    say(f"{len(board['nodes'])} nodes and {len(board['edges'])} edges drawn into {out}")
    suggest("circuit", "evaluate", circuit, "--model", model)
    if as_json:
        print_json(board)


def _list(model: Any, circuit: Any, as_json: bool) -> None:
    """Nodes and edges as JSON or tables."""
    from sparse_model.circuits.edges import circuit_edges

    edges = list(circuit_edges(model, circuit.keep, circuit.edges))
    if as_json:
        print_json(
            {
                "task": circuit.task,
                "nodes": [str(node) for node in circuit.nodes],
                "edges": [{"source": str(e.source), "target": str(e.target), "weight": e.weight} for e in edges],
            }
        )
        return
    print_table(
        f"{circuit.task}: {len(circuit.nodes)} nodes",
        ("node", "edges in", "edges out"),
        [
            [str(node), str(sum(e.target == node for e in edges)), str(sum(e.source == node for e in edges))]
            for node in circuit.nodes
        ],
    )
    print_table(
        f"{len(edges)} edges (nonzero weights between kept nodes)",
        ("from", "to", "weight"),
        [[str(e.source), str(e.target), f"{e.weight:+.3f}"] for e in edges],
    )
