"""The plan of a run: everything it will need, before it starts.

A `Workload` is what differs between a sparse model by itself (`sparse_workload`) and one with bridges
(`bridges.workload.bridged_workload`); `make_plan` turns it into memory, tokens, hours and bytes on disk.
"""

from dataclasses import dataclass
from typing import Any

from foundation.errors import UserError
from sparse_model.plan.flops import model_work
from sparse_model.plan.hardware import Device
from sparse_model.plan.memory import FULL, Memory, head_bytes, training_memory, trunk_bytes, widest_bytes
from sparse_model.plan.size import Size, model_size
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.packed import PACK_BELOW
from sparse_model.transformer.sparse_config import SparseConfig

PACKED_ENTRY = 8
"""Bytes of a stored nonzero: value and place."""


@dataclass(frozen=True)
class Workload:
    """One kind of run."""

    size: Size
    """of the sparse model"""
    extra_parameters: int
    """that train beside it (bridges)"""
    frozen_parameters: int
    forward_flops: float
    """of the sparse model, per token"""
    step_flops: float
    """of everything a step does, per token"""
    bytes_per_token: int
    """of activations at the peak"""


@dataclass(frozen=True)
class Plan:
    """What a run needs; `to_json` has the keys."""

    workload: Workload
    memory: Memory
    tokens: int
    tokens_per_step: int
    block_length: int
    hours: float
    device: Device
    devices: int
    split: bool
    utilisation: float
    precision: str
    model_bytes: int
    checkpoint_bytes: int
    measured_seconds: float | None = None
    """of one step, where a few were run"""

    def largest_micro_batch(self) -> int:
        """Sequences that one device could hold at once beside weights, gradients and moments; 0 where not even one."""
        memory = self.memory
        if memory.peak - max(memory.activations, memory.gradients) + memory.gradients > self.device.memory:
            return 0
        room = self.device.memory - (memory.peak - max(memory.activations, memory.gradients))
        return int(room // (self.workload.bytes_per_token * self.block_length))

    def to_json(self) -> dict[str, Any]:
        """Counts, bytes, FLOPs per token, hours."""
        work = self.workload
        return {
            "parameters": work.size.parameters,
            "nonzero": work.size.nonzero,
            "bridge_parameters": work.extra_parameters,
            "frozen_parameters": work.frozen_parameters,
            "memory_bytes": self.memory.to_json(),
            "fits": self.memory.peak <= self.device.memory,
            "flops_per_token": {"forward": work.forward_flops, "step": work.step_flops},
            "tokens": self.tokens,
            "tokens_per_step": self.tokens_per_step,
            "hours": self.hours,
            "device": self.device.name,
            "device_memory_bytes": self.device.memory,
            "devices": self.devices,
            "split": self.split,
            "peak_flops": self.device.peak(self.precision),
            "utilisation": self.utilisation,
            "measured_seconds_per_step": self.measured_seconds,
            "disk_bytes": {"model": self.model_bytes, "checkpoints": self.checkpoint_bytes},
        }


def sparse_workload(config: SparseConfig, train: TrainConfig) -> Workload:
    """A sparse model trained on its own, on sequences of `config.block_size` tokens."""
    work, half = model_work(config, config.block_size), train.precision == "bf16"
    per_token = trunk_bytes(config, config.block_size, half) + head_bytes(config) + widest_bytes(config)
    size = model_size(config, train.final_densities(), train.floor)
    return Workload(size, 0, 0, work.forward, work.step, per_token)


def make_plan(
    workload: Workload,
    train: TrainConfig,
    block_length: int,
    device: Device,
    devices: int,
    utilisation: float,
    seconds_per_step: float | None = None,
    split: bool = False,
) -> Plan:
    """Put a workload on hardware.

    Args:
        block_length: tokens per sequence.
        devices: processes that share a step's sequences.
        utilisation: share of the peak rate that the run reaches.
        seconds_per_step: measured on this hardware; replaces the estimate from FLOPs.
        split: each device holds its share of the parameters (FSDP) instead of all of them.

    Raises:
        UserError: the sequences of a step do not divide over the devices, or there is one to split over.
    """
    if split and devices == 1:
        raise UserError("--split spreads the parameters over several devices; add --devices with how many")
    if train.batch_size % (devices * train.accumulate):
        raise UserError(
            f"batch_size {train.batch_size} does not split evenly over {devices} devices and {train.accumulate} micro-batches; "
            f"make it a multiple of {devices * train.accumulate}"
        )
    tokens_per_step = train.batch_size * block_length
    rate = device.peak(train.precision) * utilisation * devices
    seconds = seconds_per_step or workload.step_flops * tokens_per_step / rate
    trained = workload.size.parameters + workload.extra_parameters
    memory = training_memory(
        trained,
        workload.bytes_per_token,
        tokens_per_step // (devices * train.accumulate),
        train.precision == "bf16",
        devices,
        workload.frozen_parameters,
        (workload.size.largest_part, workload.size.outside_parts + workload.extra_parameters) if split else None,
    )
    kept = workload.size.nonzero - (workload.size.parameters - workload.size.projected)
    packed = PACKED_ENTRY * kept if train.density < PACK_BELOW else FULL * workload.size.projected
    dense = workload.size.parameters - workload.size.projected + workload.extra_parameters
    return Plan(
        workload=workload,
        memory=memory,
        tokens=train.steps * tokens_per_step,
        tokens_per_step=tokens_per_step,
        block_length=block_length,
        hours=train.steps * seconds / 3600,
        device=device,
        devices=devices,
        split=split,
        utilisation=workload.step_flops * tokens_per_step / (seconds * device.peak(train.precision) * devices),
        precision=train.precision,
        model_bytes=packed + FULL * dense,
        # weights and two moments each, one of them being written; the best one holds weights alone
        checkpoint_bytes=FULL * trained * (3 * (train.keep_checkpoints + 1) + bool(train.evaluate_every)),
        measured_seconds=seconds_per_step,
    )
