"""The report of explanations, which every page and table is drawn from (docs/report.md)."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from bridges.artefact import BridgeArtefact
from bridges.jobs.explain import Explanation
from bridges.reports.circuit_graph import circuit_graph
from foundation.verdicts import WORDS
from foundation.versions import versions


def explained_report(
    found: Sequence[Explanation],
    artefact: BridgeArtefact,
    dense: str,
    evaluation: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    start: float,
) -> dict[str, Any]:
    """One report of all explanations; its verdict is the worst of theirs.

    Args:
        dense: name of the dense model.
        evaluation: of the bridge by text; the headline is of the first.
        settings: everything that was chosen.
        start: of the work, by `time.perf_counter`.
    """
    first = next(iter(evaluation.values()))
    tasks = {}
    for one in found:
        graph = circuit_graph(artefact.sparse, one.circuit, one.held_out, artefact.tokenizer)
        tasks[one.circuit.task] = {**one.to_json(), "circuit": graph}
    return {
        "verdict": max((one.validation.word for one in found), key=WORDS.index),
        "seconds": time.perf_counter() - start,
        "density": first["density"],
        **{key: first[key]["value"] for key in ("ce_dense", "ce_sparse", "kl_dense_sparse")},
        "tasks": tasks,
        "evaluation": dict(evaluation),
        "models": {
            "dense": {"name": dense, "fingerprint": artefact.description["dense"]["fingerprint"]},
            "sparse": {"fingerprint": artefact.description["sparse_fingerprint"]},
        },
        "settings": dict(settings),
        "versions": versions(),
    }
