"""Experiments compare like with like: equal nonzeros, equal seeds, intervals over seeds, runs that are never mixed up."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.corpus.corpus import Corpus
from sparse_model.plan.size import model_size
from sparse_model.studies.arms import Arm, run_arm
from sparse_model.studies.page import publish, read_between, write_between
from sparse_model.studies.twin import dense_twin
from sparse_model.studies.two_arms import paired_difference
from sparse_model.training.train_config import TensorKind, TrainConfig
from sparse_model.transformer.shape import SparseShape

SHAPE = SparseShape(d_model=24, n_head=3, d_head=4, d_mlp=32, position="added")
TRAIN = TrainConfig(steps=3, batch_size=4, density=0.3, log_to="none")


BY_KIND = TrainConfig(density=0.02, embedding_density=0.1, head_density=0.2, bias_density=1.0).final_densities()


@pytest.mark.parametrize(("width", "density"), [(256, 0.02), (384, 0.02), (512, 0.05), (256, BY_KIND)])
def test_a_dense_twin_has_as_many_weights_as_the_sparse_model_has_nonzeros(
    width: int, density: float | Mapping[TensorKind, float]
) -> None:
    shape = SparseShape(d_model=width, position="added", attention_sink=True)
    twin = dense_twin(shape, 1024, 128, density, 4)
    wanted = model_size(shape.config(1024, 128), density, 4).nonzero
    assert sum(p.numel() for p in SparseTransformer(twin.config(1024, 128)).parameters()) == pytest.approx(wanted, 0.02)
    assert (twin.n_layer, twin.position, twin.attention_sink) == (2, "added", True)


def test_a_sparse_model_too_small_for_a_twin_is_refused() -> None:
    with pytest.raises(UserError, match="no dense width"):
        dense_twin(SparseShape(d_model=32, n_head=1), 1024, 128, 0.01, 0)


def test_a_paired_interval_is_students_over_the_seeds_differences() -> None:
    first, second = np.array([2.0, 2.3, 1.9]), np.array([2.5, 2.6, 2.5])
    found = paired_difference(first.tolist(), second.tolist())
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found["value"] == pytest.approx((first - second).mean())
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert paired_difference((first + 5).tolist(), first.tolist())["high"] == pytest.approx(
        5.0
    )  # equal differences leave no doubt
    with pytest.raises(ValueError, match="two or more seeds"):
        paired_difference([1.0], [2.0])


def test_a_run_is_made_once_and_never_taken_for_another(corpus_folder: Path, tmp_path: Path) -> None:
    data, arm = Corpus.load(corpus_folder), Arm(name="a", shape=SHAPE, train=TRAIN)
    first = run_arm(arm, 1, data, tmp_path, held_out_blocks=8)
    weights = (tmp_path / "a-seed1" / "model.safetensors").stat().st_mtime_ns
    assert run_arm(arm, 1, data, tmp_path, held_out_blocks=8) == first
    assert (tmp_path / "a-seed1" / "model.safetensors").stat().st_mtime_ns == weights
    other = run_arm(arm, 2, data, tmp_path, held_out_blocks=8)
    assert other["cross_entropy"] != first["cross_entropy"]
    changed = arm.model_copy(update={"train": TRAIN.model_copy(update={"lr": 0.5})})
    with pytest.raises(UserError, match="a run with other settings"):
        run_arm(changed, 1, data, tmp_path)
    assert first["tokens"] == 3 * 4 * data.block_length
    assert set(first["silent"]) == {"neurons", "qk", "v"}
    assert first["cross_entropy"]["mixture"] == pytest.approx(first["cross_entropy"]["tinypython"])


def test_figures_go_between_their_comments_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- twin -->\nold\n<!-- end of twin -->\nafter\n", encoding="utf-8")
    write_between(page, "twin", "new")
    assert page.read_text("utf-8") == "before\n<!-- twin -->\nnew\n<!-- end of twin -->\nafter\n"
    assert read_between(page, "twin") == "new"
    for whole in ("no comments", "<!-- revival -->\nonly one", "<!-- end of revival -->\n<!-- revival -->"):
        page.write_text(whole, encoding="utf-8")
        with pytest.raises(UserError, match="has no lines '<!-- revival -->' and '<!-- end of revival -->'"):
            write_between(page, "revival", "new")
        assert page.read_text("utf-8") == whole


def test_figures_are_printed_where_no_page_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- twin --><!-- end of twin -->", encoding="utf-8")
    publish("new", "twin", None)
    assert capsys.readouterr().out == "new\n"
    publish("new", "twin", page)
    assert capsys.readouterr().out == ""
    assert read_between(page, "twin") == "new"
