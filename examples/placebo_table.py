"""Print how the judge did on its trials as Markdown: `python examples/placebo_table.py TRIALS.jsonl --into docs/verdicts.md`.

Takes any number of files written by `edit placebo`; with `--into` the table between the two `placebo` comments is replaced.
"""

import argparse
from pathlib import Path
from typing import Any

from bridges.validation.placebo import rate_bound
from cli.placebo import read_trials, summarise
from sparse_model.studies.page import publish

NAMED = {
    "circuit": "the pruned circuit",
    "complement": "all nodes but the circuit's",
    "every_node": "every node, no pruning",
    "random": "random nodes, equal number",
    "other_task": "another task's circuit",
    "untrained_bridge": "the circuit, untrained bridge",
    "permuted_decoders": "the circuit, permuted decoders",
    "class_means": "class means instead of what the nodes say",
    "most_moved": "rival: most moved nodes, equal number",
    "planted_rotated": "plant: rotated stream",
    "planted_deeper": "plant: idle layers in between",
    "planted_centred": "plant: large mean, taken out",
}


def table(trials: list[dict[str, Any]]) -> str:
    """Verdicts counted by kind of trial, and the two rates."""
    found = summarise(trials)
    lines = ["| trial | explains | steers | fails |", "|---|---|---|---|"]
    for name, words in found["counts"].items():
        if sum(words.values()):
            lines.append(f"| {NAMED[name]} | " + " | ".join(str(count) for count in words.values()) + " |")
    lines.append("")
    if found["placebos"]:
        lines.append(
            f"Placebos called `explains`: {found['placebos_explaining']} of {found['placebos']} "
            f"(one-sided 95 % bound on the rate: {found['placebo_rate_bound']:.3f})."
        )
    if found["plants"]:
        missed = rate_bound(found["plants"] - found["plants_explaining"], found["plants"])
        lines.append(
            f"Planted truths called `explains`: {found['plants_explaining']} of {found['plants']} "
            f"(one-sided 95 % bound on the rate of misses: {missed:.3f})."
        )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print or replace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=Path, nargs="+")
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    found = {key: trial for path in arguments.trials for key, trial in read_trials(path).items()}
    publish(table(list(found.values())), "placebo", arguments.into)


if __name__ == "__main__":
    main()
