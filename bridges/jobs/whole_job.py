"""From a dense model and a task to a report: corpus → bridge → circuit → verdict → report, each step resumable.

own_text.jsonl   the task's training prompts, where it comes from a file
settings.json    every size, chosen from the data (`bridges.jobs.sizes`) and written down; the same command goes on
corpus/          blocks in the dense model's tokens
bridge/          the sparse model and the bridges
circuit/         the circuit, with its task
report/          report.json and report.html
"""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridges.artefact import load_bridge
from bridges.jobs.explain import dense_accuracy, explain
from bridges.jobs.explained_report import explained_report
from bridges.jobs.sizes import WholeJob, choose_sizes
from bridges.reports.page import REPORT, write_report
from bridges.training import BridgeSettings, BridgeText, train_bridge
from bridges.validation.isolation import ReferenceText
from bridges.validation.specificity import check_draws
from dense_adapters import DenseStack, load_stack
from foundation.artefacts import read_json, write_json
from foundation.errors import UserError
from sparse_model.circuits.ablation import ablation_values
from sparse_model.corpus.build import build_corpus
from sparse_model.corpus.corpus import Corpus
from sparse_model.corpus.corpus_config import AnySource
from sparse_model.corpus.reference_text import reference_blocks
from sparse_model.tasks.registry import find_task, keep_task
from sparse_model.tasks.splits import Splits, shortfall, task_splits

PAIRS, EVALUATE_PAIRS = 256, 64
"""Pairs asked for: to fit on, and to choose on and to report on."""
LEAST_ACCURACY = 0.75
"""Share of validation prompts the dense model answers rightly, below which there is nothing to explain (chance is 0.5)."""
EVALUATION_BLOCKS = 64


def explain_model(
    dense: str,
    task: str,
    out: Path,
    sources: tuple[AnySource, ...],
    steps: int | None = None,
    draws: int = 100,
    seed: int = 0,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Do the whole job in `out` and return the report; what `out` already holds is not done again.

    Args:
        dense: id or folder of a Hugging Face model.
        task: a built-in name or a `.jsonl` file of pairs.
        sources: where text comes from.
        steps: of training; None to choose from the text there is.
        say: is told what was chosen and what was found.
        trust_remote_code: run Python code that the model brings along.

    Raises:
        UserError: the model does not do the task, too little fits, or `out` holds another job; the message says what would do.
    """
    start = time.perf_counter()
    check_draws(draws)
    stack, tokenizer = load_stack(dense, device, trust_remote_code)
    chosen = find_task(task)
    splits = task_splits(chosen, tokenizer, PAIRS, EVALUATE_PAIRS, seed, device)
    _check_dense(dense, stack, splits)
    short = shortfall(splits, PAIRS, EVALUATE_PAIRS)
    say(f"task {chosen.name}: {short or f'{PAIRS} pairs to fit on, {EVALUATE_PAIRS} held out'}")
    own_text = _write_own_text(splits, out) if chosen.is_finite else None
    job = choose_sizes(dense, stack, task, splits, sources, own_text, steps, draws, seed)
    _claim(out, job)
    say(_sizes(job))

    data = (
        Corpus.load(out / "corpus")
        if (out / "corpus").exists()
        else build_corpus(job.corpus, out / "corpus", trust_remote_code=trust_remote_code)
    )
    say(f"corpus: {data.description['train']['tokens']:,} tokens of {', '.join(data.description['sources'])}")
    if not (out / "bridge").exists():
        settings, text = BridgeSettings(job.train, job.bridge, job.sparse), BridgeText.of(data, EVALUATION_BLOCKS)
        train_bridge(stack, dense, tokenizer, text, out / "bridge", settings, device=device)
    artefact = load_bridge(out / "bridge", device)
    artefact.check_dense(stack.fingerprint, dense)
    evaluation = artefact.description["evaluation"]
    for name, found in evaluation.items():
        say(f"bridge on {name}: KL(dense ‖ sparse) {found['kl_dense_sparse']['value']:.4f} nats/token")
    if (out / "report" / REPORT).is_file():
        return read_json(out / "report", REPORT, "report")

    length = artefact.sparse.config.block_size
    blocks = [
        reference_blocks(tokenizer, split, job.text_blocks, length, out / "corpus") for split in ("train", "held_out")
    ]
    values = ablation_values(artefact.sparse, blocks[0], job.prune.ablation)
    held_out = ReferenceText(stack, blocks[1], device)
    try:
        explanation = explain(chosen, artefact, stack, values, held_out, job.prune, EVALUATE_PAIRS, job.draws, seed)
    except UserError as error:
        raise UserError(f"{error}; or train longer: --steps {2 * job.train.steps} with another --out") from None
    circuit = explanation.circuit
    circuit = replace(circuit, metrics={**circuit.metrics, "evaluation": explanation.evaluation.to_json()})
    circuit.save(out / "circuit", overwrite=True)
    keep_task(task, out / "circuit")
    report = explained_report(
        [replace(explanation, circuit=circuit)], artefact, dense, evaluation, job.to_json(), start
    )
    write_report(out / "report", report)
    return read_json(out / "report", REPORT, "report")


def _check_dense(dense: str, stack: DenseStack, splits: Splits) -> None:
    """Refuse a task that the dense model does not do: there is nothing to explain."""
    found = dense_accuracy(stack, splits.validation)
    if found < LEAST_ACCURACY:
        raise UserError(
            f"{dense}: answers {found:.0%} of {2 * len(splits.validation)} validation prompts of task {splits.train.name} "
            f"(chance is 50%, {LEAST_ACCURACY:.0%} are needed), so there is nothing to explain; choose a task it does "
            f"(sparsebridge task check {dense} --task TASK says how well) or another model"
        )


def _write_own_text(splits: Splits, out: Path) -> Path:
    """The training prompts with their answers as JSON lines."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"text": text})
        for pair in splits.train.texts
        for text in (pair.prompt_a + pair.answer_a, pair.prompt_b + pair.answer_b)
    ]
    place = out / "own_text.jsonl"
    place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return place


def _claim(out: Path, job: WholeJob) -> None:
    """Write the settings, or see that they are those of an earlier run.

    Raises:
        UserError: they differ, or the folder holds something else.
    """
    place = out / "settings.json"
    if place.is_file():
        earlier = json.loads(place.read_text("utf-8"))
        differing = [name for name, value in job.to_json().items() if earlier.get(name) != value]
        if differing:
            raise UserError(f"{out}: holds a job with other settings ({', '.join(differing)}); choose another --out")
        return
    if out.exists() and {path.name for path in out.iterdir()} - {"own_text.jsonl"}:
        raise UserError(f"{out}: is not empty and holds no such job; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    write_json(place, job.to_json())


def _sizes(job: WholeJob) -> str:
    corpus, sparse = job.corpus, job.sparse
    return (
        f"chosen: blocks of {corpus.block_length} tokens, {corpus.train_tokens:,} tokens of text, {job.train.steps} steps; "
        f"sparse model of {sparse.n_layer} layers × {sparse.d_model}, {job.train.density:.0%} of its weights nonzero"
    )
