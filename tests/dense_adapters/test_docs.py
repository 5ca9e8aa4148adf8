"""The guide says what the code does: its snippets run, and the file map is whole. Its table: test_families.py."""

import re
from typing import Any

import pytest
import torch

import dense_adapters
from dense_adapters import DenseStack
from tests.dense_adapters.family_table import DOCUMENT
from tests.dense_adapters.tiny_models import CASES, WIDTH, build, tokens_and_mask


def test_the_snippets_of_the_guide_run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(CASES[1])
    tokens, mask = tokens_and_mask()
    names = {
        "model": model,
        "stack": DenseStack(model),
        "tokens": tokens,
        "attention_mask": mask,
        "inputs": {"input_ids": tokens, "attention_mask": mask},
        "tokenizer": None,
        "site": 2,
        "direction": torch.ones(WIDTH),
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dense_adapters, "load_dense", lambda name: (model, None))
    model.generation_config.max_new_tokens = 2
    for snippet in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S):
        exec(snippet, names)
    assert (tmp_path / "restored-model").exists()


def test_the_package_names_every_module_in_its_file_map() -> None:
    said = dense_adapters.__doc__ or ""
    folder = DOCUMENT.parents[1] / "dense_adapters"
    for path in folder.glob("*.py"):
        assert path.name == "__init__.py" or path.name in said, path.name
