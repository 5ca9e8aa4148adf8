"""What the `edit` commands do, between their options and the packages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridges.pairing import Pairing
from dense_adapters import LeftOut, load_stack
from foundation.artefacts import atomic_folder
from foundation.errors import UserError
from sparse_model.corpus.reference_text import reference_blocks


def map_paired(
    pairing: Pairing, circuit: Any, nodes: Sequence[str], loop: Any, strength: float | None, out: Path, overwrite: bool
) -> dict[str, Any]:
    """Write a paired edit; returns its description."""
    from bridges.edits.mapping import map_circuit, map_nodes
    from bridges.edits.paired_artefact import make_paired, save_paired
    from sparse_model.transformer.nodes import Node

    artefact, stack = pairing.artefact, pairing.stack
    if nodes:
        chosen = [check_kept(Node.parse(text), circuit) for text in nodes]
        sites = map_nodes(chosen, artefact.bridge, artefact.sparse, stack)
    else:
        sites = map_circuit(circuit, artefact.bridge, artefact.sparse, stack)
    claim = f"{circuit.task}: act as on the counterfactual prompt"
    edit = make_paired(sites, artefact.bridge, stack, circuit.task, claim, loop, 1.0 if strength is None else strength)
    save_paired(edit, out, overwrite)
    return describe(edit)


def map_standing(
    pairing: Pairing,
    circuit: Any,
    nodes: Sequence[str],
    rule: str,
    value: float | None,
    direction: str,
    task: str | None,
    corpus: Path | None,
    blocks: int,
    pairs: int,
    strength: float | None,
    seed: int,
    out: Path,
    overwrite: bool,
    skip_special: bool = False,
) -> dict[str, Any]:
    """Write a standing edit; returns its description."""
    from dataclasses import replace

    from bridges.edits.fit import node_edit
    from bridges.edits.rules import rules_of_nodes
    from bridges.edits.standing_artefact import save_standing
    from bridges.validation.isolation import ReferenceText
    from bridges.validation.standing import StandingChoice
    from sparse_model.tasks import find_task
    from sparse_model.tasks.splits import task_splits
    from sparse_model.transformer.nodes import Node

    artefact, stack = pairing.artefact, pairing.stack
    text = ReferenceText(
        stack, reference_blocks(artefact.tokenizer, "held_out", blocks, artefact.sparse.config.block_size, corpus)
    )
    left_out = LeftOut.special(artefact.tokenizer) if skip_special else LeftOut()
    if rule == "move":
        if nodes or value is not None:
            raise UserError(
                f"--node and --value need a --rule of {', '.join(rules_of_nodes())}; move takes the whole circuit"
            )
        splits = task_splits(find_task(task or circuit.task), artefact.tokenizer, pairs, max(2, pairs // 2), seed)
        chosen_by = StandingChoice(circuit, artefact.bridge, artefact.sparse, stack, splits, text, seed, left_out)
        edit = chosen_by.choose("circuit", direction)
    else:
        chosen = [check_kept(Node.parse(node), circuit) for node in nodes] or [
            node for node in circuit.nodes if node.part == "act_in"
        ]
        values = {} if value is None else {"value": value}
        models = artefact.bridge, artefact.sparse, stack
        edit = node_edit(chosen, rule, values, *models, text.h, circuit.task, left_out, text.tokens)
    if strength is not None:
        edit = replace(edit, strength=strength)
    save_standing(edit, out, overwrite)
    return describe(edit)


def check_kept(node: Any, circuit: Any) -> Any:
    """Refuse a node that is not in the circuit.

    Raises:
        UserError: unknown location, or a node the circuit does not keep.
    """
    if node not in circuit.nodes:
        raise UserError(f"node '{node}' is not in the circuit for '{circuit.task}'; see sparsebridge circuit show")
    return node


def describe(edit: Any) -> dict[str, Any]:
    """Claim, strength and sites of an edit as plain types."""
    sites = [{"dense_site": site.dense_site, "nodes": list(site.nodes)} for site in edit.sites]
    return {"task": edit.task, "claim": edit.claim, "strength": edit.strength, "sites": sites}


def bake_nodes(
    folder: Path, dense: str, out: Path, how: str, amount: float, nodes: Sequence[str], overwrite: bool, device: str
) -> dict[str, Any]:
    """Write a checkpoint with the read directions of an edit's nodes removed, or a bias along them added.

    Raises:
        UserError: the edit is not of reads, a node is not in it, or `out` exists.
        AttachError: the weights cannot be baked.
    """
    from bridges.edits.mapping import check_base_model
    from bridges.edits.paired_artefact import load_paired
    from dense_adapters import AddBias, DenseStack, RemoveDirection, bake, load_dense

    if out.exists() and not overwrite:
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    edit = load_paired(folder)
    if any(site.kind != "read" for site in edit.sites):
        raise UserError(f"{folder}: edits the residual stream, which no weight reads alone; bake an edit of read nodes")
    known = {
        name: (site.dense_site, row) for site in edit.sites for name, row in zip(site.nodes, site.decoder, strict=True)
    }
    for name in nodes:
        if name not in known:
            raise UserError(f"node '{name}' is not in {folder}; it has {', '.join(known)}")
    stack, tokenizer = load_stack(dense, device)
    check_base_model(edit.model_fingerprint, stack, dense)
    kind = RemoveDirection if how == "remove" else AddBias
    chosen = [known[name] for name in nodes or known]
    with atomic_folder(out, overwrite) as temporary:
        bake(stack, tuple(kind(site, row, amount) for site, row in chosen), temporary / "baked", tokenizer)
        for part in (temporary / "baked").iterdir():
            part.rename(temporary / part.name)
        (temporary / "baked").rmdir()
    after = DenseStack(load_dense(str(out), device=device)[0]).fingerprint
    return {"out": str(out), "nodes": list(nodes or known), "how": how, "before": stack.fingerprint, "after": after}


def validate_one(
    pairing: Pairing,
    circuit: Any,
    task: str | None,
    corpus: Path | None,
    blocks: int,
    pairs: int,
    draws: int,
    seed: int,
    device: str,
    out: Path | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Validate one circuit; writes the report where `out` is given."""
    from bridges.reports.circuit_graph import circuit_graph
    from bridges.reports.page import write_report
    from bridges.validation.isolation import ReferenceText
    from bridges.validation.specificity import check_draws
    from bridges.validation.validate import validate_circuit
    from sparse_model.tasks import find_task
    from sparse_model.tasks.splits import task_splits

    check_draws(draws)
    artefact, stack = pairing.artefact, pairing.stack
    splits = task_splits(find_task(task or circuit.task), artefact.tokenizer, 2 * pairs, pairs, seed, device)
    length = artefact.sparse.config.block_size
    text = ReferenceText(stack, reference_blocks(artefact.tokenizer, "held_out", blocks, length, corpus), device)
    found = validate_circuit(circuit, artefact.bridge, artefact.sparse, stack, splits, text, draws, seed)
    if out is not None:
        graph = circuit_graph(artefact.sparse, circuit, splits.held_out, artefact.tokenizer)
        tasks = {circuit.task: {"details": found.report, "circuit": graph}}
        write_report(out, {"verdict": found.word, "tasks": tasks}, overwrite)
    return found.report
