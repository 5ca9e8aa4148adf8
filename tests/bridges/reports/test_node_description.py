"""A node's line says what its passages share and nothing they do not; a person's line in the folder is read back."""

import json
from pathlib import Path

import pytest

from bridges.reports.node_description import FILE, describe, keep_descriptions, kept_descriptions
from foundation.errors import UserError


def passage(before: str, at: str, after: str, activation: float = 1.0) -> dict:
    return {"tokens": ["x", before, at, after], "at": 2, "activation": activation}


def test_a_line_names_the_tokens_it_fires_on_and_neighbours_that_half_of_them_share() -> None:
    found = describe([passage("(", "'", "a"), passage("(", "'", "b"), passage("=", '"', "c")])
    assert found == "fires on ' \", after ("
    assert describe([passage("a", "in", ":"), passage("b", "in", ":")]) == "fires on in, before :"
    assert describe([passage("a", "in", "x"), passage("b", "in", "y")]) == "fires on in"


def test_negative_activations_and_silence_are_said() -> None:
    assert describe([passage("a", " for", "b", -2.0)]) == "goes below zero on ·for"
    assert describe([]) == "zero on all the text read"
    many = [passage(str(i), f"t{i}", str(i)) for i in range(5)]
    assert describe(many) == "fires on t0 t1 t2, …"


def test_what_a_person_writes_into_the_folder_is_read_back_and_anything_else_is_refused(tmp_path: Path) -> None:
    assert kept_descriptions(tmp_path) == {}
    keep_descriptions(tmp_path, {"nodes": [{"address": "0.attn.v:3", "description": "fires on x"}]})
    written = json.loads((tmp_path / FILE).read_text("utf-8"))
    (tmp_path / FILE).write_text(json.dumps({**written, "0.attn.v:3": "the opening quote"}), "utf-8")
    assert kept_descriptions(tmp_path) == {"0.attn.v:3": "the opening quote"}
    (tmp_path / FILE).write_text(json.dumps({**written, "0.attn.v:3": 3}), "utf-8")
    with pytest.raises(UserError, match="has no text"):
        kept_descriptions(tmp_path)
