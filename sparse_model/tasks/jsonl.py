"""Tasks of one's own: a JSONL file with one pair a line."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import get_args

from sparse_model.corpus.fragment import SPLITS, Split
from sparse_model.tasks.task import Task, TaskError, TextPair

REQUIRED_FIELDS = ("prompt_a", "answer_a", "prompt_b", "answer_b")
OPTIONAL_FIELDS = ("template", "split")
NO_TEMPLATE = "pairs without a template"
"""The label of pairs whose line gives none: their held-out split holds other pairs, not other templates."""


WANTED = 64
"""Pairs to decide on, and to report on, that commands ask for by default."""


def load_task(path: Path) -> Task:
    """The task in `path`: each line holds `prompt_a`, `answer_a`, `prompt_b`, `answer_b`, and may hold `template` (a
    label) and `split` (train, validation or held_out).

    Lines without a split are dealt out in order, see `deal`. A line with the prompts of an earlier one, in either order, is
    left out, so that no pair is in two splits. Answers must be exactly one token.

    Raises:
        TaskError: naming the line, if the file is missing, empty or malformed.
    """
    if not path.is_file():
        raise TaskError(f"{path}: no such file; give a .jsonl file with {', '.join(REQUIRED_FIELDS)} on every line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise TaskError(f"{path}: not UTF-8 text ({error.reason}); convert it to UTF-8") from None
    records = [_parse(line, f"{path} line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not records:
        raise TaskError(f"{path}: holds no pairs; write one JSON object a line with {', '.join(REQUIRED_FIELDS)}")
    return _task_of(records, path.stem, f"pairs from {path.name}")


def task_of_rows(rows: Sequence[Sequence[str]], name: str) -> Task:
    """The task of rows (prompt a, answer a, prompt b, answer b), dealt out as lines of a file are.

    Raises:
        TaskError: there is no row, or one is not four texts; the message says which.
    """
    if not rows:
        raise TaskError(f"task {name}: there are no rows; give rows of {', '.join(REQUIRED_FIELDS)}")
    records = []
    for number, row in enumerate(rows, start=1):
        if len(row) != len(REQUIRED_FIELDS) or not all(isinstance(text, str) and text for text in row):
            raise TaskError(f"task {name}, row {number}: is not four texts; write {', '.join(REQUIRED_FIELDS)}")
        records.append(dict(zip(REQUIRED_FIELDS, row, strict=True)))
    return _task_of(records, name, "pairs of one's own")


def _task_of(records: Sequence[Mapping[str, str]], name: str, description: str) -> Task:
    """The task of well-formed records."""
    pairs: dict[Split, list[TextPair]] = {split: [] for split in SPLITS}
    distinct: dict[frozenset[str], Mapping[str, str]] = {}
    for record in records:
        distinct.setdefault(frozenset((record["prompt_a"], record["prompt_b"])), record)
    repeats = len(records) - len(distinct)
    undecided = iter(deal(sum("split" not in record for record in distinct.values())))
    for record in distinct.values():
        named: list[Split] = [known for known in SPLITS if known == record.get("split")]
        split = named[0] if named else next(undecided)
        a, b = (record["prompt_a"], record["answer_a"], ""), (record["prompt_b"], record["answer_b"], "")
        pairs[split].append(TextPair(*a, *b, template=record.get("template", NO_TEMPLATE)))

    def candidates(split: Split, seed: int) -> Iterator[TextPair]:
        shuffled = list(pairs[split])
        Random(f"{split}/{seed}").shuffle(shuffled)
        yield from shuffled

    templates = {split: tuple(sorted({pair.template for pair in pairs[split]})) for split in SPLITS}
    return Task(name, description, ("answer_a", "answer_b"), templates, candidates, True, repeats, is_finite=True)


def deal(lines: int) -> list[Split]:
    """The splits of so many lines, in order and evenly spread: of ten, eight to train, one to validation, one to held_out.

    Fewer than `10 · WANTED` lines would leave too few to decide and to report on: these splits then get up to `WANTED` lines
    each, at most a quarter, and at least one where there are three lines.
    """
    if lines >= 10 * WANTED:
        return ["validation" if i % 10 == 8 else "held_out" if i % 10 == 9 else "train" for i in range(lines)]
    share = min(WANTED, max(lines // 4, int(lines >= len(SPLITS))))
    ends = [(i + 1) * share // lines > i * share // lines for i in range(lines)]
    after = [*ends[1:], False]
    return ["held_out" if ends[i] else "validation" if after[i] else "train" for i in range(lines)]


def _parse(line: str, place: str) -> dict[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or a thousand lists within lists
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise TaskError(f"{place}: not JSON ({reason}); write one JSON object a line") from None
    if not isinstance(record, dict):
        raise TaskError(f"{place}: holds a {type(record).__name__}; write an object with {', '.join(REQUIRED_FIELDS)}")
    for field in REQUIRED_FIELDS:
        if not isinstance(record.get(field), str) or not record[field]:
            raise TaskError(f"{place}: field {field!r} is missing, empty or not text; every line needs it")
    unknown = sorted(set(record) - set(REQUIRED_FIELDS) - set(OPTIONAL_FIELDS))
    if unknown:
        raise TaskError(
            f"{place}: unknown field {unknown[0]!r}; known are {', '.join(REQUIRED_FIELDS + OPTIONAL_FIELDS)}"
        )
    if not all(isinstance(value, str) for value in record.values()):
        raise TaskError(f"{place}: every field is text; write template and split in quotes")
    if "split" in record and record["split"] not in get_args(Split):
        raise TaskError(f"{place}: unknown split {record['split']!r}; use {', '.join(SPLITS)}")
    return record
