"""A task: pairs of prompts that call for two different next tokens.

The pairs of the twenty tasks are one idiom rendered in its two variants from equal random states (METHOD §3). Splits
hold different templates, so that held-out pairs differ in shape and not only in words.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from random import Random

from foundation.errors import UserError
from sparse_model.corpus.fragment import SPLITS, Core, Idiom, Split
from sparse_model.corpus.surrounds import SURROUNDS, Surround

TRIES_PER_PAIR = 50
"""Candidates drawn per pair asked for, before a task counts as exhausted."""


class TaskError(UserError):
    """A task is unknown, malformed or yields too few pairs. The message says what, why and what to do, in one line."""


@dataclass(frozen=True)
class TextPair:
    """Prompt a calls for answer a, prompt b for answer b; `after` is text that may follow the answer."""

    prompt_a: str
    answer_a: str
    after_a: str
    prompt_b: str
    answer_b: str
    after_b: str
    template: str


@dataclass(frozen=True)
class Task:
    """A named family of pairs.

    `answers` says what answers a and b stand for. `candidates(split, seed)` yields pairs, maybe with repeats, maybe
    without end. With `whole_answers` an answer must be exactly one token; otherwise the next token may go on past it.
    """

    name: str
    description: str
    answers: tuple[str, str]
    templates: dict[Split, tuple[str, ...]]
    candidates: Callable[[Split, int], Iterator[TextPair]]
    whole_answers: bool = False
    repeats: int = 0
    """pairs of a file left out because an earlier line holds the same prompts"""
    is_finite: bool = False
    """whether there are only the pairs of a file, so that fewer than asked for may have to do"""

    def text_pairs(self, split: Split, n: int, seed: int = 0) -> list[TextPair]:
        """`n` distinct pairs of one split.

        Raises:
            TaskError: there are not that many.
        """
        pairs = list(islice(self.distinct_pairs(split, n, seed), n))
        if len(pairs) < n:
            raise TaskError(
                f"task {self.name}: only {len(pairs)} of {n} distinct {split} pairs exist; ask for fewer or add pairs"
            )
        return pairs

    def distinct_pairs(self, split: Split, n: int, seed: int = 0) -> Iterator[TextPair]:
        """Distinct pairs among the first `TRIES_PER_PAIR * n` candidates (at least 1,000), in their order."""
        seen: set[tuple[str, str]] = set()
        for pair in islice(self.candidates(split, seed), max(1000, TRIES_PER_PAIR * n)):
            key = (pair.prompt_a, pair.prompt_b)
            if key not in seen:
                seen.add(key)
                yield pair


def task_of_idiom(idiom: Idiom) -> Task:
    """The task whose templates are the idiom's cores in each split's surrounds."""
    templates: dict[Split, list[tuple[Core, Surround]]] = {split: [] for split in SPLITS}
    for core in idiom.cores:
        for surround in SURROUNDS:
            templates[surround.split].append((core, surround))

    def candidates(split: Split, seed: int) -> Iterator[TextPair]:
        for number in count():
            core, surround = templates[split][number % len(templates[split])]
            state = f"{idiom.name}/{split}/{seed}/{number}"
            a = surround.place(core, Random(state), "a")
            b = surround.place(core, Random(state), "b")
            yield TextPair(*a, *b, template=_template_name(core, surround))

    return Task(
        idiom.name,
        idiom.description,
        (idiom.answer_a, idiom.answer_b),
        {split: tuple(_template_name(*template) for template in templates[split]) for split in SPLITS},
        candidates,
    )


def _template_name(core: Core, surround: Surround) -> str:
    return f"{core.__name__}/{surround.name}"
