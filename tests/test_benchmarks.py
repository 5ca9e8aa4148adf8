"""The benchmarks over tasks go on where they stopped, and what they write of their figures follows from their records."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from benchmarks import prune_attribution, prune_seeds, prune_signals, validate_cost
from benchmarks.by_task import geometric_mean, records
from sparse_model.studies.page import publish


def test_a_stopped_benchmark_measures_the_missing_tasks_alone_and_keeps_each_as_it_is_done(tmp_path: Path) -> None:
    kept = tmp_path / "found.jsonl"
    kept.write_text('{"task": "a", "x": 1}\n{"task": "b"}\n', encoding="utf-8")
    measured = []

    def measure(task: str) -> dict[str, Any]:
        measured.append(task)
        return {"x": 2}

    found = records(["c", "b", "a"], measure, kept, lambda record: "x" in record)
    assert measured == ["c", "b"]
    assert found == [{"task": "c", "x": 2}, {"task": "b", "x": 2}, {"task": "a", "x": 1}]
    assert [json.loads(line) for line in kept.read_text("utf-8").splitlines()][2:] == found[:2]
    assert records(["a", "b"], measure, kept, lambda record: "x" in record) == found[:0:-1]
    assert measured == ["c", "b"]


def test_a_geometric_mean_lies_inside_its_interval_over_tasks() -> None:
    found = geometric_mean([1.0, 4.0])
    assert (found.low, found.high) == pytest.approx((1, 4))
    assert found.value == pytest.approx(2)


def test_the_sentences_of_the_signals_follow_from_the_table() -> None:
    def row(nodes: int, adversarial: float) -> dict[str, float]:
        return {"nodes": nodes, "edges": 7, "complete": 0.1, "random": 0.2, "adversarial": adversarial}

    found = [
        {"task": "a", "signals": {name: row(10, 4.0) for name in prune_signals.ROWS}},
        {"task": "b", "signals": {name: row(10, 4.0) for name in prune_signals.ROWS}},
    ]
    found[0]["signals"]["adversarial"] = row(20, 1.0)
    found[1]["signals"]["adversarial"] = row(20, 4.0)
    found[0]["signals"][prune_signals.GROWN] = row(20, 2.0)
    text = prune_signals.text(found)
    assert "| a | adversarial | 20 | 7 | 0.100 | 0.200 | 1.000 |" in text
    assert "- adversarial: 0.50 [0.25, 1.00] times the adversarial loss, at most half of it on 1 of 2 tasks" in text
    assert "with 2.0 [2.0, 2.0] times the nodes" in text
    assert "beside complete grown to the same size: 0.71 [0.50, 1.00] times" in text
    assert "The lowest adversarial loss of any mask is 1.00 nats" in text


def test_the_sentence_of_the_seeds_says_where_the_masks_differ() -> None:
    found = {
        "task": "a", "steps": 4, "threads": 1, "turns": 2, "seeds": 8, "one_over_plain": 0.25, "many_over_plain": 1.5,
        "many_over_one": 6, "same_masks": True,
    }  # fmt: skip
    text = prune_seeds.text(found)
    assert "one seed costs 0.25 times" in text
    assert "8 seeds 1.50 times" in text
    assert "differ" not in text
    assert "masks differ" in prune_seeds.text({**found, "same_masks": False})


def test_the_sentences_of_the_baseline_follow_from_the_table_and_reach_the_page(tmp_path: Path) -> None:
    edges = {"learned": 10, "attribution": 40, "learned, eliminated": 5, "attribution, eliminated": 5}
    record = {name: {"nodes": 3, "edges": count, "held_out_loss": 0.1} for name, count in edges.items()}
    page = tmp_path / "page.md"
    page.write_text("<!-- attribution -->\n<!-- end of attribution -->\n", encoding="utf-8")
    publish(prune_attribution.text([{"task": "a", **record}]), "attribution", page)
    written = page.read_text("utf-8")
    assert "By rank alone, attribution needs 4.0 [4.0, 4.0] times the edges (4.0 to 4.0 by task)" in written
    assert "With both eliminated it needs 1.0 [1.0, 1.0] times the edges" in written


def test_every_benchmark_is_type_checked() -> None:
    root = Path(__file__).parents[1]
    checked = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]["modules"]
    assert {name.split(".")[-1] for name in checked} == {path.stem for path in (root / "benchmarks").glob("*.py")}


def test_the_cost_of_validation_names_the_slowest_task_and_the_limits() -> None:
    found = [
        {"task": "a", "seconds": 30.2, "gigabytes": 2.5},
        {"task": "b", "seconds": 95.0, "gigabytes": 1.0},
        {"task": "c", "seconds": 40.0, "gigabytes": 1.5},
    ]
    assert validate_cost.text(found) == (
        "`edit validate`, 3 tasks: 40 s in the median, at most 95 s (b; 90 s wanted) and 2.5 GB (4 GB wanted)."
    )
