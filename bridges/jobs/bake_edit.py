"""An edit of reads as an ordinary Hugging Face checkpoint: its nodes' directions in the weights, and what that changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from bridges.edits.edit_folder import edit_form
from bridges.edits.mapping import check_base_model
from bridges.edits.paired import PairedEdit, load_paired
from bridges.losses import kl_per_token
from dense_adapters import AddBias, DenseStack, RemoveDirection, bake, load_dense, load_stack
from foundation.artefacts import atomic_folder
from foundation.errors import UserError
from foundation.statistics import Estimate, mean_estimate
from sparse_model.corpus.reference_text import reference_blocks
from sparse_model.tasks.check import check_task
from sparse_model.tasks.registry import TASKS

TASK_PAIRS, TEXT_BLOCKS, TEXT_LENGTH = 32, 8, 128
"""Held-out pairs and blocks of text on which the checkpoint is set beside the model, and the blocks' length in tokens."""

How = Literal["remove", "add"]


@dataclass(frozen=True)
class Baking:
    """What is done to the weights along the nodes' directions."""

    how: How = "remove"
    amount: float = 1.0
    """remove: share of the component (1 all); add: length along the unit direction"""
    nodes: tuple[str, ...] = ()
    """only these of the edit; empty: all"""


@dataclass(frozen=True)
class Baked:
    """What was written."""

    nodes: tuple[str, ...]
    before: str
    """the model's fingerprint"""
    after: str
    """the checkpoint's"""
    kl_on_text: Estimate
    """KL(before ‖ after) on held-out text, nats per token"""
    task: str
    accuracy: tuple[Estimate, Estimate] | None
    """on held-out pairs of the edit's task, before and after; None where the task is none of the built-in ones"""


def bake_edit(
    folder: Path,
    dense: str,
    out: Path,
    baking: Baking,
    overwrite: bool = False,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Baked:
    """Write a checkpoint with the read directions of an edit's nodes removed, or a bias along them added.

    Raises:
        UserError: the edit is not of reads, a node is not in it, it is of another model, or `out` exists.
        AttachError: the weights cannot be baked.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out}: already exists; choose another --out or pass --overwrite")
    if edit_form(folder) != "paired":
        raise UserError(
            f"{folder}: is a standing edit, which no weight can hold; map the circuit again with --form paired and bake that"
        )
    edit = load_paired(folder)
    chosen = _chosen(folder, edit, baking.nodes)
    stack, tokenizer = load_stack(dense, device, trust_remote_code)
    check_base_model(edit.model_fingerprint, stack, dense)
    kind = RemoveDirection if baking.how == "remove" else AddBias
    with atomic_folder(out, overwrite) as temporary:
        changes = tuple(kind(site, row, baking.amount) for site, row in chosen.values())
        bake(stack, changes, temporary / "baked", tokenizer)
        for part in (temporary / "baked").iterdir():
            part.rename(temporary / part.name)
        (temporary / "baked").rmdir()
    baked = DenseStack(load_dense(str(out), device=device)[0])
    models = stack.model, baked.model
    known = TASKS.get(edit.task)
    accuracy = None
    if known is not None:
        before, after = (check_task(model, tokenizer, known, TASK_PAIRS).accuracy for model in models)
        accuracy = before, after
    blocks = reference_blocks(tokenizer, "held_out", TEXT_BLOCKS, min(TEXT_LENGTH, stack.positions or TEXT_LENGTH))
    kl = kl_between(*models, torch.from_numpy(np.asarray(blocks, dtype=np.int64)).to(device))
    return Baked(tuple(chosen), stack.fingerprint, baked.fingerprint, kl, edit.task, accuracy)


@torch.no_grad()
def kl_between(before: PreTrainedModel, after: PreTrainedModel, tokens: Int[Tensor, "B T"]) -> Estimate:
    """KL(before ‖ after) in nats per token, with an interval over sequences."""
    each = [
        kl_per_token(F.log_softmax(before(row[None]).logits.float(), dim=-1), after(row[None]).logits).mean()
        for row in tokens
    ]
    return mean_estimate(torch.stack(each).double().cpu().numpy())


def _chosen(folder: Path, edit: PairedEdit, nodes: Sequence[str]) -> dict[str, tuple[int, Tensor]]:
    """Node → dense site and read direction [D]."""
    if any(site.kind != "read" for site in edit.sites):
        raise UserError(f"{folder}: edits the residual stream, which no weight reads alone; bake an edit of read nodes")
    known = {
        name: (site.dense_site, row) for site in edit.sites for name, row in zip(site.nodes, site.decoder, strict=True)
    }
    for name in nodes:
        if name not in known:
            raise UserError(f"node '{name}' is not in {folder}; it has {', '.join(known)}")
    return {name: known[name] for name in nodes or known}
