"""Revival: silent units come back with weights that survive, and a run with it still resumes bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.training.activity import SilentUnits, silent_units
from sparse_model.training.batches import Batches
from sparse_model.training.loop import train
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.projection import project, sparse_tensors
from sparse_model.training.revival import is_due, revive
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.census import take_census

Make = Callable[..., SparseTransformer]
CONFIG = TrainConfig(
    steps=20, batch_size=8, lr=0.05, density=0.2, anneal=0.8, checkpoint_every=5, log_every=4, floor=1,
    revive_every=3, revive_between=(0.1, 0.9), revive_share=0.3, revive_batches=2,
)  # fmt: skip


@torch.no_grad()
def weakened(made: SparseTransformer) -> SparseTransformer:
    """The model with query 1 and neuron 3 of layer 0 too weak to be chosen."""
    block = made.blocks[0]
    for linear, row in ((block.attn.c_attn, 1), (block.mlp.c_fc, 3)):
        linear.weight[row] *= 1e-6
        linear.bias[row] = 0
    return made


@pytest.fixture
def model(tiny_sparse: Make) -> SparseTransformer:
    """A weakened model at density 0.2."""
    made = weakened(tiny_sparse())
    project(sparse_tensors(made), 0.2, 2)
    return made


def moments_of(model: SparseTransformer) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def only(model: SparseTransformer, layer: int, neurons: list[int], qk: list[int], v: list[int]) -> list[SilentUnits]:
    found = []
    for number in range(model.config.n_layer):
        masks = [torch.zeros(width, dtype=torch.bool) for width in (model.config.d_mlp, 12, 12)]
        for mask, units in zip(masks, (neurons, qk, v), strict=True):
            mask[units] = number == layer
        found.append(SilentUnits(*masks))
    return found


def test_a_unit_that_abstopk_never_chooses_is_silent_although_the_floor_gives_it_weights(
    model: SparseTransformer, tokens: torch.Tensor
) -> None:
    silent = silent_units(model, [tokens, tokens.flip(0)])
    assert bool(silent[0].qk[1])
    assert bool(silent[0].neurons[3])
    assert take_census(model).layers[0].dead_qk == take_census(model).layers[0].dead_neurons == 0


def test_silent_units_are_exactly_those_zero_on_every_batch(model: SparseTransformer, tokens: torch.Tensor) -> None:
    seen: dict[str, torch.Tensor] = {}

    def look(name: str, x: torch.Tensor) -> torch.Tensor:
        seen[name] = torch.cat([seen[name], x.flatten(0, 1)]) if name in seen else x.flatten(0, 1)
        return x

    batches = [tokens, (tokens + 7) % 40]
    with torch.no_grad():
        for batch in batches:
            model(batch, tap=look)
    for layer, found in enumerate(silent_units(model, batches)):
        zero = {part: (seen[f"{layer}.{part}"] == 0).all(0) for part in ("attn.q", "attn.k", "attn.v", "mlp.post_act")}
        assert torch.equal(found.qk, zero["attn.q"] | zero["attn.k"])
        assert torch.equal(found.v, zero["attn.v"])
        assert torch.equal(found.neurons, zero["mlp.post_act"])


def test_fresh_weights_survive_the_projection_of_the_same_step_and_the_density_stays(model: SparseTransformer) -> None:
    tensors = sparse_tensors(model)
    before = {t.name: int(t.parameter.count_nonzero()) for t in tensors}
    config = CONFIG.model_copy(update={"floor": 2, "revive_share": 1.0})
    found = revive(model, moments_of(model), only(model, 0, [3, 9], [1, 4], [5]), config, 0.2, 10)
    assert (found.neurons, found.qk, found.v) == (2, 2, 1)
    block = model.blocks[0]

    def fresh() -> list[int]:
        read = [block.attn.c_attn.weight[row] for row in (1, 4, 13, 16, 29)] + [
            block.mlp.c_fc.weight[row] for row in (3, 9)
        ]
        write = [block.attn.c_proj.weight[:, 5]] + [block.mlp.c_proj.weight[:, unit] for unit in (3, 9)]
        return [int(part.count_nonzero()) for part in read + write]

    written = fresh()
    project(tensors, 0.2, 2)
    assert written == [5] * 10  # a fair share: 0.2 · 24
    assert sum(fresh()) >= 0.9 * sum(written)
    assert {t.name: int(t.parameter.count_nonzero()) for t in tensors if t.parameter.dim() == 2} == {
        t.name: before[t.name] for t in tensors if t.parameter.dim() == 2
    }


def test_revival_touches_nothing_but_the_chosen_units(model: SparseTransformer) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = moments_of(model)
    revive(model, optimizer, only(model, 1, [3], [1], [5]), CONFIG.model_copy(update={"revive_share": 1.0}), 0.2, 10)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    parts = ("attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    assert changed <= {f"transformer.h.1.{part}" for part in (*parts, "mlp.c_fc.bias")}
    weight = model.blocks[1].mlp.c_fc.weight
    assert (weight != before["transformer.h.1.mlp.c_fc.weight"]).any(1).nonzero().flatten().tolist() == [3]
    outgoing = model.blocks[1].mlp.c_proj.weight
    assert (outgoing != before["transformer.h.1.mlp.c_proj.weight"]).any(0).nonzero().flatten().tolist() == [3]
    for parameter, axis in ((weight, 1), (outgoing, 0)):
        for name in ("exp_avg", "exp_avg_sq"):
            forgotten = (optimizer.state[parameter][name] == 0).all(axis)
            assert forgotten.nonzero().flatten().tolist() == [3]


def test_no_more_than_the_share_is_revived_and_the_choice_follows_from_seed_and_step(tiny_sparse: Make) -> None:
    def weights(seed: int, step: int) -> torch.Tensor:
        made = tiny_sparse()
        config = CONFIG.model_copy(update={"seed": seed, "revive_share": 0.25})
        found = revive(made, moments_of(made), only(made, 0, list(range(20)), [], []), config, 0.2, step)
        assert found.neurons == 8
        return made.blocks[0].mlp.c_fc.weight.detach()

    assert torch.equal(weights(0, 5), weights(0, 5))
    assert not torch.equal(weights(0, 5), weights(0, 6))
    assert not torch.equal(weights(0, 5), weights(1, 5))


def test_revival_is_due_only_within_its_part_of_the_anneal() -> None:
    config = TrainConfig(steps=100, anneal=0.5, revive_every=5, revive_between=(0.2, 0.8))
    assert [step + 1 for step in range(100) if is_due(config, step)] == [10, 15, 20, 25, 30, 35, 40]
    assert not any(is_due(TrainConfig(steps=100), step) for step in range(100))


def run(
    model: SparseTransformer, blocks: np.ndarray, folder: Path, config: TrainConfig = CONFIG
) -> list[dict[str, float]]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return train(LanguageModelling(model, projected=model), Batches(blocks, 8, 0), config, folder)


def test_a_run_with_revival_resumes_to_the_same_bits_and_logs_what_it_revived(
    tiny_sparse: Make, blocks: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, resumed = weakened(tiny_sparse()), weakened(tiny_sparse())
    rows = run(whole, blocks, tmp_path / "whole")
    assert sum(row.get("revived_qk", 0) for row in rows) > 0

    class PowerCutError(Exception):
        pass

    def cut(self: Batches, step: int, rank: int = 0, world: int = 1) -> torch.Tensor:
        if step == 13:
            raise PowerCutError
        return at(self, step, rank, world)

    at = Batches.at
    monkeypatch.setattr(Batches, "at", cut)
    with pytest.raises(PowerCutError):
        run(weakened(tiny_sparse()), blocks, tmp_path / "cut")
    monkeypatch.undo()
    again = run(resumed, blocks, tmp_path / "cut")
    for (name, ours), theirs in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    logged = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert logged == again
    kept = ("step", "revived_neurons", "revived_qk", "revived_v")
    assert [[row.get(key) for key in kept] for row in again] == [[row.get(key) for key in kept] for row in rows]


def test_revival_of_a_dense_model_and_an_empty_interval_are_refused(
    tiny_sparse: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"density": 1.0})
    with pytest.raises(UserError, match="belongs to weight-sparse models"):
        train(LanguageModelling(tiny_sparse()), Batches(blocks, 8, 0), config, tmp_path)
    with pytest.raises(UserError, match="two rising fractions"):
        run(tiny_sparse(), blocks, tmp_path, CONFIG.model_copy(update={"revive_between": (0.5, 0.2)}))
