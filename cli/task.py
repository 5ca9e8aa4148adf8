"""`sparsebridge task`: list and show tasks; check how well a model does them at all."""

from typing import Annotated, Any, Literal

import typer

from cli.options import Device, Json, Seed, check_device
from cli.output import interval, print_json, print_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=__doc__)

TaskArgument = Annotated[
    str, typer.Argument(help="a task's name (see sparsebridge task list) or a .jsonl file of pairs", show_default=False)
]
SplitOption = Annotated[
    Literal["train", "validation", "held_out"], typer.Option("--split", help="which templates the pairs use")
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
        typer.echo(f"{task.name:24} {task.description}")


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
    typer.echo(f"{found.name}: {found.description}")
    for pair in drawn:
        for side, prompt, answer in (("a", pair.prompt_a, pair.answer_a), ("b", pair.prompt_b, pair.answer_b)):
            typer.echo(f"\n--- {pair.template}, prompt {side}, answer {answer!r}\n{prompt}")


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
    as_json: Json = False,
) -> None:
    """Measure how often a model prefers the right answer, and at what loss.

    Example: sparsebridge task check runs/dense --task closing_quote
    """
    from cli.loading import load_language_model
    from sparse_model.tasks import TASKS, TaskError, find_task

    chosen = [find_task(name) for name in task] if task else list(TASKS.values())
    network, tokenizer = load_language_model(model, check_device(device))
    found: dict[str, dict[str, Any]] = {}
    for one in chosen:
        try:
            found[one.name] = measure(network, tokenizer, one, pairs, split, seed)
        except TaskError as error:
            if task:
                raise
            found[one.name] = {"refused": str(error)}
    if as_json:
        print_json({"model": model, "split": split, "tasks": found})
        return
    rows = [
        [name, "does not fit the tokenizer", "", ""]
        if "refused" in figures
        else [name, *(interval(figures[key], 2) for key in ("accuracy", "task_loss", "full_loss"))]
        for name, figures in found.items()
    ]
    print_table(
        f"{model}: {split} pairs",
        ("task", "accuracy", "loss of two", "loss of all"),
        rows,
        "losses in nats (chance among two: accuracy 0.5, loss 0.69); 95 % intervals over pairs",
    )


def measure(network: Any, tokenizer: Any, task: Any, pairs: int, split: Any, seed: int) -> dict[str, Any]:
    """Accuracy and losses of both directions of `pairs` pairs, averaged per pair, with intervals.

    Raises:
        TaskError: too few pairs fit the tokenizer, or they are longer than the model reads.
    """
    import torch
    import torch.nn.functional as F

    from sparse_model.statistics import mean_estimate
    from sparse_model.tasks.loss import last_logits, logit_difference
    from sparse_model.tasks.token_pairs import tokenise_pairs

    drawn = tokenise_pairs(task, tokenizer, pairs, split, seed).to(network.device)
    prompts = drawn.prompts()
    with torch.no_grad():
        halves = zip(prompts.tokens.split(32), prompts.last.split(32), prompts.mask.split(32), strict=True)
        logits = torch.cat(
            [last_logits(network(tokens, attention_mask=mask.long()).logits, last) for tokens, last, mask in halves]
        ).float()
    difference = logit_difference(logits, prompts.answer, prompts.other)
    figures = {
        "accuracy": (difference > 0).double(),
        "task_loss": F.softplus(-difference).double(),
        "full_loss": F.cross_entropy(logits, prompts.answer, reduction="none").double(),
    }
    per_pair = {name: value.view(2, -1).mean(0).cpu().numpy() for name, value in figures.items()}
    return {"pairs": len(drawn), **{name: mean_estimate(value, seed).to_json() for name, value in per_pair.items()}}
