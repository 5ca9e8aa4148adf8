"""`sparsebridge circuit`: prune a circuit out of a sparse model, tune the pruner, evaluate a circuit, show it."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.app import App
from cli.circuit_compare import compare
from cli.circuit_show import show
from cli.dropped import say_dropped, say_shortfall
from cli.options import CorpusText, Device, Json, Out, Overwrite, TaskOption, check_device, with_settings
from cli.output import print_json, print_table, say, suggest
from sparse_model.circuits.prune_config import PruneConfig

app = App(help=__doc__)

ModelArgument = Annotated[
    Path,
    typer.Argument(help="a sparse model folder, or a bridge folder (its sparse model is taken)", show_default=False),
]
CircuitArgument = Annotated[Path, typer.Argument(help="a circuit folder", show_default=False)]
ModelOption = Annotated[
    Path, typer.Option("--model", help="the sparse model or bridge the circuit was pruned from", show_default=False)
]
PairsOption = Annotated[
    int, typer.Option("--evaluate-pairs", min=2, help="pairs to decide on, and held-out pairs to report on")
]

GUESSING = math.log(2)
"""The binary loss of a model that does not know which of two answers is right, in nats."""
UNKNOWN_PAIRS = 64
"""Held-out pairs where a circuit does not say how many it was reported on."""


@app.callback()
def group() -> None:
    """Prune a circuit out of a sparse model, tune the pruner, evaluate a circuit, show it."""


@app.command()
@with_settings(prune=PruneConfig)
def prune(
    model: ModelArgument,
    task: TaskOption,
    out: Out,
    prune: PruneConfig,
    corpus: CorpusText = None,
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="text blocks the ablation means are taken over")] = 64,
    evaluate_pairs: PairsOption = 64,
    overwrite: Overwrite = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Find the nodes that do TASK, freeze all others, and say how sufficient and necessary they are.

    Example: sparsebridge circuit prune runs/bridge --task closing_quote --out runs/closing_quote
    """
    from dataclasses import replace

    from cli.loading import load_sparse, load_tokenizer
    from foundation.errors import UserError
    from sparse_model.circuits.ablation import ablation_values
    from sparse_model.circuits.evaluate import evaluate_circuit
    from sparse_model.circuits.prune import prune as find_circuit
    from sparse_model.corpus.reference_text import reference_blocks
    from sparse_model.tasks.registry import find_task, keep_task
    from sparse_model.tasks.splits import task_splits

    if out.exists() and not overwrite:
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    sparse, tokenizer = load_sparse(model, check_device(device)), load_tokenizer(model)
    chosen = find_task(task)
    splits = task_splits(chosen, tokenizer, prune.pairs, evaluate_pairs, prune.seed, device)
    say_dropped(chosen, splits.train, splits.validation, splits.held_out)
    say_shortfall(splits, prune.pairs, evaluate_pairs)
    values = ablation_values(
        sparse, reference_blocks(tokenizer, "train", blocks, sparse.config.block_size, corpus), prune.ablation
    )
    circuit = find_circuit(sparse, splits.train, splits.validation, values, prune)
    if not circuit.nodes:
        if prune.target_loss >= GUESSING:
            raise UserError(
                f"--target-loss {prune.target_loss:g}: guessing reaches it ({GUESSING:.3f}), so the circuit would hold nothing; "
                "lower it"
            )
        say("the circuit keeps no node: the embedding of the last token alone reaches the target loss")
    evaluation = evaluate_circuit(sparse, circuit, splits.held_out, seed=prune.seed).to_json()
    circuit = replace(
        circuit,
        metrics={**circuit.metrics, "evaluation": evaluation},
        pairs={"seed": prune.seed, **splits.sizes()},
    )
    circuit.save(out, overwrite)
    keep_task(task, out)
    say(f"circuit written to {out}")
    suggest("circuit", "evaluate", out, "--model", model)
    if (model / "bridge.json").is_file():
        suggest("edit", "validate", out, "--bridge", model, "--out", out.with_name(f"{out.name}-report"))
    show_evaluation(circuit.task, evaluation, as_json)


