"""A task's circuit in the sparse model, and how far it can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path

from bridges.reports.board_page import board_page
from bridges.reports.circuit_board import circuit_board
from bridges.reports.figures.board_drawing import board_drawing
from foundation.errors import UserError
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.evaluate import CircuitEvaluation, evaluate_circuit
from sparse_model.circuits.evidence.gather import Evidence, gather
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.circuits.prune import prune as find_circuit
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks.registry import kept_task
from sparse_model.tasks.splits import Splits, task_splits
from sparse_model.tasks.task import Task
from sparse_model.transformer.nodes import Node
from sparsebridge.bridged import BridgedModel
from sparsebridge.pairs import task as find_task
from sparsebridge.shown import html_table

EVALUATE_PAIRS = 64
"""Pairs that are chosen on, and as many held-out ones that are reported on."""


@dataclass(frozen=True, eq=False)
class TaskCircuit:
    """The nodes of a sparse model that do one task, with the model and the pairs they were found on."""

    bridge: BridgedModel
    task: Task
    circuit: Circuit
    """the nodes and edges themselves, and what the others are frozen at"""
    splits: Splits
    """pairs to fit on, to choose on, and held out"""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Kept nodes in forward order."""
        return self.circuit.nodes

    @property
    def seed(self) -> int:
        """Of the pairs and of every random choice."""
        return int(self.circuit.pairs.get("seed", 0))

    @cached_property
    def evaluation(self) -> CircuitEvaluation:
        """Losses of the circuit alone and of the model without it, on held-out pairs, beside random circuits."""
        return evaluate_circuit(self.bridge.sparse, self.circuit, self.splits.held_out, seed=self.seed)

    def board(self, contexts: int = 5, blocks: int = 64) -> str:
        """The circuit drawn as one interactive HTML page: its nodes, their weights, and the text they are active on.

        Args:
            contexts: passages of text per node.
            blocks: of held-out text the passages are chosen from.

        Raises:
            UserError: the circuit keeps no node.
        """
        return board_page(self._drawn(contexts, blocks), self.task.description)

    def _drawn(self, contexts: int, blocks: int) -> dict[str, object]:
        if not self.nodes:
            raise UserError(
                f"the circuit for '{self.task.name}' keeps no node, so there is nothing to draw; prune to a lower target_loss"
            )
        bridge, pairs, text = self.bridge, self.splits.held_out, self.bridge.blocks("held_out", blocks)
        return circuit_board(bridge.sparse, self.circuit, pairs, bridge.artefact.tokenizer, text, contexts)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the circuit as a folder that `load_circuit` and the command line read.

        Raises:
            UserError: the folder exists and `overwrite` is false.
        """
        metrics = {**self.circuit.metrics, "evaluation": self.evaluation.to_json()}
        replace(self.circuit, metrics=metrics).save(Path(folder), overwrite)

    def __repr__(self) -> str:
        metrics = self.circuit.metrics
        return (
            f"TaskCircuit({self.task.name!r}: {len(self.nodes)} nodes, {metrics['edges']} edges, "
            f"validation loss {metrics['validation_loss']:.3f} nats (whole model {metrics['full_model_loss']:.3f}, chance 0.693))"
        )

    def _repr_html_(self) -> str:
        return self._html

    @cached_property
    def _html(self) -> str:
        """Drawn once, however often a notebook shows it."""
        drawn = board_drawing(self._drawn(1, 8), "board") if self.nodes else ""
        return f"<p>{escape(repr(self))}</p>{drawn}"


def prune(
    bridge: BridgedModel,
    task: str | Path | Task | Sequence[Sequence[str]],
    settings: PruneConfig | None = None,
    evaluate_pairs: int = EVALUATE_PAIRS,
) -> TaskCircuit:
    """Find the smallest circuit that still does a task.

    Args:
        task: a built-in name, a `.jsonl` file, a task, or rows (prompt a, answer a, prompt b, answer b).
        settings: target loss, steps, number of training pairs, seed, …
        evaluate_pairs: pairs to choose on, and as many held out.

    Raises:
        UserError: the sparse model does not do the task, or too few pairs fit its tokenizer.
    """
    config, chosen = settings or PruneConfig(), find_task(task)
    splits = task_splits(chosen, bridge.artefact.tokenizer, config.pairs, evaluate_pairs, config.seed, bridge.device)
    values = bridge.ablation_values(config.ablation)
    found = find_circuit(bridge.sparse, splits.train, splits.validation, values, config)
    circuit = replace(found, pairs={"seed": config.seed, **splits.sizes()})
    return TaskCircuit(bridge, chosen, circuit, splits)


def load_circuit(
    folder: str | Path, bridge: BridgedModel, task: str | Path | Task | Sequence[Sequence[str]] | None = None
) -> TaskCircuit:
    """Read a circuit, with the pairs it was made with.

    Args:
        bridge: with the sparse model it was pruned from.
        task: unset, the circuit's own: a built-in one, or the file kept in its folder.

    Raises:
        UserError: the folder is damaged, the model is another one, or the task is unknown.
    """
    circuit = Circuit.load(Path(folder))
    circuit.check_model(bridge.sparse, str(bridge.folder))
    chosen = find_task(kept_task(Path(folder), circuit.task) if task is None else task)
    pairs, config = circuit.pairs, PruneConfig.from_mapping(circuit.settings, origin=str(folder))
    train, held_out = pairs.get("train", config.pairs), pairs.get("held_out", EVALUATE_PAIRS)
    seed = pairs.get("seed", config.seed)
    splits = task_splits(chosen, bridge.artefact.tokenizer, train, held_out, seed, bridge.device)
    return TaskCircuit(bridge, chosen, circuit, splits)


@dataclass(frozen=True, eq=False)
class CircuitEvidence:
    """Every check of one circuit beside its control, and the grade from A to D that follows."""

    task: str
    found: Evidence
    """figures and intervals of every check"""

    @property
    def grade(self) -> str:
        """A (every gate passed) to D (the circuit is not sufficient or not necessary)."""
        return self.found.grade.letter

    @property
    def sentences(self) -> dict[str, str]:
        """What every check says, in a sentence."""
        return {name: finding.sentence for name, finding in self.found.findings.items()}

    def __repr__(self) -> str:
        gates = self.found.grade.gates
        passed, measured = sum(bool(gate.passed) for gate in gates), sum(gate.passed is not None for gate in gates)
        return f"CircuitEvidence({self.task!r}: grade {self.grade}, {passed} of {measured} measured gates passed)"

    def _repr_html_(self) -> str:
        missing = {name: f"not measured: {reason}" for name, reason in self.found.missing.items()}
        rows = [[name.replace("_", " "), said] for name, said in {**self.sentences, **missing}.items()]
        return html_table(repr(self), ("check", "what it says"), rows)


def evidence(circuit: TaskCircuit, draws: int = 100, controls: bool = False, seeds: int = 0) -> CircuitEvidence:
    """Question a circuit on held-out pairs: is it sufficient, necessary, robust, and smaller than what could be forced?

    Args:
        draws: random node sets per control.
        controls: also prune for nonsense answers and in a shuffled model; takes several times as long as `prune`, and
            without it no grade is better than C.
        seeds: prune with this many seeds for their agreement, unless the circuit holds them.
    """
    bridge, splits = circuit.bridge, circuit.splits
    config = PruneConfig.from_mapping(circuit.circuit.settings, origin="the circuit")
    subject = Subject(bridge.sparse, circuit.circuit, splits.held_out, circuit.seed)
    text = bridge.blocks("train") if controls else None
    found = gather(subject, splits.train, splits.validation, text, config, draws, seeds)
    return CircuitEvidence(circuit.task.name, found)
