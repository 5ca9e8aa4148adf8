"""Whether a circuit explains the dense model, and pages that show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bridges.jobs.judge import verdict_report
from bridges.reports.page import render_artefact, render_page, write_report
from bridges.validation.validate import validate_circuit
from bridges.validation.verdict import reason_of, word_of
from foundation.errors import UserError
from foundation.kinds import PAGE
from foundation.verdicts import Gate, Word
from foundation.writing import write_file
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks.task import Task
from sparsebridge.bridged import BridgedModel
from sparsebridge.circuits import EVALUATE_PAIRS, TaskCircuit, prune
from sparsebridge.shown import html_table


@dataclass(frozen=True, eq=False)
class Verdict:
    """Whether a circuit explains what the dense model does, gate by gate."""

    circuit: TaskCircuit
    details: Mapping[str, object]
    """every figure with its interval and its controls"""
    gates: tuple[Gate, ...]
    """in the order of the argument, each with what was measured and what is required"""

    @property
    def word(self) -> Word:
        """explains, steers or fails."""
        return word_of(self.gates)

    @property
    def reason(self) -> str:
        """Why the word is not a better one, in a sentence."""
        return reason_of(self.gates)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the gates that did not pass."""
        return tuple(gate.name for gate in self.gates if not gate.passed)

    def to_report(self) -> dict[str, object]:
        """The JSON that every page is drawn from; its keys are in docs/report.md."""
        found = self.circuit
        return verdict_report(found.circuit, found.bridge.artefact, found.splits.held_out, self.word, self.details)

    def __repr__(self) -> str:
        passed = f"{len(self.gates) - len(self.failed)} of {len(self.gates)} gates passed"
        return f"Verdict({self.circuit.task.name!r}: {self.word}; {passed})"

    def _repr_html_(self) -> str:
        rows = [
            [
                "yes" if gate.passed else "NO",
                gate.name,
                gate.measured,
                gate.required,
                "" if gate.passed else gate.remedy,
            ]
            for gate in self.gates
        ]
        return html_table(repr(self), ("passed", "gate", "measured", "required", "what to do"), rows)


def validate(circuit: TaskCircuit, draws: int = 100) -> Verdict:
    """Test on held-out prompts whether a circuit explains what the dense model does.

    Args:
        draws: matched node sets outside the circuit; at least 99.

    Raises:
        UserError: fewer draws than p needs.
    """
    bridge = circuit.bridge
    parts = bridge.artefact.bridge, bridge.sparse, bridge.dense.stack
    found = validate_circuit(circuit.circuit, *parts, circuit.splits, bridge.text, draws, circuit.seed)
    return Verdict(circuit, found.report, found.gates)


@dataclass(frozen=True, eq=False)
class TaskExplanation:
    """A task's circuit and the verdict on it."""

    circuit: TaskCircuit
    verdict: Verdict

    def __repr__(self) -> str:
        return f"TaskExplanation({self.circuit!r}, {self.verdict!r})"

    def _repr_html_(self) -> str:
        return self.verdict._repr_html_() + self.circuit._repr_html_()


def explain(
    bridge: BridgedModel,
    task: str | Path | Task | Sequence[Sequence[str]],
    settings: PruneConfig | None = None,
    evaluate_pairs: int = EVALUATE_PAIRS,
    draws: int = 100,
) -> TaskExplanation:
    """The whole job on one task: prune a circuit, map it to edits of the dense model, and judge them.

    Args:
        task: a built-in name, a `.jsonl` file, a task, or rows (prompt a, answer a, prompt b, answer b).
        settings: how the circuit is pruned.
        evaluate_pairs: pairs to choose on, and as many held out.
        draws: matched node sets outside the circuit; at least 99.

    Raises:
        UserError: the sparse model does not do the task, too few pairs fit, or nothing maps.
    """
    circuit = prune(bridge, task, settings, evaluate_pairs)
    return TaskExplanation(circuit, validate(circuit, draws))


def report(
    what: TaskCircuit | Verdict | TaskExplanation | str | Path, path: str | Path, overwrite: bool = False
) -> Path:
    """Write a self-contained HTML page; returns where it is.

    Args:
        what: a verdict or explanation, a circuit (drawn as a board), or the folder of any artefact.
        path: an `.html` file; for a verdict also a folder, which then holds `report.json` beside the page.

    Raises:
        UserError: the path exists and `overwrite` is false or it is no page of this program, or its folder does not.
    """
    path = Path(path)
    if isinstance(what, TaskExplanation):
        what = what.verdict
    if isinstance(what, Verdict) and path.suffix != ".html":
        write_report(path, what.to_report(), overwrite)
        return path / "report.html"
    if path.exists() and not overwrite:
        raise UserError(f"{path}: already exists; choose another path or pass overwrite=True")
    if path.suffix != ".html" or not path.parent.is_dir():
        raise UserError(f"{path}: give the name of an .html file in a folder that exists")
    if isinstance(what, Verdict):
        page = render_page(what.to_report())
    else:
        page = what.board() if isinstance(what, TaskCircuit) else render_artefact(Path(what))
    write_file(path, page, overwrite, PAGE)
    return path
