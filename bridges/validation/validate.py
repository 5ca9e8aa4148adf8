"""Validation of a circuit as an explanation of the dense model (METHOD §6), from pairs to verdict.

1. map      read nodes → directions (M5)
2. choose   loop and strength of the paired edit, site and strength of the standing edits, on validation pairs
3. judge    both directions on held-out pairs, with controls, baselines and isolation
4. verdict  named gates
"""

from dataclasses import dataclass
from typing import Any

from bridges.bridge import Bridge
from bridges.edits.mapping import SiteDirections, map_circuit
from bridges.edits.paired import Direction, PairedRun
from bridges.edits.standing import StandingEdit
from bridges.validation.isolation import ReferenceText
from bridges.validation.paired import choose_paired, concentration, judge_paired
from bridges.validation.standing import choose_standing, claim_of, judge_standing
from bridges.validation.verdict import Gate, verdict
from dense_adapters import DenseStack
from sparse_model.circuits.circuit import Circuit
from sparse_model.tasks.splits import Splits
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

DIRECTIONS = {"a_to_b": True, "b_to_a": False}


@dataclass(frozen=True)
class Validation:
    """Figures, gates and the standing edits that were judged."""

    report: dict[str, Any]
    gates: tuple[Gate, ...]
    standing: dict[str, StandingEdit]

    @property
    def passed(self) -> bool:
        """Whether every gate passed."""
        return all(gate.passed for gate in self.gates)


def validate_circuit(
    circuit: Circuit,
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: DenseStack,
    splits: Splits,
    text: ReferenceText,
    draws: int = 100,
    seed: int = 0,
) -> Validation:
    """Validate one circuit.

    Args:
        text: held-out reference text.
        draws: random-direction draws per direction; at least 100 for p < 0.01.
    """
    sites = map_circuit(circuit, bridge, sparse, dense)

    def runs(pairs: TokenPairs) -> dict[str, PairedRun]:
        return {
            name: PairedRun(Direction.of(pairs, forward), sites, bridge, sparse, dense)
            for name, forward in DIRECTIONS.items()
        }

    training, choosing, reporting = runs(splits.train), runs(splits.validation), runs(splits.held_out)
    choice = choose_paired(list(choosing.values()))
    paired = {name: judge_paired(reporting[name], training[name], choice, text, draws, seed) for name in DIRECTIONS}
    counts = sorted({min(n, max(len(site.nodes) for site in sites)) for n in (1, 2, 4, 8, 16, 32)})
    standing: dict[str, StandingEdit] = {}
    judged: dict[str, Any] = {}
    for name, forward in DIRECTIONS.items():
        standing[name] = choose_standing(
            circuit,
            training[name].direction,
            choosing[name].direction,
            bridge,
            sparse,
            dense,
            text,
            claim_of(circuit.task, forward),
        )
        judged[name] = judge_standing(dense, standing[name], reporting[name].direction, text, seed)
    gates = verdict(paired, judged)
    report = {
        "task": circuit.task,
        "mapped_nodes": _mapped(sites),
        "choice": {"loop": choice.loop, "strength": choice.strength, "validation_recovered": choice.curves},
        "paired": paired,
        "concentration": {name: concentration(reporting[name], counts, choice) for name in DIRECTIONS},
        "standing": judged,
        "verdict": {"passed": all(gate.passed for gate in gates), "gates": [gate.to_json() for gate in gates]},
    }
    return Validation(report, tuple(gates), standing)


def _mapped(sites: tuple[SiteDirections, ...]) -> list[dict[str, Any]]:
    return [
        {"dense_site": site.dense_site, "kind": site.kind, "nodes": [str(node) for node in site.nodes]}
        for site in sites
    ]
