"""Whether starting and training became slower: this checkout against another one of the project, by turns.

    python benchmarks/against.py OLD_CHECKOUT [--turns 5] [--steps 20] [--into docs/performance.md]

Every figure of a turn comes from fresh processes of the same interpreter, one tree after the other, in alternating order, with
nothing changed between the two but the tree they import from. A ratio is this checkout's figure over the older one's of the same
turn; above 1 it became slower.

Starting: wall-clock and processor seconds of whole commands. Training: processor seconds from the batch of one step to the next
one's, within the real `sparse train` and `bridge train`, on one thread, so that neither imports nor the first steps count. Both
run the older checkout's bundled recipe, its shape, batch and loss terms written out, beside its bundled dense model; logging,
evaluation and checkpoints, which are no part of a step, are left out, and the steps are fewer. Each tree builds its own corpus
of the same text, since formats may differ.
"""

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

from timing import machine

HERE = Path(__file__).resolve().parents[1]
RECIPE = "cli/bundled/recipe.toml"
WARM_UP = 3
"""Steps before the first that counts: the first is run under a counter of operations, the next still allocate."""
COMMANDS = (("--help",), ("--version",), ("task", "list"), ("bridge", "train", "--help"))
"""Commands that should be instant."""
SLOWER = 1.05
"""What --check allows the median of a ratio of processor seconds to be."""

Found = TypeVar("Found")
Recipe = Mapping[str, Mapping[str, Any]]

RUN = """
import sys, time
import cli.main
if not cli.main.__file__.startswith(sys.argv[1]):
    sys.exit(f"imported from {cli.main.__file__}, not from {sys.argv[1]}")
"""
TIMED = """
from sparse_model.training.batches import Batches
plain, times = Batches.at, []
def timed(self, *arguments, **options):
    times.append(time.process_time())
    return plain(self, *arguments, **options)
Batches.at = timed
code = cli.main.run(sys.argv[2:])
print(*times)
sys.exit(code)
"""
WHOLE = "sys.exit(cli.main.run(sys.argv[2:]))"


class RefusedError(RuntimeError):
    """A tree does not know the command, or it failed; says what it printed."""


class Pair(NamedTuple):
    """A figure of the older and of this tree, taken in the same turn."""

    older: float
    this: float


class Used(NamedTuple):
    """Seconds of one process, and what it printed."""

    wall: float
    processor: float
    printed: str


def run_in(tree: Path, words: Sequence[str], work: Path, timed: bool = False) -> Used:
    """One command of a tree in a fresh process, on one thread.

    Args:
        work: the folder it runs in.
        timed: print the processor seconds at the beginning of every step of training.

    Raises:
        RefusedError: it did not exit with 0.
    """
    tree = tree.resolve()
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    script = RUN + (TIMED if timed else WHOLE)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", script, str(tree), *words],
        cwd=work, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ran.returncode:
        raise RefusedError(f"{' '.join(words)} in {tree}: {ran.stderr.strip()[-500:]}")
    return Used(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ran.stdout)


def seconds_per_step(times: Sequence[float]) -> float:
    """Median from the beginning of a step to that of the next, once warm."""
    return median(later - earlier for earlier, later in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False))


def by_turns(older: Path, measure: Callable[[Path], Found], turn: int) -> tuple[Found, Found]:
    """What is measured of the older and of this tree; every second turn begins with this one."""
    order = (older, HERE) if turn % 2 == 0 else (HERE, older)
    found = {tree: measure(tree) for tree in order}
    return found[older], found[HERE]


def settings_of(recipe: Recipe, steps: int) -> dict[str, dict[str, Any]]:
    """A --config of `bridge train` for so many steps of a recipe, without what is no part of a step.

    The cross-entropy's weight is written out, for its default is another in some trees.
    """
    apart = {"log_to": "none", "evaluate_every": 0, "diagnose_every": 0, "checkpoint_every": 10 * steps}
    return {
        "train": {**recipe["bridge_train"], **apart, "steps": steps},
        "sparse": dict(recipe["sparse"]),
        "bridge": {"cross_entropy": 1.0, **recipe["bridge"]},
    }


def as_toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values."""
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for name, values in sections.items()
    )


def prepare(recipe: Recipe, dense: Path, tree: Path, steps: int, work: Path) -> None:
    """In `work`, all that a tree's trainings read: its corpus, and a config for each."""
    work.mkdir()
    sections = settings_of(recipe, steps)
    (work / "bridge.toml").write_text(as_toml(sections), encoding="utf-8")
    (work / "sparse.toml").write_text(as_toml({k: v for k, v in sections.items() if k != "bridge"}), encoding="utf-8")
    length = recipe["corpus"]["block_length"]
    tokens = 2 * length * sections["train"]["batch_size"] * steps
    sizes = {"train-tokens": tokens, "evaluation-tokens": 8 * length, "block-length": length}
    options = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    words = ["corpus", "build", "--source", "tinypython", "--tokenizer", str(dense), "--out", "corpus"]
    run_in(tree, [*words, *options], work)


