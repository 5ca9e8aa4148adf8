"""`sparsebridge edit placebo`: the judge is judged on sets that explain nothing and on truths that were planted."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import BridgeOption, DenseOption, Device, Json, Seed, TrustRemoteCode, check_device
from cli.output import print_json, print_table, say, tell
from cli.verdict import Draws


def placebo(
    circuits: Annotated[
        list[Path],
        typer.Argument(help="circuit folders of one sparse model; two or more for another_task", show_default=False),
    ],
    bridge: BridgeOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="file of one verdict per line; those it holds are not repeated",
            show_default=False,
        ),
    ],
    dense: DenseOption = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="only this kind of trial; repeatable; unset: all")
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=8, help="held-out pairs, and as many to choose on")] = 32,
    draws: Draws = 100,
    seed: Seed = 0,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Judge placebos, rivals and planted truths; exit code 1 if a placebo is `explains` or fewer than 95 % of the plants are.

    Example: sparsebridge edit placebo runs/closing_quote runs/for_while --bridge runs/bridge --out runs/placebo.jsonl
    """
    from bridges.pairing import load_pairing
    from bridges.validation.placebo import KINDS, Suite
    from foundation.errors import UserError
    from sparse_model.circuits.circuit import Circuit
    from sparse_model.tasks.registry import find_task, kept_task
    from sparse_model.tasks.splits import task_splits

    unknown = sorted(set(kind or ()) - set(KINDS))
    if unknown:
        raise UserError(f"unknown kind '{unknown[0]}'; choose {', '.join(KINDS)}")
    pairing = load_pairing(bridge, dense, check_device(device), trust_remote_code)
    artefact = pairing.artefact
    loaded = [Circuit.load(folder) for folder in circuits]
    for circuit in loaded:
        circuit.check_model(artefact.sparse, str(bridge))
    done = read_trials(out)
    for number, circuit in enumerate(loaded):
        other = loaded[(number + 1) % len(loaded)] if len(loaded) > 1 else None
        wanted = [name for name in kind or KINDS if (circuit.task, name, seed) not in done]
        if not wanted:
            continue
        splits = task_splits(
            find_task(kept_task(circuits[number], circuit.task)), artefact.tokenizer, 2 * pairs, pairs, seed, device
        )
        suite = Suite(circuit, other, artefact.bridge, artefact.sparse, pairing.stack, splits, draws, seed)
        for name in wanted:
            trial = suite.run(name)
            if trial is not None:
                say(f"{circuit.task}, {name}: {trial.word} (not {', '.join(trial.failed) or 'anything'})")
                done[circuit.task, name, seed] = trial.to_json()
                with out.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(trial.to_json()) + "\n")
    summary = summarise(list(done.values()))
    if as_json:
        print_json({"summary": summary, "trials": list(done.values())})
    else:
        show(summary)
    if not summary["passed"]:
        raise typer.Exit(1)


def read_trials(path: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Verdicts already in a file; a last line that was cut off is left out.

    Raises:
        UserError: the file holds something else.
    """
    from foundation.errors import UserError

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


def summarise(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Verdicts counted by kind; bounds on how often a placebo passes and a planted truth does not."""
    from bridges.validation.placebo import KINDS, PLACEBOS, PLANTED, rate_bound
    from foundation.verdicts import WORDS

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


def show(summary: dict[str, Any]) -> None:
    """Print the table of verdicts by kind and the two rates."""
    rows = [[name, *map(str, words.values())] for name, words in summary["counts"].items() if sum(words.values())]
    print_table("verdicts by kind of trial", ("kind", "explains", "steers", "fails"), rows)
    if summary["placebos"]:
        tell(
            f"placebos called explaining: {summary['placebos_explaining']} of {summary['placebos']} "
            f"(one-sided 95 % bound on the rate {summary['placebo_rate_bound']:.3f}; 0 wanted)"
        )
    if summary["plants"]:
        tell(f"planted truths called explaining: {summary['plants_explaining']} of {summary['plants']} (95 % wanted)")
