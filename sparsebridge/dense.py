"""A Hugging Face causal language model, seen as a residual stack."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dense_adapters import DenseStack, load_stack
from dense_adapters.generation import continue_prompts, encode, next_tokens
from sparse_model.tasks.check import TaskCheck, check_task
from sparse_model.tasks.task import Task
from sparsebridge.pairs import task as find_task
from sparsebridge.shown import html_table, short_name


@dataclass(frozen=True, eq=False)
class DenseModel:
    """A dense model whose residual stream can be read and changed at every site, with its tokenizer."""

    name: str
    """Hugging Face id or folder it was loaded from"""
    stack: DenseStack
    """the model as a stack of sublayers; `stack.walk(tokens)` steps through it"""
    tokenizer: PreTrainedTokenizerBase

    @property
    def model(self) -> PreTrainedModel:
        """The Hugging Face model itself, frozen. Edits act on it: `model.generate` under `edit.applied()` is edited."""
        return self.stack.model

    def generate(self, prompt: str, tokens: int = 24) -> str:
        """The model's most likely continuation of a text, without the prompt.

        Args:
            tokens: how many tokens to add at most.

        Raises:
            UserError: the prompt is empty, or too long for the model.
        """
        ids = encode(self.tokenizer, prompt, self.model.device)
        return continue_prompts(self.stack, self.tokenizer, [ids], tokens)[0].text

    def next_tokens(self, prompt: str, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest next tokens and their probabilities.

        Raises:
            UserError: the prompt is empty, or too long for the model.
        """
        return next_tokens(self.stack, self.tokenizer, prompt, count)

    def check(self, task: str | Path | Task | Sequence[Sequence[str]], pairs: int = 64) -> TaskCheck:
        """How well the model does a task on held-out pairs: accuracy (chance 0.5) and losses in nats (chance 0.693).

        Raises:
            UserError: the task is unknown, or too few of its pairs fit the tokenizer.
        """
        return check_task(self.model, self.tokenizer, find_task(task), pairs)

    def __repr__(self) -> str:
        stack, report = self.stack, self.stack.report
        return (
            f"DenseModel({short_name(self.name)!r}: {report.architecture}, {stack.n_layers} layers, width {stack.d_model}, "
            f"{stack.vocab_size} tokens; proven at {stack.n_sites} sites, worst error {report.max_logit_error:.1e})"
        )

    def _repr_html_(self) -> str:
        rows = [[str(site), sublayer.kind, str(sublayer.layer)] for site, sublayer in enumerate(self.stack.sublayers)]
        return html_table(repr(self), ("site", "read by", "of layer"), rows)


def attach(model: str | Path, device: str = "cpu", trust_remote_code: bool = False) -> DenseModel:
    """Load a Hugging Face causal language model, and prove that its residual stream is read rightly.

    Args:
        model: hub id, folder, or folder holding one `.gguf` file.
        device: `cpu`, `cuda`, `cuda:1`, …
        trust_remote_code: run Python code that the model brings along; read it first.

    Raises:
        UserError: it does not load, is no decoder-only language model, or a site fails the numeric probe.
    """
    stack, tokenizer = load_stack(str(model), device, trust_remote_code)
    return DenseModel(str(model), stack, tokenizer)