@app.command()
@with_settings(prune=PruneConfig)
def tune(
    model: ModelArgument,
    prune: PruneConfig,
    task: Annotated[
        list[str],
        typer.Option("--task", help="a task to tune on; repeatable, easiest to tell apart first", show_default=False),
    ],
    study: Annotated[str, typer.Option("--study", help="name; an existing study of this name is added to")] = "prune",
    storage: Annotated[
        str, typer.Option("--storage", help="Optuna storage URL; workers that share it share the study")
    ] = "sqlite:///sparsebridge-tune.db",
    trials: Annotated[int, typer.Option("--trials", min=0, help="trials this worker adds; 0: only show the best")] = 20,
    corpus: CorpusText = None,
    blocks: Annotated[int, typer.Option("--blocks", min=1, help="text blocks the ablation means are taken over")] = 64,
    evaluate_pairs: PairsOption = 64,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Search settings whose circuits have the fewest edges at the target loss; print the best as TOML for --config.

    Run it again, or on several machines at once with the same --study and --storage, to add trials.

    Example: sparsebridge circuit tune runs/bridge --task for_while --task closing_quote --trials 30
    """
    from cli.loading import load_sparse, load_tokenizer
    from cli.tuning import StudyRun, run_study, show_study
    from sparse_model.corpus.reference_text import reference_blocks

    sparse, tokenizer = load_sparse(model, check_device(device)), load_tokenizer(model)
    sparse.requires_grad_(False)
    text = reference_blocks(tokenizer, "train", blocks, sparse.config.block_size, corpus)
    found = run_study(sparse, tokenizer, text, prune, task, StudyRun(study, storage, trials, evaluate_pairs))
    show_study(found, prune, as_json)
    if not as_json:
        say("the settings above are a file for --config")
        suggest("circuit", "prune", model, "--task", task[0], "--config", "FILE", "--out", f"{task[0]}-circuit")


@app.command()
def evaluate(
    circuit: CircuitArgument,
    model: ModelOption,
    task: Annotated[
        str | None, typer.Option("--task", help="another task's name or .jsonl file; unset: the circuit's own")
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(
            "--evaluate-pairs",
            min=2,
            help="pairs to decide on, and held-out pairs to report on; unset: as many as the circuit was reported on",
            show_default=False,
        ),
    ] = None,
    draws: Annotated[int, typer.Option("--draws", min=1, help="random node sets per control")] = 100,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=0, help="prune with this many seeds for their agreement, unless the circuit holds them"
        ),
    ] = 0,
    controls: Annotated[
        Path | None,
        typer.Option(
            "--controls", help="file of this task's control runs: taken from there, or kept there; unset: run anew"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="leave out the checks that prune again")] = False,
    corpus: CorpusText = None,
    blocks: Annotated[
        int, typer.Option("--blocks", min=1, help="text blocks for the ablation means of the shuffled model")
    ] = 64,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="of every random choice; unset: the circuit's own", show_default=False),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """How far a circuit can be trusted: every check beside its control, and a grade from A to D (docs/circuits.md).

    Example: sparsebridge circuit evaluate runs/closing_quote --model runs/bridge
    """
    import time

    from cli.loading import load_sparse, load_tokenizer
    from sparse_model.circuits.circuit import Circuit
    from sparse_model.circuits.evaluate import summary
    from sparse_model.circuits.evidence.gather import gather
    from sparse_model.circuits.evidence.outcome import Subject
    from sparse_model.corpus.reference_text import reference_blocks
    from sparse_model.tasks.registry import find_task, kept_task

    started = time.perf_counter()
    loaded = Circuit.load(circuit)
    sparse, tokenizer = load_sparse(model, check_device(device)), load_tokenizer(model)
    loaded.check_model(sparse, str(model))
    config = PruneConfig.from_mapping(loaded.settings, origin=str(circuit))
    from sparse_model.tasks.splits import task_splits

    measured, own = find_task(task or kept_task(circuit, loaded.task)), loaded.pairs
    seed = own.get("seed", config.seed) if seed is None else seed
    reported = own.get("held_out", UNKNOWN_PAIRS) if pairs is None else pairs
    splits = task_splits(measured, tokenizer, own.get("train", config.pairs), reported, seed, device)
    say_dropped(measured, splits.train, splits.validation, splits.held_out)
    text = None if quick else reference_blocks(tokenizer, "train", blocks, sparse.config.block_size, corpus)
    subject = Subject(sparse, loaded, splits.held_out, seed)
    found = gather(subject, splits.train, splits.validation, text, config, draws, seeds, controls)
    evaluation = summary(subject, found.sufficiency, found.necessity).to_json()
    evidence = {**found.to_json(), "total_seconds": time.perf_counter() - started}
    if as_json:
        about = {"task": measured.name, "circuit_task": loaded.task, "seed": seed, "pairs": splits.sizes()}
        print_json({**about, **evaluation, "evidence": evidence})
        return
    own_task = measured.name == loaded.task
    show_evaluation(measured.name if own_task else f"{measured.name}, circuit of {loaded.task}", evaluation, False)
    show_evidence(found)
    if (model / "bridge.json").is_file():
        suggest("edit", "validate", circuit, "--bridge", model, "--out", circuit.with_name(f"{circuit.name}-report"))
    else:
        suggest("circuit", "show", circuit, "--model", model, "--out", f"{loaded.task}.html")


def show_evidence(found: Any) -> None:
    """Print what every check says, and the gates behind the grade."""
    print_table(
        "Evidence",
        ("check", "what it says"),
        [
            *([name.replace("_", " "), finding.sentence] for name, finding in found.findings.items()),
            *([name.replace("_", " "), f"not measured: {reason}"] for name, reason in found.missing.items()),
        ],
    )
    print_table(
        f"Grade {found.grade.letter}",
        ("gate", "value", "threshold", "passed"),
        [
            [
                f"{gate.name} ({gate.kind})",
                "—" if gate.value is None else f"{gate.value:.3f}",
                f"{gate.threshold:.2f}",
                gate.state,
            ]
            for gate in found.grade.gates
        ],
    )


def show_evaluation(task: str, found: dict[str, Any], as_json: bool) -> None:
    """Print a circuit's figures beside their controls."""
    if as_json:
        print_json({"task": task, **found})
        return
    print_table(
        f"{task}: {found['nodes']} nodes, {found['edges']} edges; held-out pairs, binary loss in nats (chance 0.693)",
        ("", "circuit", "compared to", ""),
        [
            ["alone (sufficiency)", f"{found['task_loss']:.3f}", "whole model", f"{found['full_loss']:.3f}"],
            [
                "alone, calibrated",
                f"{found['calibrated_loss']:.3f}",
                "random nodes alone",
                f"{found['random_circuit_loss']:.3f}",
            ],
            [
                "removed (necessity)",
                f"{found['necessity_loss']:.3f}",
                "random nodes removed",
                f"{found['necessity_random_loss']:.3f}",
            ],
            ["", "", "sets from all nodes removed", f"{found['necessity_any_loss']:.3f}"],
            ["accuracy alone", f"{found['circuit_accuracy']:.3f}", "whole model", f"{found['accuracy']:.3f}"],
        ],
    )


app.command()(show)
app.command()(compare)
