"""Published checkpoints as people have them: wrapped names and null switches load, damage is one short line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from foundation.errors import UserError
from sparse_model.transformer.published import CONFIG_NAME, WEIGHTS_NAME, import_published

PUBLISHED = Path(__file__).parent / "published" / "paper"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PUBLISHED, tmp_path / "model"))


def _set(folder: Path, **values: object) -> None:
    config = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_wrapped_by_compiling_or_spreading_load_as_the_same_model(folder: Path, prefix: str) -> None:
    state = torch.load(folder / WEIGHTS_NAME, weights_only=True)
    torch.save({prefix + name: value for name, value in state.items()}, folder / WEIGHTS_NAME)
    plain = import_published(PUBLISHED).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in import_published(folder).state_dict().items())


def test_a_rank_that_is_null_loads_and_one_that_is_set_is_refused(folder: Path) -> None:
    _set(folder, bigram_table_rank=None)
    import_published(folder)
    _set(folder, bigram_table_rank=8)
    with pytest.raises(UserError, match="bigram_table_rank"):
        import_published(folder)


def test_a_number_as_text_an_empty_file_and_foreign_names_are_one_short_line(folder: Path) -> None:
    _set(folder, n_layer="2")
    with pytest.raises(UserError, match=r"n_layer='2', not a positive whole number"):
        import_published(folder)
    shutil.copy(PUBLISHED / CONFIG_NAME, folder / CONFIG_NAME)
    torch.save({f"model.{i}.weight": torch.zeros(1) for i in range(99)}, folder / WEIGHTS_NAME)
    with pytest.raises(UserError, match="do not fit") as refusal:
        import_published(folder)
    assert len(str(refusal.value)) < 300 + len(str(folder))
    (folder / WEIGHTS_NAME).write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be read \(\w"):
        import_published(folder)
