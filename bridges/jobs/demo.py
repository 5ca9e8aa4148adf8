"""The demo: the tasks of a recipe explained on its models, as one report."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from bridges.artefact import load_bridge
from bridges.evaluate import evaluate_bridge
from bridges.jobs.explain import Explanation, explain
from bridges.jobs.explained_report import explained_report
from bridges.jobs.recipe import Models, Recipe
from bridges.validation.isolation import ReferenceText
from dense_adapters import load_stack
from sparse_model.circuits.ablation import ablation_values
from sparse_model.corpus.reference_text import builtin_blocks
from sparse_model.tasks import find_task

SOURCES = ("tinypython", "stdlib")
"""Texts the two models are compared on; the report's headline is of the first."""


def explain_tasks(
    recipe: Recipe,
    models: Models,
    tasks: Sequence[str],
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The report of the demo; its keys are in docs/report.md.

    Args:
        tasks: names of built-in tasks.
        say: is told what was found.

    Raises:
        UserError: a task is unknown, or the models do not belong together.
    """
    start, plan, settings = time.perf_counter(), recipe.demo, recipe.prune
    chosen = [find_task(name) for name in tasks]
    stack, tokenizer = load_stack(str(models.dense), device)
    artefact = load_bridge(models.bridge, device)
    artefact.check_dense(stack.fingerprint, str(models.dense))
    sparse, length = artefact.sparse, artefact.sparse.config.block_size
    evaluation = {}
    for source in SOURCES:
        blocks = builtin_blocks(tokenizer, "held_out", plan.text_blocks, length, source)
        evaluation[source] = evaluate_bridge(sparse, stack, artefact.bridge, blocks, device=device).to_json()
        say(f"{source}: KL(dense ‖ sparse) {evaluation[source]['kl_dense_sparse']['value']:.4f} nats/token")
    values = ablation_values(sparse, builtin_blocks(tokenizer, "train", plan.text_blocks, length), settings.ablation)
    text = ReferenceText(stack, builtin_blocks(tokenizer, "held_out", plan.text_blocks, length), device)
    found: list[Explanation] = []
    for task in chosen:
        amounts = plan.evaluate_pairs, plan.draws, settings.seed
        found.append(explain(task, artefact, stack, values, text, settings, *amounts))
        say(f"{task.name}: {found[-1].evaluation.nodes} nodes, verdict {found[-1].validation.word}")
    dense = str(artefact.description["dense"]["name"])
    return explained_report(found, artefact, dense, evaluation, recipe.to_json(), start)
