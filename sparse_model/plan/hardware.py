"""Devices and how fast they are, from their makers' datasheets.

Peaks are dense (no structured sparsity). `fp32` is the rate outside of tensor cores, since matrix products in fp32 stay
exact by default. The share of it that a run reaches is an assumption until `--measure` replaces it.
"""

import os
from dataclasses import dataclass

import torch

from foundation.errors import UserError
from sparse_model.training.speed import matmul_rate

GIB, GB, TERA = 2**30, 10**9, 1e12
ASSUMED_UTILISATION = 0.3
"""Fraction of the peak; narrow sparse models spend much of a step on norms and AbsTopK."""


@dataclass(frozen=True)
class Device:
    """One device: memory in bytes, peaks in FLOPs per second."""

    name: str
    memory: int
    fp32: float
    bf16: float

    def peak(self, precision: str) -> float:
        """Peak rate in the given precision."""
        return self.bf16 if precision == "bf16" else self.fp32


DATASHEETS = (
    Device("l4", 24 * GB, 30.3 * TERA, 121 * TERA),
    Device("rtx4090", 24 * GB, 82.6 * TERA, 165.2 * TERA),
    Device("a100-40", 40 * GB, 19.5 * TERA, 312 * TERA),
    Device("a100-80", 80 * GB, 19.5 * TERA, 312 * TERA),
    Device("h100", 80 * GB, 67 * TERA, 989 * TERA),
    Device("h200", 141 * GB, 67 * TERA, 989 * TERA),
)
NAMES = ("cpu", *(device.name for device in DATASHEETS))


def find_device(name: str) -> Device:
    """A device of the table, or `cpu`: this machine, its matrix-product rate timed on the spot.

    Raises:
        UserError: an unknown name.
    """
    if name == "cpu":
        rate = matmul_rate(torch.device(name), torch.float32)
        return Device("cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rate, rate)
    for device in DATASHEETS:
        if device.name == name:
            return device
    raise UserError(f"device '{name}' is not in the table; choose one of {', '.join(NAMES)}")
