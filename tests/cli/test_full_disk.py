"""Commands that write models onto a disk too small for them: one line, and the disk as it was. On a real small file system."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridges.edits.mapping import map_nodes
from bridges.edits.paired import make_paired, save_paired
from bridges.pairing import load_pairing
from cli.demo import BUNDLED
from sparse_model.transformer.nodes import Node
from tests.small_disk import mounted

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