def measure_training(older: Path, recipe: Recipe, dense: Path, turns: int, steps: int) -> dict[str, list[Pair]]:
    """Processor seconds per step of both trees, by command."""
    commands = {
        "sparse train": ["sparse", "train"],
        "bridge train": ["bridge", "train", str(dense), "--evaluate-blocks", "2"],
    }
    found: dict[str, list[Pair]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        places = {older: Path(folder) / "older", HERE: Path(folder) / "this"}
        for tree, place in places.items():
            prepare(recipe, dense, tree, steps, place)

        def step(tree: Path, words: list[str], out: str) -> float:
            line = [*words, "--corpus", "corpus", "--config", f"{words[0]}.toml", "--out", out]
            used = run_in(tree, line, places[tree], timed=True)
            return seconds_per_step([float(word) for word in used.printed.splitlines()[-1].split()])

        for turn in range(turns):
            for name, words in commands.items():
                measure = partial(step, words=words, out=f"{words[0]}-{turn}")
                found[name].append(Pair(*by_turns(older, measure, turn)))
    return {f"{name}, a step": pairs for name, pairs in found.items()}


def measure_start(
    older: Path, pairs: int, commands: Sequence[Sequence[str]] = COMMANDS
) -> tuple[dict[str, list[Pair]], list[str]]:
    """Wall-clock and processor seconds by command, and the commands that the older tree does not know."""
    found: dict[str, list[Pair]] = {}
    unknown = []
    with tempfile.TemporaryDirectory() as folder:
        for words in commands:
            name = " ".join(words)
            measure = partial(run_in, words=words, work=Path(folder))
            measure(HERE)  # and compile what was never run before
            try:
                measure(older)
            except RefusedError:
                unknown.append(name)
                continue
            used = [by_turns(older, measure, turn) for turn in range(pairs)]
            found[f"{name}, wall"] = [Pair(a.wall, b.wall) for a, b in used]
            found[f"{name}, processor"] = [Pair(a.processor, b.processor) for a, b in used]
    return found, unknown


def summary(pairs: Sequence[Pair]) -> dict[str, float]:
    """Medians of both, and of their ratio, which is this over the older, with the lowest and the highest."""
    ratios = [pair.this / pair.older for pair in pairs]
    return {
        "older_ms": round(1e3 * median(pair.older for pair in pairs), 1),
        "this_ms": round(1e3 * median(pair.this for pair in pairs), 1),
        "ratio": round(median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def slower(found: Mapping[str, Any]) -> list[str]:
    """Names of the figures in processor time whose median ratio is above what --check allows."""
    rows = {name: row for name, row in found.items() if isinstance(row, dict)}
    return [name for name, row in rows.items() if "wall" not in name and row["ratio"] > SLOWER]


def older_tree(parser: argparse.ArgumentParser, given: Path) -> tuple[Path, Recipe]:
    """The older checkout and its bundled recipe; anything else is refused in the parser's words."""
    older = given.resolve()
    if not (older / RECIPE).is_file():
        parser.error(f"{older} is no checkout of this project: it has no {RECIPE}")
    return older, tomllib.loads((older / RECIPE).read_text("utf-8"))


def main() -> None:
    """Measure, print one JSON object, and write the table where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path, metavar="OLD_CHECKOUT")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help=f"of every training, {WARM_UP + 2} or more")
    parser.add_argument("--starts", type=int, default=9, help="pairs of every command that should be instant")
    parser.add_argument("--check", action="store_true", help=f"exit 1 where processor time grew beyond {SLOWER} times")
    parser.add_argument("--into", type=Path, help="also write a table between two comments of this page")
    parser.add_argument("--block", default="against", help="the name of these comments")
    arguments = parser.parse_args()
    older, recipe = older_tree(parser, arguments.older)
    if arguments.steps < WARM_UP + 2:
        parser.error(f"--steps {arguments.steps}: the first {WARM_UP} do not count; give {WARM_UP + 2} or more")
    found: dict[str, Any] = {**machine(), "threads": 1, "older": commit_of(older), "this": commit_of(HERE)}
    found |= {"turns": arguments.turns, "steps a turn": arguments.steps, "starts": arguments.starts}
    training = measure_training(older, recipe, older / "cli/bundled/dense", arguments.turns, arguments.steps)
    starts, unknown = measure_start(older, arguments.starts)
    if unknown:
        found["unknown to the older"] = ", ".join(unknown)
    found |= {name: summary(pairs) for name, pairs in (starts | training).items()}
    print(json.dumps(found, indent=1))
    if arguments.into:
        from performance import table

        from sparse_model.studies.page import write_between

        line = (
            f"against.py OLD_CHECKOUT --turns {arguments.turns} --steps {arguments.steps} --starts {arguments.starts}"
        )
        write_between(arguments.into, arguments.block, table(line, datetime.date.today().isoformat(), found))
    if arguments.check and slower(found):
        sys.exit(f"slower: {', '.join(slower(found))}")


def commit_of(tree: Path) -> str:
    """What the tree is, as git says it, and the day it was made."""
    line = ["git", "-C", str(tree), "log", "-1", "--format=%h of %cs"]
    said = subprocess.run(line, capture_output=True, text=True, check=False)
    return said.stdout.strip() or "not under git"


if __name__ == "__main__":
    main()
