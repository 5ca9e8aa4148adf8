"""Commands that write models onto a disk too small for them: one line, and the disk as it was. On a real small file system."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bridges.edits.mapping import map_nodes
from bridges.edits.paired import make_paired, save_paired
from bridges.pairing import load_pairing
from cli.demo import BUNDLED
from foundation.fingerprints import model_fingerprint
from foundation.kinds import PAGE_MARK
from sparse_model.circuits.circuit import Circuit
from sparse_model.transformer.nodes import Node, node_locations
from tests.small_disk import full, mounted

BRIDGE, DENSE = BUNDLED / "bridge", BUNDLED / "dense"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB, where the test may mount one."""
    with mounted(tmp_path / "small", "600k") as place:
        yield place


@pytest.fixture(scope="module")
def paired_edit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A paired edit of one read node of the bundled models."""
    pairing = load_pairing(BRIDGE, str(DENSE))
    bridge, sparse = pairing.artefact.bridge, pairing.artefact.sparse
    sites = map_nodes([Node.parse("1.attn.act_in:5")], bridge, sparse, pairing.stack)
    folder = tmp_path_factory.mktemp("edits") / "paired"
    save_paired(make_paired(sites, bridge, pairing.stack, "closing_quote", "c", "closed", 1.0), folder)
    return folder


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("command", ["bake", "export"])
def test_a_model_that_does_not_fit_the_disk_is_one_line_and_what_was_there_stays(
    command: str, overwrite: bool, cli: Callable, paired_edit: Path, small_disk: Path
) -> None:
    out = small_disk / "out"
    if command == "bake":
        words = ["edit", "bake", paired_edit, "--dense", DENSE, "--out", out]
        kept = {"config.json": '{"model_type": "gpt2"}', "model.safetensors": "old"}
    else:
        words = ["sparse", "export", BRIDGE, "--leak", "--out", out]
        kept = {"beeg_config.json": "{}", "final_model.pt": "old"}
    if overwrite:
        out.mkdir()
        for name, text in kept.items():
            (out / name).write_text(text)
    ran = cli(*words, *(["--overwrite"] if overwrite else []))
    assert ran.code in (2, 3), ran.err
    assert ran.err.count("\n") == 1 + ran.err.count("attention crosses"), ran.err
    assert "Traceback" not in ran.err
    assert "No space left" in ran.err or "MB free" in ran.err, ran.err
    assert ran.out == ""
    left = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*")} if out.exists() else {}
    assert left == (kept if overwrite else {})
    assert [path.name for path in small_disk.iterdir()] == (["out"] if overwrite else [])


def test_a_corpus_that_fills_the_disk_while_it_is_written_is_one_line_and_the_old_one_stays(
    cli: Callable, tmp_path: Path
) -> None:
    for name, length in (("little", 100), ("much", 120_000)):
        (tmp_path / name).mkdir()
        for number in range(12):
            (tmp_path / name / f"{number}.txt").write_text(f"{number} " + "x y z " * length)
    with mounted(tmp_path / "small", "1300k") as disk:
        words = ["corpus", "build", "--tokenizer", DENSE, "--block-length", "16", "--out", disk / "out", "--source"]
        small = ["--train-tokens", "2000", "--evaluation-tokens", "64"]
        assert cli(*words, tmp_path / "little", *small).code == 0
        old = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
        # room is looked for by training tokens, and 1 MB to spare: the other splits take more
        large = ["--train-tokens", "2000", "--evaluation-tokens", "900000"]
        ran = cli(*words, tmp_path / "much", *large, "--overwrite")
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert "No space left" in ran.err
        assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == old
        ran = cli(*words, tmp_path / "much", "--train-tokens", "9000000", "--overwrite")
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert "MB free" in ran.err
        assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == old


@pytest.mark.parametrize("ending", ["html", "svg"])
def test_a_drawing_that_does_not_fit_the_disk_is_one_line_and_the_old_one_stays(
    ending: str, cli: Callable, tmp_path: Path
) -> None:
    sparse = load_pairing(BRIDGE, str(DENSE)).artefact.sparse
    widths = node_locations(sparse.config)
    keep = {name: torch.arange(width) < (2 if "0.mlp" in name else 0) for name, width in widths.items()}
    values = {name: torch.zeros(width) for name, width in widths.items()}
    Circuit("closing_quote", model_fingerprint(sparse), keep, values, "zero").save(tmp_path / "circuit")
    with mounted(tmp_path / "small", "1m") as disk:
        page = disk / f"drawn.{ending}"
        words = [
            "circuit",
            "show",
            tmp_path / "circuit",
            "--model",
            BRIDGE,
            "--out",
            page,
            "--pairs",
            "2",
            "--blocks",
            "2",
        ]
        old = {"html": f"<html>{PAGE_MARK}old", "svg": "<svg>old"}[ending]
        for overwrite in (False, True):
            if overwrite:
                page.write_text(old)
            with full(disk):
                ran = cli(*words, *(["--overwrite"] if overwrite else []))
                assert ran.code == 2, ran.err
                assert "No space left" in ran.err.splitlines()[-1]
                assert "Traceback" not in ran.err
                assert {path.name for path in disk.iterdir()} == {"filler", *([page.name] if overwrite else [])}
        assert page.read_text() == old
        assert cli(*words, "--overwrite").code == 0
        assert page.read_text() != old
