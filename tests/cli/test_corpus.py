"""`sparsebridge corpus`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from cli.corpus import parse_source
from foundation.errors import UserError

SMALL = [
    "--train-tokens",
    "2000",
    "--evaluation-tokens",
    "300",
    "--vocab-size",
    "280",
    "--tokenizer-characters",
    "5000",
]


def test_build_writes_what_show_then_describes(cli: Callable, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(120):
        (texts / f"{number}.py").write_text(f"value_{number} = {number}\nprint(value_{number})\n" * 4)
    built = cli(
        "corpus", "build", "--source", "tinypython=3", "--source", f"{texts}=1", *SMALL, "--block-length", "16",
        "--out", tmp_path / "out", "--json",
    ).json  # fmt: skip
    assert {name: source["weight"] for name, source in built["sources"].items()} == {"tinypython": 0.75, "texts": 0.25}
    shown = cli("corpus", "show", tmp_path / "out", "--json", "--text", "1", "--split", "held_out").json
    assert set(shown["text"]) == {"tinypython", "texts"}
    assert "value_" in shown["text"]["texts"][0]
    del shown["text"], built["out"]
    assert shown == built
    table = cli("corpus", "show", tmp_path / "out")
    assert table.code == 0
    assert "texts held_out" in table.out
    assert "blocks of 16 tokens" in table.out


def test_a_config_file_may_hold_the_sources(cli: Callable, tmp_path: Path) -> None:
    config = {"sources": [{"kind": "tinypython", "seed": 4}], "train_tokens": 2000, "evaluation_tokens": 300}
    config |= {"vocab_size": 280, "tokenizer_characters": 5000, "block_length": 16}
    (tmp_path / "c.json").write_text(json.dumps({"corpus": config}))
    built = cli("corpus", "build", "--config", tmp_path / "c.json", "--out", tmp_path / "out", "--json").json
    assert built["config"]["sources"] == [{"kind": "tinypython", "weight": 0.85, "seed": 4}]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tinypyton", "did you mean 'tinypython'"),
        ("./nowhere", "no such folder or file"),
        ("missing.jsonl", "no file at|no such file|missing"),
        ("tinypython=much", "'much' is no weight"),
        ("tinypython=-1", "weight"),
        ("stdlib=nan", "weight"),
    ],
)
def test_a_source_that_is_none_is_refused_and_nothing_is_written(
    source: str, message: str, cli: Callable, tmp_path: Path
) -> None:
    import re

    ran = cli("corpus", "build", "--source", source, *SMALL, "--out", tmp_path / "out")
    assert ran.code == 2
    assert re.search(message, ran.err)
    assert ran.err.strip().count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_every_kind_of_source_is_told_from_its_name(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("")
    assert parse_source("stdlib") == {"kind": "stdlib"}
    assert parse_source(f"{tmp_path}=2") == {"kind": "folder", "path": str(tmp_path), "weight": 2.0}
    assert parse_source("a/b.jsonl") == {"kind": "jsonl", "path": "a/b.jsonl"}
    assert parse_source("a/b.parquet=2") == {"kind": "table", "path": "a/b.parquet", "weight": 2.0}
    for name, kind in (("saved", "dataset"), ("tables", "table"), ("text", "folder")):
        (tmp_path / name).mkdir()
        (tmp_path / name / {"dataset": "dataset_info.json", "table": "a.parquet", "folder": "a.txt"}[kind]).write_text(
            ""
        )
        assert parse_source(str(tmp_path / name))["kind"] == kind
    assert parse_source("a/b.csv", "body")["field"] == "body"
    assert "field" not in parse_source("tinypython", "body")
    assert parse_source("owner/name=0.5") == {"kind": "dataset", "id": "owner/name", "weight": 0.5}
    with pytest.raises(UserError, match=r"does not end in \.jsonl"):
        parse_source(str(tmp_path / "plain.txt"))


def test_what_is_no_corpus_is_refused(cli: Callable, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        ran = cli("corpus", "show", path)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert str(path) in ran.err


def test_blocks_can_be_made_in_the_tokens_of_an_existing_model(
    cli: Callable, gpt2_folder: Path, tmp_path: Path
) -> None:
    line = [
        "--source",
        "tinypython",
        *SMALL,
        "--block-length",
        "16",
        "--tokenizer",
        gpt2_folder,
        "--out",
        tmp_path / "out",
    ]
    built = cli("corpus", "build", *line, "--json").json
    vocabularies = [
        AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (gpt2_folder, tmp_path / "out" / "tokenizer")
    ]
    assert vocabularies[0] == vocabularies[1]
    assert built["vocab_size"] == len(vocabularies[0])
    ran = cli("corpus", "build", *line[:-3], tmp_path / "missing", "--out", tmp_path / "other")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert not (tmp_path / "other").exists()


def test_a_text_field_that_no_source_has_is_refused(cli: Callable, tmp_path: Path) -> None:
    for line in (["--source", "tinypython"], []):
        ran = cli("corpus", "build", *line, "--text-field", "body", "--out", tmp_path / "out")
        assert ran.code == 2
        assert ran.err.startswith("sparsebridge: --text-field")
