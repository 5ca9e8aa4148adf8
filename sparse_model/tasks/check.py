"""How well a model does a task at all, so that nobody prunes or edits for a task it cannot do.

both prompts of N pairs → logits at the last token → per pair the mean of both directions → mean and interval
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from foundation.statistics import Estimate, mean_estimate
from sparse_model.corpus.fragment import Split
from sparse_model.tasks.loss import last_logits, logit_difference
from sparse_model.tasks.splits import FEWEST
from sparse_model.tasks.task import Task, TaskError
from sparse_model.tasks.token_pairs import tokenise_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPTS_AT_ONCE = 32


@dataclass(frozen=True)
class TaskCheck:
    """Accuracy (fraction; chance 0.5) and losses in nats (binary: chance log 2 = 0.693), with intervals over pairs."""

    pairs: int
    dropped: dict[str, int]
    """candidates that did not fit the tokenizer, by reason"""
    accuracy: Estimate
    task_loss: Estimate
    """cross-entropy over the two answers"""
    full_loss: Estimate
    """cross-entropy over the whole vocabulary"""

    def to_json(self) -> dict[str, Any]:
        """Plain types under the field names."""
        figures = {name: getattr(self, name).to_json() for name in ("accuracy", "task_loss", "full_loss")}
        return {"pairs": self.pairs, "dropped": self.dropped, **figures}


@torch.no_grad()
def check_task(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    task: Task,
    pairs: int = 64,
    split: Split = "held_out",
    seed: int = 0,
) -> TaskCheck:
    """Accuracy and losses over `pairs` pairs of one split; of a task from a file over as many as there are.

    Args:
        model: maps tokens and an attention mask to an output with `.logits`, sparse or from Hugging Face.

    Raises:
        TaskError: too few pairs fit the tokenizer, or they are longer than the model reads.
    """
    fewest = min(pairs, FEWEST) if task.is_finite else None
    drawn = tokenise_pairs(task, tokenizer, pairs, split, seed, fewest=fewest).to(model.device)
    prompts = drawn.prompts()
    longest, limit = prompts.tokens.shape[1], getattr(model.config, "max_position_embeddings", None)
    if limit is not None and longest > limit:
        raise TaskError(
            f"task {task.name}: a prompt has {longest} tokens and the model reads {limit}; shorten the prompts"
        )
    batches = zip(*(part.split(PROMPTS_AT_ONCE) for part in (prompts.tokens, prompts.last, prompts.mask)), strict=True)
    logits = torch.cat(
        [last_logits(model(tokens, attention_mask=mask.long()).logits, last) for tokens, last, mask in batches]
    ).float()
    difference = logit_difference(logits, prompts.answer, prompts.other)
    figures = {
        "accuracy": (difference > 0).double(),
        "task_loss": F.softplus(-difference).double(),
        "full_loss": F.cross_entropy(logits, prompts.answer, reduction="none").double(),
    }
    per_pair = {name: value.view(2, -1).mean(0).cpu().numpy() for name, value in figures.items()}
    return TaskCheck(
        len(drawn), drawn.dropped, **{name: mean_estimate(value, seed) for name, value in per_pair.items()}
    )
