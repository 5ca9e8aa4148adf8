"""The benchmark against an earlier checkout compares like with like, in alternating order, and counts warm steps alone."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import against
from against import HERE, Pair

RECIPE = {
    "corpus": {"block_length": 32},
    "sparse": {"n_layer": 1, "d_model": 32, "n_head": 2, "d_head": 16},
    "bridge": {"crossings": 1},
    "bridge_train": {"steps": 3000, "batch_size": 2, "density": 0.5, "log_every": 50},
}


def test_turns_alternate_which_tree_goes_first(tmp_path: Path) -> None:
    gone: list[Path] = []

    def measure(tree: Path) -> str:
        gone.append(tree)
        return tree.name

    for turn in range(2):
        assert against.by_turns(tmp_path, measure, turn) == (tmp_path.name, HERE.name)
    assert gone == [tmp_path, HERE, HERE, tmp_path]


def test_a_step_lasts_until_the_next_begins_and_the_first_steps_do_not_count() -> None:
    assert against.seconds_per_step([0, 100, 200, 300, 301, 303, 304]) == 1
    assert against.seconds_per_step([0, 0, 0, 5, 25]) == 20


def test_a_ratio_is_this_tree_over_the_older_one_within_a_turn() -> None:
    row = against.summary([Pair(1.0, 3.0), Pair(10.0, 10.0), Pair(100.0, 50.0)])
    assert row == {"older_ms": 10_000, "this_ms": 10_000, "ratio": 1, "lowest": 0.5, "highest": 3}


def test_what_became_slower_is_said_by_processor_time_alone() -> None:
    slow = against.summary([Pair(1.0, 1.2)])
    assert against.slower({"a, wall": slow, "a, processor": against.summary([Pair(1.0, 1.04)]), "turns": 1}) == []
    assert against.slower({"a, wall": slow, "a, processor": slow}) == ["a, processor"]


def test_both_trees_run_the_same_loss_whatever_their_defaults_are() -> None:
    sections = against.settings_of(RECIPE, 7)
    assert sections["bridge"] == {"crossings": 1, "cross_entropy": 1.0}
    assert (sections["train"]["steps"], sections["train"]["density"]) == (7, 0.5)
    assert against.settings_of({**RECIPE, "bridge": {"cross_entropy": 0.0}}, 7)["bridge"]["cross_entropy"] == 0


def test_a_command_that_only_this_tree_knows_is_named_and_not_timed(tmp_path: Path) -> None:
    package = tmp_path / "cli"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text("def run(words):\n    return 2 if '--version' in words else 0\n")
    found, unknown = against.measure_start(tmp_path, 3, (("--version",), ("--help",)))
    assert unknown == ["--version"]
    assert set(found) == {"--help, wall", "--help, processor"}
    assert all(len(pairs) == 3 and min(min(pair) for pair in pairs) > 0 for pairs in found.values())


def test_a_figure_comes_from_the_tree_it_is_said_to_come_from(tmp_path: Path) -> None:
    with pytest.raises(against.RefusedError, match="not from"):
        against.run_in(tmp_path, ["--help"], tmp_path)


def test_steps_of_the_real_command_are_timed(tmp_path: Path) -> None:
    dense = HERE / "cli" / "bundled" / "dense"
    place = tmp_path / "work"
    against.prepare(RECIPE, dense, HERE, 5, place)
    line = ["sparse", "train", "--corpus", "corpus", "--config", "sparse.toml", "--out", "out"]
    used = against.run_in(HERE, line, place, timed=True)
    times = [float(word) for word in used.printed.splitlines()[-1].split()]
    assert len(times) == 5
    assert 0 < against.seconds_per_step(times) < used.processor
    assert (place / "out" / "config.json").is_file()
