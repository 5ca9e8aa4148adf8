"""Sparse execution against the dense product, and everything it must leave alone."""

import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparse_model import SparseTransformer
from sparse_model.training.projection import project, sparse_tensors
from sparse_model.transformer import execution
from sparse_model.transformer.execution import MAX_DENSITY, MIN_ENTRIES, TILE, SparseLinear, choose, executions
from sparse_model.transformer.taps import Recorder

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="sparse products need MKL")
Make = Callable[..., SparseTransformer]


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every sparse product made; matrices of any size may take part."""
    made: list[int] = []
    real = execution.multiply

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        made.append(len(x))
        return real(x, weight, bias)

    monkeypatch.setattr(execution, "multiply", counted)
    monkeypatch.setattr(execution, "MIN_ENTRIES", 1)
    return made


def sparse_linear(inputs: int = 96, outputs: int = 80, density: float = 0.04, bias: bool = True) -> SparseLinear:
    linear = SparseLinear(inputs, outputs, bias=bias).eval()
    with torch.no_grad():
        linear.weight.mul_(torch.rand(outputs, inputs) < density)
    return linear


def dense(linear: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, linear.weight, linear.bias).detach()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, TILE - 1, TILE, TILE + 1, 3 * TILE + 5])
def test_the_product_of_the_nonzeros_is_the_dense_product(tokens: int, bias: bool, products: list[int]) -> None:
    linear, x = sparse_linear(bias=bias), torch.randn(tokens, 96)
    with torch.no_grad():
        torch.testing.assert_close(linear(x), dense(linear, x), atol=1e-5, rtol=1e-5)
    assert products == [tokens]


def test_leading_axes_and_strides_of_the_input_do_not_matter(products: list[int]) -> None:
    linear, x = sparse_linear(), torch.randn(3, 96, 5).mT
    with torch.no_grad():
        torch.testing.assert_close(linear(x), dense(linear, x), atol=1e-5, rtol=1e-5)
    assert products == [15]


@pytest.mark.parametrize("attention_sink", [False, True])
def test_logits_and_activations_of_a_sparse_model_are_those_of_the_dense_pass(
    attention_sink: bool, tiny_sparse: Make, tokens: Tensor, products: list[int]
) -> None:
    model = tiny_sparse(attention_sink=attention_sink).eval()
    project(sparse_tensors(model), 0.02, 0)
    ours, reference = Recorder(), Recorder()
    with torch.no_grad():
        logits = model(tokens, tap=ours).logits
    assert len(products) == 4 * model.config.n_layer + 1
    expected = model(tokens, tap=reference).logits  # with gradients: dense
    assert len(products) == 4 * model.config.n_layer + 1
    torch.testing.assert_close(logits, expected.detach(), atol=1e-4, rtol=0)
    assert ours.activations.keys() == reference.activations.keys()


def test_a_changed_weight_is_multiplied_as_it_now_is(products: list[int]) -> None:
    linear, x = sparse_linear(), torch.randn(4, 96)
    with torch.no_grad():
        linear(x)
        linear.weight[3, 5] = 2.0
        torch.testing.assert_close(linear(x), dense(linear, x), atol=1e-5, rtol=1e-5)
        linear.load_state_dict(sparse_linear().state_dict())
        torch.testing.assert_close(linear(x), dense(linear, x), atol=1e-5, rtol=1e-5)
        linear.weight = nn.Parameter(linear.weight.flip(0))
        torch.testing.assert_close(linear(x), dense(linear, x), atol=1e-5, rtol=1e-5)
        assert len(products) == 4
        linear.weight.normal_()  # dense now
        torch.testing.assert_close(linear(x), dense(linear, x))
    assert len(products) == 4


def test_training_gradients_other_precisions_and_autocast_take_the_dense_product(products: list[int]) -> None:
    linear, x = sparse_linear(), torch.randn(4, 96)
    linear(x).sum().backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.count_nonzero() == linear.weight.numel()
    with torch.no_grad():
        linear.train()(x)
        linear.eval()
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x).dtype == torch.bfloat16
        copy.deepcopy(linear).double()(x.double())
        assert products == []
        linear(x)
    assert products == [4]


def test_a_model_that_ran_sparsely_saves_copies_and_pickles_as_before(
    tiny_sparse: Make, tokens: Tensor, products: list[int], tmp_path: Path
) -> None:
    model = tiny_sparse().eval()
    project(sparse_tensors(model), 0.02, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        logits = model(tokens).logits
        model.save_pretrained(tmp_path)
        again = SparseTransformer.from_pretrained(tmp_path)
        for other in (again, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other.state_dict().keys() == before.keys()
            assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
            assert torch.equal(other(tokens).logits, logits)
    assert len(products) == 4 * (4 * model.config.n_layer + 1)


def test_a_weight_that_is_gone_takes_its_copy_along(products: list[int]) -> None:
    gc.collect()
    held = len(execution._copies)
    linear = sparse_linear()
    with torch.no_grad():
        linear(torch.randn(2, 96))
    assert len(execution._copies) == held + 1
    del linear
    gc.collect()
    assert len(execution._copies) == held


def test_the_choice_goes_by_size_density_and_precision() -> None:
    large = torch.zeros(64, MIN_ENTRIES // 64)
    large.view(-1)[: int(MAX_DENSITY * MIN_ENTRIES)] = 1
    assert choose(large).kind == "csr"
    assert choose(large[1:]).reason == f"{MIN_ENTRIES - MIN_ENTRIES // 64:,} entries, below {MIN_ENTRIES:,}"
    assert choose(large.bfloat16()).kind == "dense"
    assert choose(large.to("meta")).reason == "on meta: CSR is for the CPU"
    large.view(-1)[: int(MAX_DENSITY * MIN_ENTRIES) + 1] = 1
    assert choose(large).kind == "dense"


def test_every_linear_map_of_a_model_says_how_it_runs(tiny_sparse: Make) -> None:
    found = executions(tiny_sparse())
    assert len(found) == 4 * 2 + 1
    assert all(choice.kind == "dense" for choice in found.values())  # tiny
    assert "lm_head.weight" in found


COMPILED = """
import torch
from sparse_model.transformer.abs_topk import abs_topk
from sparse_model.transformer.execution import SparseLinear
torch.manual_seed(0)
linear, x = SparseLinear(96, 80).eval(), torch.randn(6, 96, requires_grad=True)
run = lambda x: abs_topk(linear(x), 5) * 2
compiled = torch.compile(run, backend="eager")
ours, plain = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, run))
torch.testing.assert_close(ours, plain)
with torch.no_grad():
    torch.testing.assert_close(compiled(x), run(x))
"""


@pytest.mark.slow
def test_torchs_compiler_leaves_abs_topk_and_sparse_maps_right() -> None:
    # in a process of its own, since the compiler would trace the checks of shapes that the tests put everywhere
    ran = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr
