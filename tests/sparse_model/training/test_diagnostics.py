"""Diagnoses are what their definitions say."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_model import SparseTransformer
from sparse_model.training import diagnostics
from sparse_model.training.activity import silent_units
from sparse_model.training.batches import Batches
from sparse_model.training.diagnostics import Turnover, diagnose, kurtosis
from sparse_model.training.loop import train
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.projection import SparseTensor, project, sparse_tensors
from sparse_model.training.train_config import TrainConfig

Make = Callable[..., SparseTransformer]


def test_turnover_is_the_share_of_kept_entries_that_were_not_kept_before() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, 0, 2], [0, 3, 0]]))
    other = torch.nn.Parameter(torch.ones(2))
    turnover = Turnover([SparseTensor("w", weight, None), SparseTensor("b", other, None)])
    turnover.remember()
    with torch.no_grad():
        weight[0] = torch.tensor([0.0, 5, 6])
    assert turnover.measure() == {"w": pytest.approx(1 / 3), "b": 0.0, "total": pytest.approx(1 / 5)}
    assert turnover.measure() == {}  # nothing remembered any more


def test_turnover_of_a_large_tensor_is_estimated_from_a_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter((torch.rand(400, 500, generator=generator) < 0.2).float())
    exact, sampled = (Turnover([SparseTensor("w", weight, None)], sample) for sample in (400 * 500, 20_000))
    for turnover in (exact, sampled):
        turnover.remember()
    with torch.no_grad():
        weight.mul_((torch.rand(400, 500, generator=generator) < 0.7).float())
        weight.add_((torch.rand(400, 500, generator=generator) < 0.03).float())
    assert sampled.measure()["w"] == pytest.approx(exact.measure()["w"], abs=0.03)


def test_kurtosis_is_3_for_a_gaussian_and_grows_with_a_few_loud_channels() -> None:
    stream = torch.randn(50, 4096, generator=torch.Generator().manual_seed(0))
    assert kurtosis(stream).item() == pytest.approx(3, abs=0.1)
    assert kurtosis(5 * stream + 2).item() == pytest.approx(kurtosis(stream).item(), rel=1e-4)
    stream[:, 7] *= 30
    assert kurtosis(stream).item() > 100


def test_a_diagnosis_agrees_with_the_model(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model = tiny_sparse()
    tensors = sparse_tensors(model)
    project(tensors, 0.2, 1)
    turnover = Turnover(tensors)
    turnover.remember()
    found = diagnose(model, [tokens[:2], tokens[2:]], turnover)
    silent = silent_units(model, [tokens])
    assert found["silent"]["neurons"] == pytest.approx(float(torch.cat([x.neurons for x in silent]).float().mean()))
    assert found["silent"]["qk"] == pytest.approx(float(torch.cat([x.qk for x in silent]).float().mean()))
    assert found["density"]["total"] == pytest.approx(0.2, abs=0.01)
    assert set(found["kurtosis"]) == {"0.resid_in", "0.resid_mid", "1.resid_in", "1.resid_mid", "final_resid"}
    assert found["turnover"]["total"] == 0


def test_the_turnover_logged_is_that_of_the_single_step(
    tiny_sparse: Make, blocks: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(
        steps=8, batch_size=8, lr=0.5, eps=1e-4, density=0.5, anneal=0.1, checkpoint_every=8, diagnose_every=4,
        log_to="none", floor=0,
    )  # fmt: skip
    model = tiny_sparse()
    masks: list[list[torch.Tensor]] = []

    def project_and_look(tensors, density, floor):  # type: ignore[no-untyped-def]
        project(tensors, density, floor)
        masks.append([t.parameter.detach().bool() for t in tensors])

    monkeypatch.setattr("sparse_model.training.loop.project", project_and_look)
    found: list[float] = []
    measure = diagnostics.Turnover.measure
    monkeypatch.setattr(
        diagnostics.Turnover, "measure", lambda self: found.append(measure(self)["total"]) or {"total": found[-1]}
    )
    train(LanguageModelling(model, projected=model), Batches(blocks, 8, 0), config, tmp_path)
    for place, turnover in ((4, found[0]), (8, found[1])):
        now, before = masks[place - 1], masks[place - 2]
        new = sum(int((a & ~b).sum()) for a, b in zip(now, before, strict=True))
        assert turnover == pytest.approx(new / sum(int(a.sum()) for a in now))
    assert max(found) > 0
