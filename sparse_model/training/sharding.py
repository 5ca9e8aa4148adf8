"""Parameters that may be split over processes (FSDP2), and their whole tensors, one at a time.

`accelerate` splits: every process holds a slice of each parameter, of its gradient and of its moments, and gathers
whole weights for the time a sublayer runs. The projection, checkpoints, diagnostics and revival need whole tensors
besides; they take them from here. For a parameter that is not split, every function here does nothing.
"""

import copy
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import FullyShardedDataParallelPlugin, parse_flag_from_env
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from foundation.errors import UserError
from sparse_model.transformer.execution import SparseLinear

Trained = TypeVar("Trained", bound=nn.Module)
REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "--use_parallelism_config",
    "FSDP_OFFLOAD_PARAMS": "--fsdp_offload_params",
    "FSDP_ACTIVATION_CHECKPOINTING": "--fsdp_activation_checkpointing",
}
"""What a launcher sets for ways of training that the loop cannot do, and their names."""


def requested(objective: nn.Module) -> FullyShardedDataParallelPlugin | None:
    """How to split the objective if the launcher asked for that.

    Each sublayer gathers its weights on its own, masters are fp32 and all mixed precision is autocast, as in a run that
    splits nothing.

    Raises:
        UserError: it asked for what cannot be done; with what to launch instead.
    """
    splits = parse_flag_from_env("ACCELERATE_USE_FSDP")
    for flag, name in REFUSED.items():
        if parse_flag_from_env(flag) and (splits or not flag.startswith("FSDP")):
            raise UserError(f"{name} is not supported; launch with --multi_gpu, or --use_fsdp --fsdp_version 2, alone")
    if not splits:
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("FSDP of version 1 is not supported, since it flattens the tensors; add --fsdp_version 2")
    models = [part for part in objective.modules() if isinstance(part, PreTrainedModel)]
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="TRANSFORMER_BASED_WRAP",
        transformer_cls_names_to_wrap=sorted({name for model in models for name in model._no_split_modules or ()}),
        mixed_precision_policy=MixedPrecisionPolicy(),
        cpu_ram_efficient_loading=False,
    )


def make_splittable(
    objective: Trained, plugin: FullyShardedDataParallelPlugin | None, accelerator: Accelerator
) -> Trained:
    """A copy for `accelerate.prepare` to split in place, or the objective itself where nothing will be split.

    Parts of an objective that it holds in a tuple are only looked at (a frozen dense model), and shared with the copy.
    """
    if plugin is None:
        return objective
    if (
        accelerator.distributed_type == DistributedType.MULTI_CPU
    ):  # accelerate turns FSDP on only where there are devices
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    if not accelerator.state.is_fsdp2:
        return objective
    warnings.filterwarnings(
        "ignore", message="FSDP2-wrapped module"
    )  # of changes in place to its output: there are none
    made = copy.deepcopy(objective, {id(part): part for part in vars(objective).values() if isinstance(part, tuple)})
    for part in made.modules():
        if isinstance(part, SparseLinear):
            part.train()  # gathered weights change without a new version, so a copy in CSR could be out of date
    return made


@torch.no_grad()
def bring_back(trained: nn.Module, objective: nn.Module) -> None:
    """Copy the parameters of a split copy to the objective it was made of."""
    if trained is not objective:
        for ours, theirs in zip(objective.parameters(), trained.parameters(), strict=True):
            ours.copy_(whole(theirs))


def whole(tensor: Tensor) -> Tensor:
    """The whole of a split tensor, on every process; every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def split_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, the same on every process, split as the parameter is; on its device."""
    value = value.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


@contextmanager
def opened(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The whole tensors, to be changed in place; afterwards each process keeps its part of the change."""
    found = tuple(whole(tensor) for tensor in tensors)
    yield found
    for tensor, value in zip(tensors, found, strict=True):
        if isinstance(tensor, DTensor):
            local(tensor).copy_(local(split_like(value, tensor)))


def gather(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The whole tensors by name, those that are split on the CPU; empty on a process that is not to `keep` them."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor.detach())
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


def joined_norms(norms: Float[Tensor, " P"], parameters: list[nn.Parameter]) -> Float[Tensor, " P"]:
    """Euclidean norms over all processes from those of each one's parts."""
    first = parameters[0]
    if not isinstance(first, DTensor):
        return norms
    squares = norms.square()
    torch.distributed.all_reduce(squares, group=first.device_mesh.get_group())
    return squares.sqrt()


@contextmanager
def outside_a_step(objective: nn.Module) -> Iterator[None]:
    """Lets forward passes run that are followed by no backward pass, of the objective or of a model in it.

    Every process has to run as many of them.
    """
    if not isinstance(objective, FSDPModule):
        yield
        return
    objective.unshard()
    try:
        yield
    finally:
        for part in objective.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
