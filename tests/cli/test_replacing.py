"""What commands write over: an artefact of the same kind, never an input, its parent, or a file somebody else wrote."""

from pathlib import Path

import pytest

from cli.main import run
from cli.output import print_table, say, tell
from foundation.kinds import PAGE_MARK


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of artefacts, as far as a refusal needs to see them."""
    for name, description in (("bridge", "bridge.json"), ("edit", "edit.json"), ("circuit", "circuit.json")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / description).write_text("{}")
    (tmp_path / "runs" / "circuit" / "circuit.safetensors").write_bytes(b"weights")
    (tmp_path / "runs" / "by_hand.html").write_text("<html>mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("edit bake runs/edit --dense d --out runs --overwrite", "holds the input runs/edit"),
        ("circuit prune runs/bridge --task for_while --out runs/bridge --overwrite", "is the input runs/bridge"),
        ("edit map runs/circuit --bridge runs/bridge --out runs/./bridge --overwrite", "is the input runs/bridge"),
        ("corpus build --source folder:runs/bridge --out runs --overwrite", "holds the input runs/bridge"),
        ("sparse import nowhere --out . --overwrite", "is the working directory"),
        ("sparse import nowhere --out runs --overwrite", "no artefact of this program"),
        ("report runs/circuit --out runs/circuit/circuit.safetensors", "lies within the artefact"),
        ("report runs/circuit --out runs/circuit.safetensors", "end --out in .html"),
        ("report runs/circuit --out runs/by_hand.html", "already exists"),
        ("report runs/circuit --out runs/by_hand.html --overwrite", "no artefact of this program"),
        (
            "circuit show runs/circuit --model runs/bridge --out runs/circuit/circuit.safetensors",
            "end --out in .html or",
        ),
        ("circuit show runs/circuit --model runs/bridge --out runs/by_hand.html --overwrite", "no artefact of this"),
    ],
)
def test_what_would_be_lost_is_refused_in_one_line(
    line: str, reason: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    assert run(line.split()) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before


def test_a_page_of_this_program_is_drawn_anew(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "model").mkdir()
    (runs / "model" / "config.json").write_text('{"model_type": "sparsebridge", "note": "\\u202e\\u001b[31m\\ud800"}')
    line = ["report", str(runs / "model"), "--out", str(runs / "model.html")]
    assert run(line) == 0
    page = (runs / "model.html").read_text("utf-8")
    assert PAGE_MARK in page
    assert r"\u202e\x1b[31m\ud800" in page
    assert (run(line), run([*line, "--overwrite"])) == (2, 0)
    capsys.readouterr()


def test_foreign_text_is_shown_as_it_is_and_moves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[bold]t[/b]", ("name", "[key]"), [["a[/b]:smile:", "[red]\x1b[31m\0\u202e\ud800"]], "[note]")
    shown = capsys.readouterr().out
    for text in ("[bold]t[/b]", "[key]", "a[/b]:smile:", r"[red]\x1b[31m\x00\u202e\ud800", "[note]"):
        assert text in shown
    tell("a\nb [key]\x1b[31m\u202e")
    assert capsys.readouterr().out == "a\nb [key]\\x1b[31m\\u202e\n"
    say("file \x1b]0;title\x07 \udcff")
    assert capsys.readouterr().err == "file \\x1b]0;title\\x07 \\udcff\n"
