"""Plans against what runs really take: counts exactly, FLOPs against torch's counter, memory against its allocations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foundation.errors import UserError
from sparse_model import SparseConfig, SparseTransformer
from sparse_model.plan.estimate import make_plan, sparse_workload
from sparse_model.plan.flops import model_work
from sparse_model.plan.hardware import DATASHEETS, find_device
from sparse_model.plan.measure import seconds_per_step
from sparse_model.plan.size import model_size
from sparse_model.training import checkpoint
from sparse_model.training.objective import LanguageModelling, next_token_loss
from sparse_model.training.projection import project, sparse_tensors
from sparse_model.training.speed import count_flops
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape
from tests.sparse_model.plan.allocations import peak_bytes
from tests.sparse_model.training.runs import SPLIT, run_together

SWITCHES: list[dict[str, Any]] = [
    {},
    {"position": "added", "topk_fraction": None},
    {"position": "concatenated", "d_position": 8, "attention_sink": True},
    {"position": "added", "position_trainable": False, "bigram_table": "learned", "bias": False},
]


@pytest.mark.parametrize("switches", SWITCHES)
@pytest.mark.parametrize("density", [1.0, 0.4, 0.01])
def test_parameters_and_nonzeros_are_counted_exactly(
    switches: dict[str, Any], density: float, tiny_config: Callable, tiny_sparse: Callable
) -> None:
    model = tiny_sparse(**switches)
    project(sparse_tensors(model), density, 4)
    found = model_size(tiny_config(**switches), density, 4)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    sinusoids = model.embeddings("wpe").weight if switches.get("position_trainable") is False else torch.ones(0)
    zeros_by_definition = int((sinusoids == 0).sum())
    assert found.nonzero == sum(int(p.count_nonzero()) for p in model.parameters()) + zeros_by_definition


@pytest.mark.parametrize("switches", SWITCHES)
def test_flops_agree_with_torchs_counter(switches: dict[str, Any], tiny_sparse: Callable) -> None:
    model = tiny_sparse(**switches)
    tokens = torch.randint(0, 40, (3, 16))
    work = model_work(model.config, 16)
    with count_flops() as forward:
        model(tokens)
    assert forward.get_total_flops() == pytest.approx(tokens.numel() * work.forward, rel=1e-9)
    with count_flops() as step:
        next_token_loss(model(tokens).logits, tokens).backward()
    # positions are read-only, so the gradient of their channels is not made
    tolerance = 0.04 if switches.get("d_position") else 1e-9
    assert step.get_total_flops() == pytest.approx(tokens.numel() * work.step, rel=tolerance)


@pytest.mark.parametrize(
    ("switches", "batch"),
    [
        ({"d_model": 64, "d_mlp": 256, "d_head": 16, "n_head": 4, "vocab_size": 512, "block_size": 32}, 8),
        ({"d_model": 48, "d_mlp": 512, "vocab_size": 64, "block_size": 64, "position": "added"}, 4),
        ({"d_model": 48, "vocab_size": 64, "block_size": 64, "document_token": 0, "attention_sink": True}, 4),
        ({"d_model": 48, "vocab_size": 64, "block_size": 64, "topk_fraction": None}, 8),
        ({"d_model": 160, "d_mlp": 640, "block_size": 4}, 1),
    ],
)
def test_peak_memory_is_within_a_fifth_of_what_a_step_allocates(
    switches: dict[str, Any], batch: int, tiny_config: Callable, tiny_sparse: Callable
) -> None:
    config: SparseConfig = tiny_config(**switches)
    model = tiny_sparse(config)
    tokens = torch.randint(0, config.vocab_size, (batch, config.block_size))
    tokens[:, config.block_size // 2] = 0
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        next_token_loss(model(tokens).logits, tokens).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # moments exist from here on
    train = TrainConfig(batch_size=batch, density=0.1)
    found = make_plan(sparse_workload(config, train), train, config.block_size, DATASHEETS[0], 1, 0.3).memory
    assert found.peak - found.weights - found.moments == pytest.approx(peak_bytes(step), rel=0.2)
    assert found.moments == sum(v.nbytes for s in optimizer.state.values() for k, v in s.items() if k != "step")


SPLIT_STEPS: list[tuple[dict[str, int], int, int]] = [
    ({"d_model": 128, "n_layer": 4}, 64, 4),  # sublayers decide
    ({"d_model": 128, "n_layer": 2}, 2048, 4),  # embedding and unembedding do
    ({"d_model": 64, "n_layer": 2}, 256, 32),  # activations do
]


def two_steps(batch: int) -> TrainConfig:
    return TrainConfig(steps=2, batch_size=batch, density=0.1, checkpoint_every=9, evaluate_every=0, diagnose_every=0)


@pytest.fixture(scope="module")
def split_steps(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """What each of two processes holds in a step of each of SPLIT_STEPS."""
    folders = [tmp_path_factory.mktemp("split") for _ in SPLIT_STEPS]
    script = str(Path(__file__).with_name("one_split_step.py"))
    run_together(
        *(
            (SPLIT, [script, json.dumps(shape), str(vocabulary), json.dumps(two_steps(batch).to_json()), str(folder)])
            for (shape, vocabulary, batch), folder in zip(SPLIT_STEPS, folders, strict=True)
        )
    )
    return [json.loads((folder / "seen.json").read_text()) for folder in folders]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SPLIT_STEPS)))
def test_memory_of_split_parameters_is_within_a_fifth_of_what_each_of_two_processes_holds(
    number: int, split_steps: list[dict[str, int]]
) -> None:
    (shape, vocabulary, batch), seen = SPLIT_STEPS[number], split_steps[number]
    settings = two_steps(batch)
    workload = sparse_workload(SparseShape.from_mapping(shape).config(vocabulary, 32), settings)
    found = make_plan(workload, settings, 32, DATASHEETS[0], 2, 0.3, split=True).memory
    assert found.weights == pytest.approx(seen["weights"], rel=0.01)
    assert found.moments == pytest.approx(seen["moments"], rel=0.01)
    assert found.peak == pytest.approx(seen["peak"] + seen["weights"] + seen["moments"], rel=0.2)


def test_splitting_takes_several_devices_and_less_of_each(tiny_config: Callable) -> None:
    config, train = tiny_config(d_model=96, vocab_size=64, n_layer=6), TrainConfig(batch_size=8)
    arguments = (sparse_workload(config, train), train, 16, find_device("h100"))
    whole, split = (make_plan(*arguments, 8, 0.3, split=split).memory for split in (False, True))
    assert split.weights == whole.weights // 8
    assert whole.gathered == split.buckets == 0 < split.gathered
    assert split.peak < 0.6 * whole.peak
    with pytest.raises(UserError, match="--split spreads the parameters over several devices"):
        make_plan(*arguments, 1, 0.3, split=True)


def test_bytes_on_disk_are_those_of_the_files(tiny_config: Callable, tiny_sparse: Callable, tmp_path: Path) -> None:
    config = tiny_config(d_model=96, d_mlp=384, vocab_size=300)
    model, train = tiny_sparse(config), TrainConfig(density=0.05, batch_size=2, keep_checkpoints=1, evaluate_every=0)
    project(sparse_tensors(model), train.density, train.floor)
    model.final_logits_bias.zero_()
    model.save_pretrained(tmp_path / "model")
    found = make_plan(sparse_workload(config, train), train, 16, DATASHEETS[0], 1, 0.3)
    assert found.model_bytes == pytest.approx((tmp_path / "model" / "model.safetensors").stat().st_size, rel=0.2)
    objective = LanguageModelling(model, model)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.zeros(1, 4, dtype=torch.long)
    next_token_loss(model(tokens).logits, tokens).backward()
    optimizer.step()
    checkpoint.save(tmp_path / "checkpoints", 1, objective, optimizer, {}, 1)
    one = sum(path.stat().st_size for path in (tmp_path / "checkpoints").rglob("*.safetensors"))
    assert found.checkpoint_bytes == pytest.approx(2 * one, rel=0.05)  # the kept one, and the one being written


def test_hours_follow_from_the_work_the_rate_and_the_number_of_devices(tiny_config: Callable) -> None:
    config, train, h100 = tiny_config(), TrainConfig(batch_size=8, steps=100), find_device("h100")
    workload = sparse_workload(config, train)
    one, four = (make_plan(workload, train, 16, h100, n, 0.5) for n in (1, 4))
    assert one.hours == pytest.approx(100 * 8 * 16 * workload.step_flops / (0.5 * 67e12) / 3600)
    assert four.hours == pytest.approx(one.hours / 4)
    assert four.memory.activations == one.memory.activations // 4
    assert four.memory.buckets == four.memory.gradients > one.memory.buckets == 0
    measured = make_plan(workload, train, 16, h100, 1, 0.5, seconds_per_step=2.0)
    assert measured.hours == pytest.approx(200 / 3600)
    assert measured.utilisation == pytest.approx(8 * 16 * workload.step_flops / 2.0 / 67e12)


def test_what_cannot_be_planned_is_refused(tiny_config: Callable) -> None:
    train = TrainConfig(batch_size=6)
    with pytest.raises(UserError, match="does not split evenly over 4 devices"):
        make_plan(sparse_workload(tiny_config(), train), train, 16, DATASHEETS[0], 4, 0.3)
    with pytest.raises(UserError, match="choose one of cpu, l4"):
        find_device("h1000")


def test_measuring_runs_the_real_loop_and_leaves_nothing_behind(
    tiny_sparse: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model: SparseTransformer = tiny_sparse()
    config = TrainConfig(batch_size=2, density=0.2)
    seconds = seconds_per_step(LanguageModelling(model, model), config, 40, 16, 2)
    assert 0 < seconds < 60
    kept = sum(int(t.parameter.count_nonzero()) for t in sparse_tensors(model))
    assert kept < 0.5 * sum(t.parameter.numel() for t in sparse_tensors(model))  # the projection ran
    assert not list(tmp_path.iterdir())
