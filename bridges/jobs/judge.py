"""A circuit's verdict from what a user names, and the report that pages are drawn from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bridges.artefact import BridgeArtefact
from bridges.jobs.material import Material
from bridges.reports.circuit_graph import circuit_graph
from bridges.reports.page import write_report
from bridges.validation.specificity import check_draws
from bridges.validation.validate import Validation, validate_circuit
from sparse_model.circuits.circuit import Circuit
from sparse_model.tasks.token_pairs import TokenPairs


def judge(circuit: Circuit, material: Material, draws: int = 100) -> Validation:
    """Validate a circuit on the material's pairs and text.

    Args:
        draws: matched node sets outside the circuit; at least 99.

    Raises:
        UserError: fewer draws than p needs, the task is unknown, or too few of its pairs fit the tokenizer.
    """
    check_draws(draws)
    artefact, stack = material.pairing.artefact, material.pairing.stack
    parts = artefact.bridge, artefact.sparse, stack
    return validate_circuit(circuit, *parts, material.splits, material.text, draws, material.amounts.seed)


def write_verdict(
    out: Path,
    circuit: Circuit,
    artefact: BridgeArtefact,
    held_out: TokenPairs,
    found: Validation,
    overwrite: bool = False,
) -> None:
    """Write `report.json` and `report.html` of one verdict to the folder `out`.

    Raises:
        UserError: it exists and `overwrite` is false.
    """
    write_report(out, verdict_report(circuit, artefact, held_out, found.word, found.report), overwrite)


def verdict_report(
    circuit: Circuit, artefact: BridgeArtefact, held_out: TokenPairs, word: str, details: Mapping[str, Any]
) -> dict[str, Any]:
    """The report of one verdict; its keys are in docs/report.md.

    Args:
        held_out: pairs the drawing's activations are averaged over.
        details: every figure of the verdict.
    """
    graph = circuit_graph(artefact.sparse, circuit, held_out, artefact.tokenizer)
    return {"verdict": word, "tasks": {circuit.task: {"details": dict(details), "circuit": graph}}}
