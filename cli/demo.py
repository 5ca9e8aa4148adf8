"""`sparsebridge demo`: the main job on the bundled model, offline, from circuit to verdict."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.app import App
from cli.options import Device, Json, check_device
from cli.output import print_json, print_table, say, suggest, tell
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
    from bridges.jobs.demo import explain_tasks
    from bridges.jobs.recipe import Models, make_models, read_recipe
    from bridges.reports.page import write_report
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
    report = explain_tasks(plan, found, task or plan.demo.tasks, check_device(device), say)
    report["seconds"] = time.perf_counter() - start
    write_report(out, report, overwrite=True)
    say(f"report written to {out / 'report.html'}")
    suggest("circuit", "prune", found.bridge, "--task", next(iter(report["tasks"])), "--out", "circuit")
    if as_json:
        print_json(report)
    else:
        show(report)
    if not is_accepted(report["verdict"], accept):
        raise typer.Exit(1)


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
        tell(f"standing edit: flips {flips:.2f} of held-out prompts, KL on unrelated text {kl:.4f} nats/token")
    tell(f"{name}: {task['nodes']} nodes, {task['edges']} edges\n")
