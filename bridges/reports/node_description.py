"""One line about a node, from the passages of ordinary text where it is most active: what stands there, before and after.

A summary of what the passages have in common, not an interpretation: a person may write a better line in its place
(`descriptions.json` in the circuit's folder), which is then shown instead.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bridges.reports.figures.activations import visible
from foundation.artefacts import read_json, write_json
from foundation.errors import UserError

FILE = "descriptions.json"
SHARED = 0.5
"""Share of passages that have to agree for a token before or after to be named."""
MOST_TOKENS = 3


def describe(contexts: Sequence[Mapping[str, Any]]) -> str:
    """The line of passages with `tokens`, `at` and `activation`."""
    if not contexts:
        return "zero on all the text read"
    at = Counter(visible(context["tokens"][context["at"]]) for context in contexts)
    named = [token for token, _ in at.most_common(MOST_TOKENS)]
    rest = ", …" if len(at) > len(named) else ""
    words = "fires" if _mostly_positive(contexts) else "goes below zero"
    line = f"{words} on {' '.join(named)}{rest}"
    for offset, word in ((-1, "after"), (1, "before")):
        shared = _shared(contexts, offset)
        if shared is not None:
            line += f", {word} {shared}"
    return line


def _mostly_positive(contexts: Sequence[Mapping[str, Any]]) -> bool:
    return sum(context["activation"] > 0 for context in contexts) * 2 >= len(contexts)


def _shared(contexts: Sequence[Mapping[str, Any]], offset: int) -> str | None:
    """The token next to the position in at least half of the passages."""
    found = Counter(
        visible(context["tokens"][place])
        for context in contexts
        if 0 <= (place := context["at"] + offset) < len(context["tokens"])
    )
    token, count = found.most_common(1)[0] if found else ("", 0)
    return token if count > 1 and count >= SHARED * len(contexts) else None


def kept_descriptions(folder: Path) -> dict[str, str]:
    """The lines that a circuit's folder holds, by node; none where it holds no file of them.

    Raises:
        UserError: the file is no JSON object of texts.
    """
    if not (folder / FILE).is_file():
        return {}
    found = read_json(folder, FILE, "circuit", ())
    found.pop("schema_version", None)
    wrong = [node for node, text in found.items() if not isinstance(text, str)]
    if wrong:
        raise UserError(f"{folder / FILE}: '{wrong[0]}' has no text; write one line per node, or remove the file")
    return found


def keep_descriptions(folder: Path, board: Mapping[str, Any]) -> None:
    """Write every node's line into the circuit's folder, where a person may change it."""
    write_json(folder / FILE, {node["address"]: node["description"] for node in board["nodes"]})
