"""Whether a change of the code changed results: this checkout against another one of the project, file by file.

    python benchmarks/same_results.py OLD_CHECKOUT [--steps 12] [--task closing_quote] [--into docs/design.md]

Both trees, on one thread and in fresh processes, build a corpus of the same text, train a sparse model and a bridge by the older
checkout's bundled recipe for a few steps, and prune a circuit of the older checkout's bundled model. Every tensor of what
they write is compared: equal to the bit, or by how much it differs beside its own size.
"""

import argparse
import datetime
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from against import HERE, RefusedError, commit_of, older_tree, prepare, run_in
from safetensors.torch import load_file
from timing import machine

from sparse_model.transformer.packed import unpack


def commands(older: Path, task: str) -> dict[str, list[str]]:
    """What both trees do after their corpus is built, by name; each writes the folder of that name."""
    trained = ["--corpus", "corpus", "--out"]
    return {
        "sparse": ["sparse", "train", "--config", "sparse.toml", *trained, "sparse"],
        "bridge": [
            "bridge", "train", str(older / "cli/bundled/dense"), "--evaluate-blocks", "2", "--config", "bridge.toml",
            *trained, "bridge",
        ],
        "circuit": ["circuit", "prune", str(older / "cli/bundled/bridge"), "--task", task, "--out", "circuit"],
    }  # fmt: skip


def tensors_of(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every tensor of a folder by file and name, packed ones unpacked, and arrays of NumPy files by theirs."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        held = unpack(load_file(path))
        found |= {f"{path.relative_to(folder)}:{name}": value.numpy() for name, value in held.items()}
    for path in sorted(folder.rglob("*.npy")):
        found[str(path.relative_to(folder))] = np.load(path)
    return found


def difference(older: Mapping[str, np.ndarray[Any, Any]], this: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """How many tensors of two folders are equal to the bit, and the largest difference of the others.

    A tensor's difference is the norm of what changed over the norm of the older one; tensors that one folder alone
    has count as different by all of it.
    """
    if not older or not this:
        raise ValueError("a folder without tensors compares with nothing")
    shared = older.keys() & this.keys()
    equal = [name for name in shared if older[name].tobytes() == this[name].tobytes()]
    worst = 0.0 if older.keys() == this.keys() else 1.0
    for name in shared - set(equal):
        a, b = older[name].astype(np.float64), this[name].astype(np.float64)
        worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(a)) if a.shape == b.shape else 1.0)
    return {
        "tensors": len(older.keys() | this.keys()),
        "equal": len(equal),
        "largest difference": float(f"{worst:.2g}"),
    }


def last_loss(folder: Path) -> dict[str, float]:
    """The last step's loss that a training wrote, in nats; nothing where no training did."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return {}
    return {"loss": json.loads(path.read_text("utf-8").splitlines()[-1])["loss"]}


def main() -> None:
    """Run both trees, print one JSON object, and write the table where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path, metavar="OLD_CHECKOUT")
    parser.add_argument("--steps", type=int, default=12, help="of both trainings")
    parser.add_argument("--task", default="closing_quote", help="of the circuit")
    parser.add_argument("--into", type=Path, help="also write a table between two comments of this page")
    parser.add_argument("--block", default="same", help="the name of these comments")
    arguments = parser.parse_args()
    older, recipe = older_tree(parser, arguments.older)
    found: dict[str, Any] = {**machine(), "older": commit_of(older), "this": commit_of(HERE), "steps": arguments.steps}
    with tempfile.TemporaryDirectory() as folder:
        places = {older: Path(folder) / "older", HERE: Path(folder) / "this"}
        for tree, place in places.items():
            prepare(recipe, older / "cli/bundled/dense", tree, arguments.steps, place)
        for name, words in {"corpus": [], **commands(older, arguments.task)}.items():
            try:
                for tree, place in places.items():
                    if words:
                        run_in(tree, words, place)
            except RefusedError as error:
                found[name] = f"not compared: {error}"
                continue
            found[name] = difference(*(tensors_of(place / name) for place in places.values()))
            losses = [last_loss(place / name) for place in places.values()]
            for whose, loss in zip(("older", "this"), losses, strict=True):
                found[name] |= {f"{key}, {whose}": value for key, value in loss.items()}
    print(json.dumps(found, indent=1))
    if arguments.into:
        from performance import table

        from sparse_model.studies.page import write_between

        line = f"same_results.py OLD_CHECKOUT --steps {arguments.steps} --task {arguments.task}"
        write_between(arguments.into, arguments.block, table(line, datetime.date.today().isoformat(), found))


if __name__ == "__main__":
    main()
