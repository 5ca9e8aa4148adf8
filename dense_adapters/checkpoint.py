"""Write a baked model as an ordinary Hugging Face folder, and take the baking out again.

Beside the model lie `bake.json` (what was baked, hashes before and after, what changed) and `bake_undo.safetensors`
(the old values of the changed tensors, so that undoing is exact). Folders are written under a temporary name and
renamed.
"""

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from dense_adapters.bake import WeightEdit, describe, weight_changes
from dense_adapters.editing import EditFn, editing
from dense_adapters.errors import AttachError
from dense_adapters.fingerprint import fingerprint, stored_buffers
from dense_adapters.probe_batch import TOLERANCE, difference, probe_batch
from dense_adapters.resolved import ResolvedStack
from dense_adapters.skeleton import model_inputs
from dense_adapters.tying import head_is_its_own, untie

_SCHEMA = 1
_BAKED_TOLERANCE = {dtype: 10 * allowed for dtype, allowed in TOLERANCE.items()}
"""Ten times the probe's: a weight is rounded once more, and what follows it sees that."""

_RECORD, _UNDO = "bake.json", "bake_undo.safetensors"


@dataclass(frozen=True)
class BakeRecord:
    """What `bake.json` says. changed: parameters with new values; grown: parameters that did not exist before."""

    schema: int
    fingerprint_before: str
    fingerprint_after: str
    changed: tuple[str, ...]
    grown: tuple[str, ...]
    switches: dict[str, bool]
    edits: list[dict[str, Any]]


def bake(stack: ResolvedStack, edits: tuple[WeightEdit, ...], folder: Path | str, tokenizer: Any = None) -> BakeRecord:
    """Write the model of `stack` with `edits` in its weights to `folder`, which must not exist yet.

    The model in memory stays as it is. Before the folder appears it is loaded again and its logits are compared with
    those of the hooked model.

    Raises:
        AttachError: a weight cannot be baked (see `weight_changes`), or the two differ.
        FileExistsError: the folder exists.
    """
    if not edits:
        raise AttachError("no edits to bake; give at least one RemoveDirection or AddBias")
    model = stack.model
    if type(model).__module__.startswith("transformers_modules."):
        raise AttachError(
            f"{type(model).__name__} is code that the model brought along, so a baked folder would not load by itself; edit "
            "with hooks instead"
        )
    changes = weight_changes(stack, edits)
    state = model.state_dict()
    old = {name: state[name].cpu().contiguous() for name in changes.tensors if name in state}
    baked = _with_switches(model, changes.switches)
    _fill(baked, {**state, **changes.tensors}, changes.switches)
    grown = sorted(set(baked.state_dict()) - set(state))
    record = BakeRecord(
        _SCHEMA,
        stack.fingerprint,
        fingerprint(baked),
        tuple(sorted(old)),
        tuple(grown),
        changes.switches,
        [describe(edit) for edit in edits],
    )

    def write(place: Path) -> None:
        baked.save_pretrained(place)
        if tokenizer is not None:
            tokenizer.save_pretrained(place)
        save_file(old, place / _UNDO)
        (place / _RECORD).write_text(json.dumps(asdict(record), indent=1))
        _require_as_hooked(stack, edits, place)

    write_folder(Path(folder), write)
    return record


def undo_bake(folder: Path | str, restored: Path | str) -> str:
    """Write the model of a baked folder with its old weights to `restored`, and return its fingerprint.

    Raises:
        AttachError: the folder holds no baked model or the hash of what comes out is not the one before baking.
    """
    folder = Path(folder)
    if not (folder / _RECORD).exists():
        raise AttachError(f"{folder} holds no {_RECORD}; give a folder written by bake")
    record = json.loads((folder / _RECORD).read_text())
    baked = _reloaded(folder)
    state: dict[str, Tensor] = {**baked.state_dict(), **load_file(folder / _UNDO)}
    switches = dict.fromkeys(record["switches"], False)
    model = _with_switches(baked, switches)
    _fill(model, state, switches)
    found = fingerprint(model)
    if found != record["fingerprint_before"]:
        raise AttachError(
            f"undoing {folder} gives {found[:12]}, not {record['fingerprint_before'][:12]}; was it edited since?"
        )

    def write(place: Path) -> None:
        model.save_pretrained(place)
        for extra in folder.iterdir():
            if "token" in extra.name or extra.name in ("vocab.json", "merges.txt"):
                shutil.copy2(extra, place / extra.name)

    write_folder(Path(restored), write)
    return found


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary sibling and rename it to `folder`; nothing is left behind where it fails."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(place)
        place.chmod(0o755)
        place.rename(folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _reloaded(folder: Path) -> PreTrainedModel:
    """The model of a folder in the dtype it is stored in; no code that lies there runs."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False).eval()


def _fill(model: PreTrainedModel, state: dict[str, Tensor], switches: dict[str, bool]) -> None:
    """Copy a state into a model's parameters and stored buffers; biases that a switch has added start at zero."""
    for name, tensor in [*model.named_parameters(), *stored_buffers(model)]:
        value = state.get(name)
        if value is None and not (switches and name.endswith(".bias")):
            raise AttachError(f"{name} has no value to bake into {type(model).__name__}; edit with hooks instead")
        tensor.data.copy_(torch.zeros_like(tensor) if value is None else value)


@torch.no_grad()
def _require_as_hooked(stack: ResolvedStack, edits: tuple[WeightEdit, ...], folder: Path) -> None:
    """Compare a written folder, loaded again, with what the hooks do.

    The measure is the probe's for logits: the largest difference over max(1, |logit|). In half precision only gross
    mistakes show.

    Raises:
        AttachError: a written folder, loaded again, does not compute what the hooks do.
    """
    device = next(stack.model.parameters()).device
    tokens, mask = probe_batch(stack.model)
    inputs = model_inputs(stack.model, tokens, mask)
    with editing(stack, _composed(edits)):
        hooked = stack.model(**inputs).logits
    found = _reloaded(folder).to(device)(**inputs).logits
    error = difference(found, hooked, mask.bool(), 1.0, 1.0)
    if not error <= _BAKED_TOLERANCE[stack.dtype]:
        raise AttachError(
            f"the baked {type(stack.model).__name__}, loaded again, does not compute what the hooks do (logits differ by "
            f"{error:.2g}, allowed {_BAKED_TOLERANCE[stack.dtype]:.0e}), so nothing was written; edit with hooks instead"
        )


def _composed(edits: tuple[WeightEdit, ...]) -> dict[int, EditFn]:
    """One hook per site that makes its edits in the order given."""
    by_site: dict[int, list[EditFn]] = {}
    for edit in edits:
        by_site.setdefault(edit.site, []).append(edit.as_hook())

    def chain(steps: list[EditFn]) -> EditFn:
        return lambda h, x: reduce(lambda read, step: step(h, read), steps, x)

    return {site: chain(steps) for site, steps in by_site.items()}


def _with_switches(model: PreTrainedModel, switches: dict[str, bool]) -> PreTrainedModel:
    """A new model object of the same class, on the CPU, in the same dtype, with configuration switches set."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):  # left by a dequantised GGUF file
        del config.quantization_config
    for name, value in switches.items():
        setattr(config, name, value)
    if head_is_its_own(model):
        untie(config)
    dtype = next(model.parameters()).dtype
    new: nn.Module = type(model)._from_config(config, dtype=dtype)
    return new.eval().requires_grad_(False)
