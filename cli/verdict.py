"""What every command that judges a circuit shares: how good a verdict must be, how many draws, and how it is printed."""

from typing import Annotated, Any, Literal

import typer

from cli.output import interval, print_table, tell
from foundation.verdicts import WORDS

Accept = Annotated[
    Literal["explains", "steers"],
    typer.Option("--accept", help="the least verdict that exits 0: explains, or also steers"),
]
Draws = Annotated[
    int, typer.Option("--draws", help="matched node sets outside the circuit; 99 is the least that can give p 0.01")
]


def is_accepted(word: str, accept: str) -> bool:
    """Whether a verdict is at least the one asked for."""
    words: tuple[str, ...] = WORDS
    return words.index(word) <= words.index(accept)


def show_verdict(task: str, report: dict[str, Any]) -> None:
    """Print a verdict: its word and reason, the gates, and the main figures beside what they are compared to."""
    effect, m7, fit = report.get("effect"), report.get("specificity"), report["transfer"]
    rows = [
        ["M6: slope, dense over sparse", interval(fit["slope"], 2), "1 where the sparse model predicts"],
        ["M6: R²", interval(fit["r2"], 2), f"rank correlation {fit['rank']['value']:.2f}"],
    ]
    if effect is not None:
        patch, decoded = interval(effect["patch"], 2), interval(effect["decoded"], 2)
        rows.insert(0, ["circuit's edit", interval(effect["circuit"], 2), f"patch {patch}, decoded stream {decoded}"])
    if m7 is not None:
        compared = f"{m7['draws']} matched sets {interval(m7['outside'], 2)}, p {m7['p_value']:.3f}"
        rows.append(["M7: more than matched sets", interval(m7["difference"], 2), compared])
    for name, one in report.get("baselines", {}).items():
        rows.append([f"without a bridge: {name}", interval(one["effect"], 2), "at the circuit's norm"])
    for name, kinds in report.get("standing", {}).items():
        figures = {kind: f"{one['flip_rate']['value']:.2f}" for kind, one in kinds.items()}
        others = ", ".join(f"{kind} {flips}" for kind, flips in figures.items() if kind != "circuit")
        rows.append([f"standing edit flips, {name.replace('_to_', ' → ')}", figures["circuit"], others])
    word, reason = report["verdict"]["word"], report["verdict"]["reason"]
    where = "" if report.get("place") is None else f" at dense site {report['place']['dense_site']}"
    print_table(f"{task}: {word} — {reason}", (f"share of the model's difference{where}", "value", "compared to"), rows)
    for gate in report["verdict"]["gates"]:
        mark = "pass" if gate["passed"] else "FAIL"
        more = "" if gate["passed"] else f" — {gate['meaning']}; {gate['remedy']}"
        tell(f"{mark}  {gate['name']}: {gate['measured']} (required: {gate['required']}){more}")
    if "beats_baselines" in report:
        tell(report["beats_baselines"]["sentence"])
    if report["unplaced"]:
        tell(f"nodes at sites that meet no dense site, left out: {', '.join(report['unplaced'])}")


def show_difference(figures: dict[str, Any], before: str, after: str) -> None:
    """Print what one circuit is on a model and on the same model with an adapter."""
    rows = [
        [name, *("–" if both[which] is None else interval(both[which], 2) for which in ("base", "adapted"))]
        for name, both in figures.items()
    ]
    print_table(
        "the same circuit, pairs and bridge", ("", "base", "with the adapter"), [["verdict", before, after], *rows]
    )
