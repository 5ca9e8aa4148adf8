"""The public package: light to import, complete, typed, and the ten lines of the README do what they say."""

import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsebridge as sb

ROOT = Path(__file__).resolve().parents[1]
QUICK = sb.PruneConfig(steps=30, edge_steps=10, pairs=32, elimination_rounds=0)


def _python(code: str, limit: int = 240) -> str:
    """What a fresh interpreter prints."""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=limit, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_importing_the_package_imports_nothing_heavy_and_takes_less_than_a_fifth_of_a_second() -> None:
    code = (
        "import sys, time; start = time.process_time(); import sparsebridge; dir(sparsebridge); "
        "print(time.process_time() - start, sorted({'torch', 'transformers', 'numpy', 'cli', 'bridges'} & set(sys.modules)))"
    )
    seconds, _, heavy = _python(code).partition(" ")
    assert float(seconds) < 0.2
    assert heavy == "[]"


def test_every_public_name_exists_and_is_known_to_type_checkers() -> None:
    declared = (ROOT / "sparsebridge" / "__init__.py").read_text("utf-8")
    for name, home in sb.HOMES.items():
        assert getattr(sb, name).__doc__, f"{name} has no docstring"
        assert f"    from {home} import {name} as {name}\n" in declared
    assert len(re.findall(r"^    from .* import \w+ as \w+$", declared, re.MULTILINE)) == len(sb.HOMES)


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'atach'; it has attach, bundled"):
        _ = sb.atach


def _annotations(found: object) -> Iterator[tuple[str, object]]:
    """Every annotation of a function, or of a class's public methods and fields."""
    if isinstance(found, type):
        yield from ((f"{found.__name__}.{name}", kind) for name, kind in typing.get_type_hints(found).items())
        for name, member in vars(found).items():
            function = member.fget if isinstance(member, property) else getattr(member, "func", member)
            if not name.startswith("_") and callable(function):
                yield from ((f"{found.__name__}.{name}: {n}", k) for n, k in typing.get_type_hints(function).items())
    else:
        yield from typing.get_type_hints(found).items()


def test_no_signature_of_the_package_says_any() -> None:
    own = [getattr(sb, name) for name, home in sb.HOMES.items() if home.startswith("sparsebridge.")]
    kinds = [(name, kind) for found in own for name, kind in _annotations(found)]
    assert len(kinds) > 60
    # what numpy's own arrays leave open says nothing about the signature
    own_text = {name: re.sub(r"numpy\.ndarray\[.*\]\]", "array", str(kind)) for name, kind in kinds}
    assert [name for name, kind in kinds if kind is typing.Any or "typing.Any" in own_text[name]] == []


def test_running_the_package_runs_the_command_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "sparsebridge", "--help"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert ran.returncode == 0
    assert "circuit" in ran.stdout


@pytest.fixture(scope="module")
def bridge() -> sb.BridgedModel:
    """The bundled models."""
    return sb.bundled()


@pytest.fixture(scope="module")
def circuit(bridge: sb.BridgedModel) -> sb.TaskCircuit:
    """A circuit pruned in few steps."""
    return sb.prune(bridge, "closing_quote", QUICK, evaluate_pairs=16)


def test_a_saved_circuit_comes_back_with_its_pairs(circuit: sb.TaskCircuit, tmp_path: Path) -> None:
    circuit.save(tmp_path / "circuit")
    again = sb.load_circuit(tmp_path / "circuit", circuit.bridge)
    assert again.nodes == circuit.nodes
    assert again.splits.sizes() == circuit.splits.sizes() == {"train": 32, "validation": 16, "held_out": 16}
    assert again.splits.held_out.texts == circuit.splits.held_out.texts


def test_an_edit_acts_only_inside_its_context_and_survives_being_saved(circuit: sb.TaskCircuit, tmp_path: Path) -> None:
    dense, prompt = circuit.bridge.dense, "kind = 'item"
    plain = dense.next_tokens(prompt, 1000)
    edit = sb.edit(circuit)
    with edit.applied() as edited:
        changed = edited.next_tokens(prompt, 1000)
    assert dense.next_tokens(prompt, 1000) == plain
    assert dict(changed)['"'] > 2 * dict(plain)['"']  # answer b of closing_quote
    with edit.with_strength(0).applied():
        assert dict(dense.next_tokens(prompt, 3)) == pytest.approx(dict(plain[:3]))
    edit.save(tmp_path / "edit")
    with sb.load_edit(tmp_path / "edit", dense).applied():
        assert dense.next_tokens(prompt, 1000) == changed


def test_a_paired_edit_needs_both_prompts_and_a_standing_one_takes_none(circuit: sb.TaskCircuit) -> None:
    paired, standing = sb.edit(circuit, "paired"), sb.edit(circuit, rule="ablate")
    with pytest.raises(sb.UserError, match="needs the prompt"), paired.applied():
        pass
    with pytest.raises(sb.UserError, match="takes no prompts"), standing.applied("a", "b"):
        pass
    with paired.applied("kind = 'item", 'kind = "item') as edited:
        assert dict(edited.next_tokens("kind = 'item", 1000))['"'] > 0.01


@pytest.mark.usefixtures("short_adversary")
def test_every_object_shows_a_table_or_a_drawing_in_a_notebook(circuit: sb.TaskCircuit) -> None:
    verdict = sb.validate(circuit, draws=99)
    shown = {
        "DenseModel(": circuit.bridge.dense,
        "BridgedModel(": circuit.bridge,
        "TaskCircuit(": circuit,
        "CircuitEvidence(": sb.evidence(circuit, draws=3),
        "CircuitEdit(": sb.edit(circuit, "paired"),
        "Verdict(": verdict,
        "TaskExplanation(": sb.TaskExplanation(circuit, verdict),
    }
    for start, thing in shown.items():
        assert repr(thing).startswith(start)
        page = thing._repr_html_()
        assert "<table" in page or "<svg" in page
    assert verdict.failed == tuple(gate.name for gate in verdict.gates if not gate.passed)
    assert verdict.word in ("explains", "steers", "fails")


def test_reports_are_written_once_unless_told_otherwise(circuit: sb.TaskCircuit, tmp_path: Path) -> None:
    page = sb.report(circuit, tmp_path / "circuit.html")
    assert "</html>" in page.read_text("utf-8")
    with pytest.raises(sb.UserError, match="already exists"):
        sb.report(circuit, page)
    with pytest.raises(sb.UserError, match=r"\.html file"):
        sb.report(circuit, tmp_path / "circuit.pdf")
    (tmp_path / "mine.html").write_text("<html>mine")
    with pytest.raises(sb.UserError, match="no artefact of this program"):
        sb.report(circuit, tmp_path / "mine.html", overwrite=True)
    assert (tmp_path / "mine.html").read_text() == "<html>mine"
    assert sb.report(ROOT / "cli" / "bundled" / "bridge", page, overwrite=True) == page
    assert "closing_quote" not in page.read_text("utf-8")


def test_rows_of_ones_own_are_a_task_and_a_bad_row_is_named() -> None:
    rows = [(f"x{n} = '", "a", f'x{n} = "', "b") for n in range(20)]
    assert [len(sb.task(rows, "mine").text_pairs("held_out", 2))] == [2]
    with pytest.raises(sb.UserError, match="task mine, row 2: is not four texts"):
        sb.task([rows[0], ("only", "three", "texts")], "mine")
    with pytest.raises(sb.UserError, match="unknown task 'closing_quotes'"):
        sb.task("closing_quotes")
