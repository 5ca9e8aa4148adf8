"""`sparsebridge demo`: the main job on the bundled model, offline, from circuit to verdict."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.app import App
from cli.options import Device, Json, check_device
from cli.output import print_json, print_table, say
from cli.verdict import Accept, is_accepted, show_verdict

app = App(help=__doc__)
BUNDLED = Path(__file__).parent / "bundled"


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="folder for the report (an earlier report there is replaced)")
    ] = Path("sparsebridge-demo"),
    task: Annotated[
        list[str] | None, typer.Option("--task", help="a task to explain; repeatable; unset: the recipe's")
    ] = None,
    recipe: Annotated[Path, typer.Option("--recipe", help="the recipe to follow")] = BUNDLED / "recipe.toml",
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch", help="also train the dense model, the sparse model and the bridges (about an hour)"
        ),
    ] = False,
    models: Annotated[
        Path | None,
        typer.Option(
            "--models", help="folder with dense/ and bridge/, made by --from-scratch; unset: the bundled ones"
        ),
    ] = None,
    accept: Accept = "explains",
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Prune circuits out of the bundled sparse model, map them to edits of the dense model, validate, write a report.

    Exit code 1 unless every verdict is `explains` (or better than --accept asks). Example: sparsebridge demo
    """
    from bridges.recipe import Models, make_models, read_recipe
    from foundation.errors import UserError

    start = time.perf_counter()
    plan = read_recipe(recipe)
    if out.exists() and not (out / "report.json").is_file():
        raise UserError(f"{out}: exists and holds no earlier report; choose another --out")
    if from_scratch:
        folder = models or out.with_name(out.name + "-models")
        found = make_models(plan, folder, check_device(device))
    else:
        folder = models or BUNDLED
        found = Models(folder / "dense", folder / "bridge")
    report = explain_all(plan, found, tuple(task or plan.demo.tasks), check_device(device))
    report = {"verdict": report["verdict"], "seconds": time.perf_counter() - start, **report}

    from bridges.reports.page import write_report

    write_report(out, report, overwrite=True)
    say(f"report written to {out / 'report.html'}")
    if as_json:
        print_json(report)
    else:
        show(report)
    if not is_accepted(report["verdict"], accept):
        raise typer.Exit(1)


def explain_all(plan: Any, models: Any, tasks: tuple[str, ...], device: str) -> dict[str, Any]:
    """The report of the demo; its keys are documented in docs/report.md."""
    from bridges.artefact import load_bridge
    from bridges.evaluate import evaluate_bridge
    from bridges.explain import explain
    from bridges.reports.circuit_graph import circuit_graph
    from bridges.validation.isolation import ReferenceText
    from bridges.validation.verdict import WORDS
    from dense_adapters import load_stack
    from foundation.versions import versions
    from sparse_model.circuits.ablation import ablation_values
    from sparse_model.corpus.reference_text import builtin_blocks
    from sparse_model.tasks import find_task

    chosen = [find_task(name) for name in tasks]
    stack, tokenizer = load_stack(str(models.dense), device)
    artefact = load_bridge(models.bridge, device)
    artefact.check_dense(stack.fingerprint, str(models.dense))
    sparse, bridge, length = artefact.sparse, artefact.bridge, artefact.sparse.config.block_size
    evaluation = {}
    for source in ("tinypython", "stdlib"):
        blocks = builtin_blocks(tokenizer, "held_out", plan.demo.text_blocks, length, source)
        evaluation[source] = evaluate_bridge(sparse, stack, bridge, blocks, device=device).to_json()
        say(f"{source}: KL(dense ‖ sparse) {evaluation[source]['kl_dense_sparse']['value']:.4f} nats/token")
    values = ablation_values(
        sparse, builtin_blocks(tokenizer, "train", plan.demo.text_blocks, length), plan.prune.ablation
    )
    text = ReferenceText(stack, builtin_blocks(tokenizer, "held_out", plan.demo.text_blocks, length), device)
    found: dict[str, Any] = {}
    for task in chosen:
        explanation = explain(
            task, artefact, stack, values, text, plan.prune, plan.demo.evaluate_pairs, plan.demo.draws, plan.prune.seed
        )
        graph = circuit_graph(sparse, explanation.circuit, explanation.held_out, tokenizer)
        found[task.name] = {**explanation.to_json(), "circuit": graph}
        say(f"{task.name}: {explanation.evaluation.nodes} nodes, verdict {found[task.name]['verdict']}")
    held_out = evaluation["tinypython"]
    return {
        "verdict": max((task["verdict"] for task in found.values()), key=WORDS.index),
        "density": held_out["density"],
        "ce_dense": held_out["ce_dense"]["value"],
        "ce_sparse": held_out["ce_sparse"]["value"],
        "kl_dense_sparse": held_out["kl_dense_sparse"]["value"],
        "tasks": found,
        "evaluation": evaluation,
        "models": {
            "dense": {"name": artefact.description["dense"]["name"], "fingerprint": stack.fingerprint},
            "sparse": {"fingerprint": artefact.description["sparse_fingerprint"]},
        },
        "settings": plan.to_json(),
        "versions": versions(),
    }


def show(report: dict[str, Any]) -> None:
    """Print the report's main figures, each beside what it is compared to."""
    held_out = report["evaluation"]
    print_table(
        f"sparse model: {report['density']:.2%} of weights nonzero",
        ("nats/token", "CE dense", "CE sparse", "KL dense‖sparse", "KL unigram"),
        [
            [
                name,
                *(f"{found[key]['value']:.4f}" for key in ("ce_dense", "ce_sparse", "kl_dense_sparse", "kl_unigram")),
            ]
            for name, found in held_out.items()
        ],
    )
    for name, task in report["tasks"].items():
        show_task(name, task)


def show_task(name: str, task: dict[str, Any]) -> None:
    """One task: verdict, size, and every figure beside what it is compared to."""
    show_verdict(name, task["details"])
    flips, kl = task["standing_flip_rate"], task["isolation_kl"]
    if flips is not None:
        typer.echo(f"standing edit: flips {flips:.2f} of held-out prompts, KL on unrelated text {kl:.4f} nats/token")
    typer.echo(f"{name}: {task['nodes']} nodes, {task['edges']} edges\n")
