"""What a comparison of two trees' results calls equal, and how it measures what is not."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from same_results import difference, tensors_of


def written(folder: Path, **tensors: np.ndarray) -> dict[str, np.ndarray]:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    np.save(folder / "blocks.npy", np.arange(3))
    return tensors_of(folder)


def test_equal_files_have_no_difference_and_one_bit_is_one(tmp_path: Path) -> None:
    older = written(tmp_path / "older", a=np.ones(4, np.float32), b=np.zeros(2, np.float32))
    same = written(tmp_path / "same", a=np.ones(4, np.float32), b=np.zeros(2, np.float32))
    assert difference(older, same) == {"tensors": 3, "equal": 3, "largest difference": 0}
    moved = np.nextafter(np.ones(4, np.float32), np.float32(2))
    other = written(tmp_path / "other", a=moved, b=np.zeros(2, np.float32))
    found = difference(older, other)
    assert (found["tensors"], found["equal"]) == (3, 2)
    assert found["largest difference"] == pytest.approx(1.2e-7, rel=0.05)


def test_a_tensor_that_one_folder_lacks_or_that_has_another_shape_differs_altogether(tmp_path: Path) -> None:
    older = written(tmp_path / "older", a=np.ones(4, np.float32))
    more = written(tmp_path / "more", a=np.ones(4, np.float32), b=np.ones(1, np.float32))
    assert difference(older, more) == {"tensors": 3, "equal": 2, "largest difference": 1}
    wider = written(tmp_path / "wider", a=np.ones(5, np.float32))
    assert difference(older, wider)["largest difference"] == 1


def test_folders_without_tensors_are_no_equal_results(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="compares with nothing"):
        difference(tensors_of(tmp_path / "empty"), tensors_of(tmp_path / "empty"))
