"""The judge's own trials on a set of circuits, kept in a file of one verdict per line and never repeated."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridges.jobs.material import Amounts, Material
from bridges.pairing import Pairing
from bridges.validation.placebo import KINDS, PLACEBOS, PLANTED, Suite, rate_bound
from foundation.errors import UserError
from foundation.verdicts import WORDS
from foundation.writing import replace_text
from sparse_model.circuits.circuit import Circuit


@dataclass(frozen=True)
class Trials:
    """Which trials there are to be."""

    kinds: tuple[str, ...] = KINDS
    draws: int = 100
    """matched node sets; at least 99"""
    pairs: int = 32
    """held out, and as many to choose on"""
    seed: int = 0

    def check(self) -> None:
        """Refuse kinds that there are not, before anything is loaded.

        Raises:
            UserError: a kind is unknown.
        """
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown:
            raise UserError(f"unknown kind '{unknown[0]}'; choose {', '.join(KINDS)}")


def run_trials(
    circuits: Sequence[tuple[str, Circuit]],
    pairing: Pairing,
    trials: Trials,
    out: Path,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Judge what is not in the file yet, adding a line for each; returns all trials of the file.

    Args:
        circuits: the task to draw pairs from (a name or a `.jsonl` file), and its circuit; two or more for another_task.
        say: is told every verdict.

    Raises:
        UserError: a kind or task is unknown, too few pairs fit, or the file holds something else.
    """
    trials.check()
    done = read_trials(out)
    _drop_cut_line(out, done)
    for number, (task, circuit) in enumerate(circuits):
        other = circuits[(number + 1) % len(circuits)][1] if len(circuits) > 1 else None
        wanted = [name for name in trials.kinds if (circuit.task, name, trials.seed) not in done]
        if not wanted:
            continue
        artefact = pairing.artefact
        splits = Material(pairing, task, Amounts(2 * trials.pairs, trials.pairs, 0, trials.seed)).splits
        parts = artefact.bridge, artefact.sparse, pairing.stack
        suite = Suite(circuit, other, *parts, splits, trials.draws, trials.seed)
        for name in wanted:
            trial = suite.run(name)
            if trial is not None:
                say(f"{circuit.task}, {name}: {trial.word} (not {', '.join(trial.failed) or 'anything'})")
                done[circuit.task, name, trials.seed] = trial.to_json()
                with out.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(trial.to_json()) + "\n")
    return list(done.values())


def read_trials(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Verdicts already in a file; a last line that was cut off is left out.

    Raises:
        UserError: the file holds something else.
    """
    if not path.is_file():
        return {}
    found = {}
    lines = path.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            trial = json.loads(line)
            found[trial["task"], trial["kind"], int(trial["seed"])] = trial
        except (json.JSONDecodeError, KeyError, TypeError):
            if number == len(lines) - 1:
                break
            raise UserError(f"{path}: line {number + 1} is no verdict of this command; choose another --out") from None
    return found


def _drop_cut_line(path: Path, done: Mapping[tuple[str, str, int], dict[str, Any]]) -> None:
    """Rewrite a file whose last line a kill or a full disk cut off, so that the next line does not continue it."""
    if path.is_file() and not path.read_text("utf-8").endswith("\n"):
        replace_text(path, "".join(json.dumps(trial) + "\n" for trial in done.values()))


def summarise(trials: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Verdicts counted by kind; bounds on how often a placebo passes and a planted truth does not."""
    counts = {
        name: {word: sum(t["word"] == word for t in trials if t["kind"] == name) for word in WORDS} for name in KINDS
    }

    def share(kinds: tuple[str, ...], word: str) -> tuple[int, int]:
        chosen = [t for t in trials if t["kind"] in kinds]
        return sum(t["word"] == word for t in chosen), len(chosen)

    false, placebos = share(PLACEBOS, "explains")
    right, plants = share(PLANTED, "explains")
    return {
        "counts": counts,
        "placebos": placebos,
        "placebos_explaining": false,
        "placebo_rate_bound": rate_bound(false, placebos) if placebos else None,
        "plants": plants,
        "plants_explaining": right,
        "passed": false == 0 and right >= 0.95 * plants,
    }
