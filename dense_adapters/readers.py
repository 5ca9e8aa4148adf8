"""Which weights read a site: the projections, routers and experts whose input is exactly the site's normed input.

Found by running the sublayer once and noting every module that is handed that very tensor, not by parameter names.
What a baked weight does instead is checked on the spot: the module with new weights on x must equal the old module on
the edited x.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from dense_adapters.errors import AttachError
from dense_adapters.probe import probe_batch
from dense_adapters.resolved import ResolvedStack
from dense_adapters.trace import first_tensor, hidden_argument
from dense_adapters.walk import Walk


@dataclass(frozen=True)
class Reader:
    """One module that reads a site, with the arguments it was called with in the run that found it.

    name: dotted path in the model. weights: parameter names whose input axis is the site's channels.
    input_first: whether that axis is the first (Conv1D) rather than the last.
    """

    name: str
    module: nn.Module
    weights: tuple[str, ...]
    input_first: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def answer(self, parameters: Mapping[str, Tensor], read: Tensor) -> Tensor:
        """What the module returns for another read, with some parameters exchanged."""
        given = hidden_argument(self.args, self.kwargs)
        new = read.reshape(given.shape)
        args = tuple(new if value is given else value for value in self.args)
        kwargs = {name: new if value is given else value for name, value in self.kwargs.items()}
        out = functional_call(self.module, dict(parameters), args, kwargs)
        return out if isinstance(out, Tensor) else first_tensor(out)


@torch.no_grad()
def find_readers(stack: ResolvedStack, site: int) -> tuple[Tensor, tuple[Reader, ...]]:
    """The read [B,T,D] of the probe batch at `site`, and every module with weights that reads it.

    Raises:
        AttachError: a block reads through two norms (one direction then is two), or nothing reads the site.
    """
    stack.require(site, "read")
    tokens, mask = probe_batch(stack.model)
    walk = Walk(stack, tokens, mask)
    h = walk.embedding()
    for earlier in range(site):
        h = walk.sublayer(earlier, h)
    last = site == len(stack.sublayers)
    if not last and len({id(part.read_norm) for part in stack.contributions[site]}) > 1:
        raise AttachError(
            f"site {site} is read through two norms, so no single direction is; edit it with hooks instead"
        )
    x = walk.read(site, h)
    names = {id(module): name for name, module in stack.model.named_modules()}
    found: dict[int, Reader] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not module._parameters or not (args or kwargs):
            return
        given = hidden_argument(args, kwargs)
        if isinstance(given, Tensor) and given.data_ptr() == x.data_ptr() and given.numel() == x.numel():
            weights, input_first = _input_weights(module, stack.d_model)
            found[id(module)] = Reader(names[id(module)], module, weights, input_first, args, kwargs)

    with ExitStack() as hooks:
        for module in _candidates(stack, site):
            hooks.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        if last:
            _run_tail(stack, x)
        else:
            walk.sublayer(site, h, x)
    if not found:
        raise AttachError(f"no weight reads site {site} directly; edit it with hooks instead")
    return x, tuple(found.values())


def _candidates(stack: ResolvedStack, site: int) -> list[nn.Module]:
    if site == len(stack.sublayers):
        return [*stack.tail_modules[1:], stack.model.get_output_embeddings()]
    return [m for part in stack.contributions[site] for module in part.modules for m in module.modules()]


def _run_tail(stack: ResolvedStack, x: Tensor) -> None:
    """Run what follows the final norm, on its output."""
    for module in stack.tail_modules[1 if stack.final_norm is not None else 0 :]:
        x = module(x)
    stack.skeleton.logits(x)


def _input_weights(module: nn.Module, width: int) -> tuple[tuple[str, ...], bool]:
    """The parameters of a reader that multiply the read, and whether their input axis comes first.

    Linear layers and GPT-2's Conv1D are known. Routers and stacked experts keep bare parameters: those whose last
    axis has the stream's width are taken, and the check on the spot decides whether that was right.
    """
    if isinstance(module, Conv1D):
        return ("weight",), True
    if isinstance(module, nn.Linear):
        return ("weight",), False
    own = tuple(name for name, p in module._parameters.items() if p is not None and p.ndim > 1 and p.shape[-1] == width)
    return own, False
