"""`sparsebridge edit placebo`: the judge is judged on sets that explain nothing and on truths that were planted."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import BridgeOption, DenseOption, Device, Json, Seed, TrustRemoteCode, check_device
from cli.output import print_json, print_table, say, suggest, tell
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
    from bridges.jobs.trials import KINDS, Trials, run_trials, summarise
    from bridges.pairing import load_pairing
    from sparse_model.circuits.circuit import Circuit
    from sparse_model.tasks.registry import kept_task

    wished = Trials(tuple(kind or KINDS), draws, pairs, seed)
    wished.check()
    pairing = load_pairing(bridge, dense, check_device(device), trust_remote_code)
    loaded: list[tuple[str, Circuit]] = []
    for folder in circuits:
        circuit = Circuit.load(folder)
        circuit.check_model(pairing.artefact.sparse, str(bridge))
        loaded.append((kept_task(folder, circuit.task), circuit))
    trials = run_trials(loaded, pairing, wished, out, say)
    summary = summarise(trials)
    if as_json:
        print_json({"summary": summary, "trials": trials})
    else:
        show(summary)
    suggest("edit", "validate", circuits[0], "--bridge", bridge)
    if not summary["passed"]:
        raise typer.Exit(1)


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
