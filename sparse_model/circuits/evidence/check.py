"""What a check is, and the list of them: every module of this folder that has a `CHECK`.

A new check is one module here. Its result appears in every table and report, and in `findings.<name>` of the JSON.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import sparse_model.circuits.evidence as folder
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.tasks.token_pairs import TokenPairs


@dataclass(frozen=True)
class Asked:
    """What a check may look at."""

    subject: Subject
    """the circuit, its model, and held-out pairs"""
    train: TokenPairs
    """pairs the circuit was made with"""
    draws: int
    """random node sets per control"""


@dataclass(frozen=True)
class Check:
    """One question to a circuit that needs no further pruning."""

    place: int
    """in the order of tables"""
    run: Callable[[Asked], Finding | None]
    missing: str = ""
    """why there may be no finding"""


def all_checks() -> dict[str, Check]:
    """Name of the module → its check, in the order of tables."""
    names = [module.name for module in pkgutil.iter_modules(folder.__path__)]
    modules = {name: vars(importlib.import_module(f"{folder.__name__}.{name}")) for name in names}
    found = {name: module["CHECK"] for name, module in modules.items() if "CHECK" in module}
    return dict(sorted(found.items(), key=lambda item: (item[1].place, item[0])))
