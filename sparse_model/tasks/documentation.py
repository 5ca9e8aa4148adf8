"""The page about the tasks, written from the tasks themselves; `examples/tasks_document.py` adds what was measured."""

from sparse_model.corpus.fragment import SPLITS
from sparse_model.tasks.registry import TASKS
from sparse_model.tasks.task import Task

_INTRODUCTION = """\
# Tasks

A task is a set of pairs: prompt a calls for answer a, prompt b for answer b, and the two prompts have the same number
of tokens. Each pair is one idiom of `tinypython` rendered twice from the same random state. Splits hold different
templates (a core in a surround), so held-out pairs differ from training pairs in shape. With any other tokenizer, pairs
that do not fit (an answer of several tokens, prompts of different length) are dropped and counted.

Where an answer is described in words it depends on the pair. Answers are shown with their leading space; `⏎` is a
newline and `·` a space of indent. This page is written by `python examples/tasks_document.py docs/tasks.md`.

Your own task is a `.jsonl` file with `prompt_a`, `answer_a`, `prompt_b`, `answer_b` on every line, and optionally
`template` and `split` (train, validation, held_out). Lines without a split are dealt out: of ten, eight, one and one; of
fewer than 640 lines up to a quarter, at most 64, each to validation and held_out. `task new` writes a file to
start from, `task lint` says which lines do not fit a tokenizer. Answers must be exactly one token. A line with
the prompts of an earlier one is left out, so that no pair is in two splits; without templates of your own, held-out figures
are about held-out pairs and not about held-out templates.
"""


def _shown(text: str) -> str:
    lines = text.split("\n")
    marked = [lines[0]] + ["·" * (len(line) - len(line.lstrip(" "))) + line.lstrip(" ") for line in lines[1:]]
    joined = "⏎".join(marked).replace("|", "\\|")
    return f"`{joined}`"


def _row(task: Task) -> str:
    pair = task.text_pairs("train", 1)[0]
    return (
        f"| `{task.name}` | {task.description} | {_shown(pair.prompt_a)} → {_shown(pair.answer_a)} "
        f"| {_shown(pair.prompt_b)} → {_shown(pair.answer_b)} |"
    )


def tasks_document() -> str:
    """Rules, an example pair of each task, and templates, as Markdown."""
    rows = "\n".join(_row(task) for task in TASKS.values())
    templates = []
    for task in TASKS.values():
        cores = list(dict.fromkeys(name.split("/")[0] for split in SPLITS for name in task.templates[split]))
        templates.append(f"- `{task.name}`: {', '.join(cores)}")
    first = next(iter(TASKS.values()))
    surrounds = []
    for split in SPLITS:
        names = dict.fromkeys(name.split("/")[1] for name in first.templates[split])
        surrounds.append(f"- {split}: {', '.join(names)}")
    return (
        f"{_INTRODUCTION}\n| task | rule | a | b |\n|---|---|---|---|\n{rows}\n\n"
        f"## Templates\n\nEvery core below stands in every surround. Surrounds by split:\n\n"
        + "\n".join(surrounds)
        + "\n\n"
        "Cores:\n\n" + "\n".join(templates) + "\n"
    )
