"""Generate from a real model under a standing edit in every way, and write the texts and what agreed into docs/smollm.md.

    sparsebridge circuit prune BRIDGE --task closing_quote --out circuit
    sparsebridge edit map circuit --bridge BRIDGE --dense $SMOLLM --skip-special --out move
    sparsebridge edit map circuit --bridge BRIDGE --dense $SMOLLM --skip-special --rule ablate --blocks 8 --out ablate
    python examples/smollm_generation.py move ablate --dense $SMOLLM --into docs/smollm.md

The prompts are held-out ones of the edit's task, of both answers, and a question in the chat template. Every prompt goes on
alone with a key–value cache, alone without, and in one left-padded batch with the others, each without the edit and under it;
the tokens must be the same. Exit code 1 where they are not.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bridges.edits.mapping import check_base_model
from bridges.edits.standing import StandingEdit
from bridges.edits.standing_artefact import load_standing
from dense_adapters import DenseStack, load_stack
from dense_adapters.generation import continue_prompts, encode, own_settings, settings_taken_over
from sparse_model.studies.page import publish
from sparse_model.tasks import find_task
from sparse_model.tasks.splits import task_splits

ASKED = ("Write one line of Python that stores the text hello in a variable called name.",)
"""Put into the chat template."""


@dataclass(frozen=True)
class Texts:
    """One prompt and its new tokens under one edit or none: alone with cache, alone without, in a batch."""

    prompt: str
    edited: bool
    cached: list[int]
    uncached: list[int]
    batched: list[int]

    @property
    def agree(self) -> bool:
        """Whether the tokens are the same in every way."""
        return self.cached == self.uncached == self.batched


def task_prompts(tokenizer: PreTrainedTokenizerBase, task: str, pairs: int) -> list[tuple[str, Tensor]]:
    """Held-out prompts of a task, those that call for answer a before those for b; each its text and ids [1, T]."""
    held_out = task_splits(find_task(task), tokenizer, 64, 64, 0).held_out
    found = []
    for rows in (held_out.tokens_a, held_out.tokens_b):
        for row, last in list(zip(rows, held_out.last.tolist(), strict=True))[:pairs]:
            ids = row[None, : last + 1]
            found.append((str(tokenizer.decode(ids[0], skip_special_tokens=True)), ids))
    return found


def run(
    stack: DenseStack,
    tokenizer: PreTrainedTokenizerBase,
    edit: StandingEdit,
    prompts: Sequence[tuple[str, Tensor]],
    tokens: int,
) -> list[Texts]:
    """Every prompt (its text and ids [1, T]) without the edit and under it, in every way."""

    def context(is_edited: bool) -> AbstractContextManager[None] | None:
        return edit.applied(stack) if is_edited else None

    found = []
    for is_edited in (False, True):
        together = continue_prompts(stack, tokenizer, [ids for _, ids in prompts], tokens, context(is_edited))
        for (text, ids), batched in zip(prompts, together, strict=True):
            ways = [
                continue_prompts(stack, tokenizer, [ids], tokens, context(is_edited), cache=cache)[0].ids
                for cache in (True, False)
            ]
            found.append(Texts(text, is_edited, *ways, batched.ids))
    return found


def page(found: Sequence[Texts], tokenizer: PreTrainedTokenizerBase, edit: StandingEdit, settings: str) -> str:
    """Markdown: each prompt with its two texts, and how often the ways agree."""

    def lines() -> Iterator[str]:
        nodes = sum(len(site.nodes) for site in edit.sites)
        sites = ", ".join(str(site.dense_site) for site in edit.sites)
        claim = edit.claim if len(edit.claim) < 80 else edit.claim.partition(" ")[0]
        yield f"**{claim}** ({nodes} nodes at dense site {sites}, strength {edit.strength:g}). {settings}"
        half = len(found) // 2
        changed = [(a, b) for a, b in zip(found[:half], found[half:], strict=True) if a.cached != b.cached]
        for plain, edited in changed:
            yield ""
            yield "```text"
            yield f"prompt    {plain.prompt!r}"
            yield f"unedited  {tokenizer.decode(plain.cached)!r}"
            yield f"edited    {tokenizer.decode(edited.cached)!r}"
            yield "```"
        agreeing = sum(text.agree for text in found)
        yield ""
        yield (
            f"With cache, without, and in one batch: the same tokens in {agreeing} of {len(found)} continuations "
            f"({sum(len(text.cached) for text in found)} tokens). The edit changed {len(changed)} of {half} texts."
        )

    return "\n".join(lines())


def main() -> int:
    """Generate, compare, print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edits", type=Path, nargs="+", help="folders of standing edits of one task")
    parser.add_argument("--dense", required=True, help="the model it was made for")
    parser.add_argument("--pairs", type=int, default=2, help="held-out pairs of the task whose prompts go on")
    parser.add_argument("--tokens", type=int, default=24, help="new tokens")
    parser.add_argument("--into", type=Path, help="write between the `generation` comments of this page")
    arguments = parser.parse_args()
    edits = [load_standing(folder) for folder in arguments.edits]
    stack, tokenizer = load_stack(arguments.dense)
    for edit in edits:
        check_base_model(edit.model_fingerprint, stack, arguments.dense)
    prompts = task_prompts(tokenizer, edits[0].task, arguments.pairs)
    if tokenizer.chat_template:
        prompts += [(text, encode(tokenizer, text, chat=True)) for text in ASKED]
    over, out = settings_taken_over(stack.model), own_settings(stack.model)
    settings = (
        f"Of the model's own generation settings are taken over: {over or 'nothing'}; left out: {out or 'nothing'}."
    )
    pages, agree = [settings], True
    for edit in edits:
        found = run(stack, tokenizer, edit, prompts, arguments.tokens)
        alone = f"It leaves {len(edit.left_out.tokens)} special tokens{' and the first position' * edit.left_out.first} alone."
        pages.append(page(found, tokenizer, edit, alone))
        agree = agree and all(text.agree for text in found)
    publish("\n\n".join(pages), "generation", arguments.into)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
