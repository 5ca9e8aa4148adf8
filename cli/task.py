"""`sparsebridge task`: list and show tasks; check how well a model does them at all."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cli.app import App
from cli.options import Device, Json, Seed, TrustRemoteCode, check_device
from cli.output import interval, print_json, print_table, say, suggest, tell

app = App(help=__doc__)

TaskArgument = Annotated[
    str, typer.Argument(help="a task's name (see sparsebridge task list) or a .jsonl file of pairs", show_default=False)
]
SplitOption = Annotated[
    Literal["train", "validation", "held_out"],
    typer.Option("--split", help="which pairs, or templates where a task has them"),
]


@app.callback()
def group() -> None:
    """List and show tasks; check how well a model does them at all."""


@app.command("list")
def list_(as_json: Json = False) -> None:
    """Name the tasks and the rule each one tests.

    Example: sparsebridge task list
    """
    from sparse_model.tasks import TASKS

    if as_json:
        print_json(
            {
                "tasks": {
                    task.name: {"description": task.description, "answers": list(task.answers)}
                    for task in TASKS.values()
                }
            }
        )
        return
    for task in TASKS.values():
        tell(f"{task.name:24} {task.description}")


STARTER = [
    {
        "prompt_a": f"{who} left, so we walk",
        "answer_a": " west",
        "prompt_b": f"{who} right, so we walk",
        "answer_b": " east",
    }
    for who in ("The arrow points", "Her hand points", "The road turns")
]


@app.command()
def new(file: Annotated[Path, typer.Argument(help="the .jsonl file to write", show_default=False)]) -> None:
    """Write a file of three pairs to start a task of your own from.

    Example: sparsebridge task new pairs.jsonl
    """
    from foundation.errors import UserError
    from foundation.writing import write_file

    if file.suffix != ".jsonl":
        raise UserError(f"{file}: a task is a .jsonl file; end its name so")
    if file.exists():
        raise UserError(f"{file}: already exists; choose another name")
    write_file(file, "".join(json.dumps(pair) + "\n" for pair in STARTER))
    say(
        f"{file}: one JSON object a line. The prompts of a pair differ in what decides, have equally many tokens, and call for "
        "two answers of one token each (mind the space in front). 100 lines are a start; template and split are optional"
    )
    suggest("task", "lint", file, "--model", "MODEL")


@app.command()
def lint(
    file: Annotated[Path, typer.Argument(help="a .jsonl file of pairs", show_default=False)],
    model: Annotated[
        str,
        typer.Option("--model", help="a model (folder or id) in whose tokens the pairs are to fit", show_default=False),
    ],
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Say how many pairs of a file fit a model's tokenizer, by split, and which do not and why; exit code 1 if too few do.

    Example: sparsebridge task lint pairs.jsonl --model runs/dense
    """
    from cli.loading import load_tokenizer
    from sparse_model.tasks.jsonl import load_task
    from sparse_model.tasks.lint import lint_task

    task = load_task(file)
    found = lint_task(task, load_tokenizer(model, trust_remote_code))
    if as_json:
        print_json(found.to_json())
    else:
        print_table(
            f"{file}: {task.repeats} lines repeat the prompts of an earlier one",
            ("split", "pairs", "fit", "needed"),
            [[split, str(n), str(found.fitting[split]), str(found.needed)] for split, n in found.pairs.items()],
            "lines without a split are dealt out by how many there are",
        )
        for misfit in found.misfits:
            tell(misfit)
    if not found.is_enough:
        raise typer.Exit(1)
    suggest("explain", model, "--task", file, "--source", "FOLDER", "--out", "explained")


@app.command()
def show(
    task: TaskArgument,
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="pairs to print")] = 3,
    split: SplitOption = "train",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Print pairs of a task: two prompts, and the next token each one calls for.

    Example: sparsebridge task show closing_quote --pairs 2
    """
    from dataclasses import asdict

    from sparse_model.tasks import find_task

    found = find_task(task)
    drawn = found.text_pairs(split, pairs, seed)
    if as_json:
        print_json({"task": found.name, "description": found.description, "pairs": [asdict(pair) for pair in drawn]})
        return
    tell(f"{found.name}: {found.description}")
    for pair in drawn:
        for side, prompt, answer in (("a", pair.prompt_a, pair.answer_a), ("b", pair.prompt_b, pair.answer_b)):
            tell(f"\n--- {pair.template}, prompt {side}, answer {answer!r}\n{prompt}")


@app.command()
def check(
    model: Annotated[
        str,
        typer.Argument(
            help="Hugging Face id or folder, a sparse model, or a bridge (its sparse model)", show_default=False
        ),
    ],
    task: Annotated[
        list[str] | None, typer.Option("--task", help="repeatable; unset: every task", show_default=False)
    ] = None,
    pairs: Annotated[int, typer.Option("--pairs", min=2, help="pairs per task")] = 64,
    split: SplitOption = "held_out",
    seed: Seed = 0,
    device: Device = "cpu",
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Measure how often a model prefers the right answer, and at what loss.

    Example: sparsebridge task check runs/dense --task closing_quote
    """
    from cli.loading import load_language_model
    from sparse_model.tasks import TASKS, TaskError, find_task
    from sparse_model.tasks.check import check_task
    from sparse_model.transformer.model import SparseTransformer

    chosen = [find_task(name) for name in task] if task else list(TASKS.values())
    network, tokenizer = load_language_model(model, check_device(device), trust_remote_code)
    found: dict[str, dict[str, Any]] = {}
    for one in chosen:
        try:
            found[one.name] = check_task(network, tokenizer, one, pairs, split, seed).to_json()
        except TaskError as error:
            if task:
                raise
            found[one.name] = {"refused": str(error)}
    if as_json:
        print_json({"model": model, "split": split, "tasks": found})
        return
    rows = [
        [name, "refused", "", "", ""]
        if "refused" in figures
        else [
            name,
            *(interval(figures[key], 2) for key in ("accuracy", "task_loss", "full_loss")),
            _dropped(figures["dropped"]),
        ]
        for name, figures in found.items()
    ]
    print_table(
        f"{model}: {split} pairs",
        ("task", "accuracy", "loss of two", "loss of all", "dropped"),
        rows,
        "losses in nats (chance among two: accuracy 0.5, loss 0.69); 95 % intervals over pairs; dropped: candidates "
        "that did not fit the tokenizer, by reason",
    )
    for figures in found.values():
        if "refused" in figures:
            say(figures["refused"])
    done = {name: figures["accuracy"]["value"] for name, figures in found.items() if "refused" not in figures}
    if isinstance(network, SparseTransformer) and done:
        best = max(done, key=lambda name: done[name])
        suggest("circuit", "prune", model, "--task", best, "--out", f"{best}-circuit")
    elif done:
        suggest("bridge", "train", model, "--corpus", "CORPUS", "--out", "bridge")


def _dropped(found: dict[str, int]) -> str:
    from sparse_model.tasks.token_pairs import reasons

    return f"{sum(found.values())} ({reasons(found)})" if found else "0"
