"""How a dense model goes on from some prompts, without an edit and under it.

1. Load the edit and the model it was made for.
2. Encode the prompts, in the model's chat template where that is asked for.
3. Generate twice, the prompts as one batch; the likeliest tokens are those of each prompt alone, with and without cache.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bridges.edits.edit_folder import edit_form
from bridges.edits.mapping import check_base_model
from bridges.edits.paired import PairedEdit, load_paired
from bridges.edits.standing import StandingEdit, Where
from bridges.edits.standing_artefact import load_standing
from dense_adapters import DenseStack, LeftOut, load_stack
from dense_adapters.generation import continue_prompts, encode, own_settings, settings_taken_over
from foundation.errors import UserError

Stream = Callable[[str, str], None]
"""(`unedited` or `edited`, the next piece of text)."""


@dataclass(frozen=True)
class Continuing:
    """How texts go on, and under how much of an edit."""

    new_tokens: int = 24
    temperature: float | None = None
    """of sampling; None takes the likeliest token every time"""
    cache: bool = True
    seed: int = 0
    chat: bool = False
    """put prompts into the model's chat template"""
    strength: float | None = None
    """None means the edit's own"""
    where: Where = "both"
    """positions that a standing edit may touch"""
    skip_special: bool = False
    """leave special tokens and the first position alone, whatever the edit says of them"""


def continuations(
    folder: Path,
    dense: str,
    prompts: Sequence[str],
    counterfactual: str | None,
    how: Continuing,
    device: str = "cpu",
    trust_remote_code: bool = False,
    stream: Stream | None = None,
) -> dict[str, Any]:
    """Claim, strength, `continuations` (prompt, unedited, edited), and which generation settings of the model's own hold.

    Raises:
        UserError: the prompts do not go with the edit's form, or the edit was made for another model.
        AttachError: the model does not load, or has no chat template, or a text is too long for it.
    """
    form = edit_form(folder)
    _check_form(folder, form, prompts, counterfactual, how, stream)
    edit: StandingEdit | PairedEdit = load_paired(folder) if form == "paired" else load_standing(folder)
    stack, tokenizer = load_stack(dense, device, trust_remote_code)
    check_base_model(edit.model_fingerprint, stack, dense)
    tokens = [encode(tokenizer, text, device, how.chat) for text in prompts]
    other = None if counterfactual is None else encode(tokenizer, counterfactual, device, how.chat)

    def run(name: str, context: AbstractContextManager[None] | None = None) -> list[str]:
        give = None if stream is None else lambda piece: stream(name, piece)
        found = continue_prompts(
            stack, tokenizer, tokens, how.new_tokens, context, how.temperature, how.cache, how.seed, give
        )
        return [continuation.text for continuation in found]

    applied = _applied(edit, stack, tokenizer, tokens[0], other, how)
    unedited, edited = run("unedited"), run("edited", applied)
    return {
        "claim": edit.claim,
        "strength": edit.strength if how.strength is None else how.strength,
        "taken_over": settings_taken_over(stack.model),
        "left_out": {name: str(value) for name, value in own_settings(stack.model).items()},
        "continuations": [
            {"prompt": prompt, "unedited": before, "edited": after}
            for prompt, before, after in zip(prompts, unedited, edited, strict=True)
        ],
    }


def _check_form(
    folder: Path, form: str, prompts: Sequence[str], counterfactual: str | None, how: Continuing, stream: Stream | None
) -> None:
    """Refuse what an edit of this form cannot be asked, before anything is loaded."""
    if form == "standing":
        if counterfactual is not None:
            raise UserError(f"{folder}: is a standing edit and takes no --counterfactual; leave it out")
    elif counterfactual is None:
        raise UserError(f"{folder}: is a paired edit and needs --counterfactual, the prompt to act like")
    elif how.where == "generated":
        raise UserError(f"{folder}: is a paired edit and acts on the prompt alone; leave --where out")
    elif how.skip_special:
        raise UserError(
            f"{folder}: is a paired edit and follows its counterfactual at every position; leave --skip-special out"
        )
    elif len(prompts) > 1:
        raise UserError(f"{folder}: is a paired edit and takes one --prompt with its --counterfactual")
    if stream is not None and len(prompts) > 1:
        raise UserError(f"--stream follows one text; give one --prompt, not {len(prompts)}")


def _applied(
    edit: StandingEdit | PairedEdit,
    stack: DenseStack,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tensor,
    other: Tensor | None,
    how: Continuing,
) -> AbstractContextManager[None]:
    if isinstance(edit, StandingEdit):
        chosen = replace(edit, left_out=LeftOut.special(tokenizer)) if how.skip_special else edit
        return chosen.applied(stack, how.strength, how.where)
    if other is None:
        raise UserError("a paired edit needs a counterfactual")
    return edit.applied(stack, tokens, other, how.strength)
