"""Control runs kept in a file: they depend on model, task and settings, not on the circuit they are compared to."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foundation.artefacts import write_json
from foundation.errors import UserError
from foundation.settings import read_mapping
from sparse_model.circuits.evidence.forced import Forced


def cached_curves(
    path: Path | None, key: Mapping[str, Any], make: Callable[[], dict[str, Forced]]
) -> dict[str, Forced]:
    """What the file holds, or what `make` gives, written there; None keeps nothing.

    Args:
        key: plain values that the control runs depend on.

    Raises:
        UserError: the file holds the control runs of something else, or none.
    """
    if path is None or not path.is_file():
        made = make()
        if path is not None:
            write_json(
                path, {"key": dict(key), "curves": {name: forced.to_json()["curve"] for name, forced in made.items()}}
            )
        return made
    held = read_mapping(path)
    try:
        found, curves = held["key"], held["curves"]
    except KeyError as error:
        raise UserError(f"{path}: holds no control runs (no {error}); pass another --controls file") from None
    expected = json.loads(json.dumps(dict(key)))
    differs = [name for name in expected if found.get(name) != expected[name]]
    if differs:
        raise UserError(f"{path}: holds the control runs of another {differs[0]}; pass another --controls file")
    return {name: Forced({int(nodes): loss for nodes, loss in curve.items()}) for name, curve in curves.items()}
