"""KL of many streams without kept logits: values, gradients and memory, against the plain definition."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import bridges.distillation
from bridges.distillation import CHUNK_ELEMENTS, Distilled, Readout, distil, logits_at_once, logits_that_fit
from bridges.losses import kl_per_token

B, T, D, V, k = 2, 7, 5, 11, 3


class Case:
    """A trunk with cross-entropy and tails of the same unembedding, and tails of a frozen one; all in double precision."""

    def __init__(self, kl: float, cross_entropy: float | None) -> None:
        def make(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64)

        self.tokens = torch.randint(0, V, (B, T))
        self.log_p = F.log_softmax(make(B, T, V), -1)
        self.weight, self.table = make(V, D).requires_grad_(), make(T, V).requires_grad_()
        self.frozen = make(V, D)
        self.streams = [make(n * B, T, D).requires_grad_() for n in (1, k, k)]
        self.spans: list[slice] = []
        learned = (self.weight, self.table)
        self.readouts = (
            Readout(self.streams[0], self.unembed, learned, kl, cross_entropy),
            Readout(self.streams[1], self.unembed, learned, 1.7),
            Readout(self.streams[2], lambda h, _: h @ self.frozen.T, (), 1.0),
        )

    def unembed(self, h: Tensor, span: slice) -> Tensor:
        """Logits that depend on the position, as with a bigram table."""
        self.spans.append(span)
        return h @ self.weight.T + self.table[span]

    def distilled(self) -> Distilled:
        return distil(lambda span: self.log_p[:, span], self.readouts, self.tokens, V)

    def gradients(self, total: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(3 * total, (*self.streams, self.weight, self.table))

    def plain(self) -> tuple[Tensor, list[Tensor], Tensor]:
        """Total, KLs and the trunk's cross-entropy as they are defined."""
        kls, entropy, total = [], torch.zeros(()), torch.zeros(())
        for readout in self.readouts:
            logits = [readout.unembed(h, slice(None)) for h in readout.streams.view(-1, B, T, D)]
            kl = torch.stack([kl_per_token(self.log_p, x).mean() for x in logits]).sum()
            kls.append(kl)
            total = total + readout.kl * kl
            if readout.cross_entropy is not None:
                entropy = F.cross_entropy(logits[0][:, :-1].flatten(0, 1), self.tokens[:, 1:].flatten())
                total = total + readout.cross_entropy * entropy
        return total, kls, entropy


@pytest.mark.parametrize("elements", [1, B * V * 3, B * V * 4, B * V * 5, 10**9])
@pytest.mark.parametrize(("kl", "cross_entropy"), [(1.0, None), (1.3, 0.0), (0.6, 0.8), (0.0, 0.8)])
def test_values_and_gradients_are_those_of_the_plain_definition_however_many_positions_go_at_once(
    elements: int, kl: float, cross_entropy: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of 1, 3, 4, 5 and all 7 positions, so that the last one is shorter, or holds nothing to predict."""
    monkeypatch.setattr(bridges.distillation, "logits_at_once", lambda device, vocab_size: elements)
    case = Case(kl, cross_entropy)
    found = case.distilled()
    assert len({(span.start, span.stop) for span in case.spans}) == -(-T // max(1, min(T, elements // (B * V))))
    total, kls, entropy = case.plain()
    torch.testing.assert_close(found.total, total)
    torch.testing.assert_close(torch.stack(found.kl), torch.stack(kls))
    torch.testing.assert_close(found.cross_entropy[0], entropy.to(found.cross_entropy[0]))
    for ours, theirs in zip(case.gradients(found.total), case.gradients(total), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_term_of_no_weight_is_reported_and_costs_no_gradient() -> None:
    case = Case(1.0, None)
    silent = Readout(case.streams[0], case.unembed, (case.weight,), 0.0, 0.0)
    found = distil(lambda span: case.log_p[:, span], (silent,), case.tokens, V)
    assert float(found.kl[0]) > 0
    assert float(found.cross_entropy[0]) > 0
    for gradient in torch.autograd.grad(found.total, (case.streams[0], case.weight)):
        assert not gradient.any()


def test_without_gradients_the_values_are_the_same_and_nothing_is_kept() -> None:
    case = Case(0.6, 0.8)
    with torch.no_grad():
        found = case.distilled()
    assert not found.total.requires_grad
    torch.testing.assert_close(found.total, case.distilled().total.detach())


class Largest(TorchDispatchMode):
    """The largest tensor that any operator returned."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


def kept_and_largest(step: Callable[[], Tensor], leaves: set[int]) -> tuple[int, int]:
    """Entries saved for the backward pass beside the leaves, and of the largest tensor of the whole step."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in leaves:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = step()
        loss.backward()
    return sum(saved.values()), largest.entries


def test_a_vocabulary_of_262144_takes_memory_for_one_span_and_keeps_no_logits() -> None:
    """Two sequences of 96 positions, three streams of 8 channels: all logits would be 50 million each, four times a span's."""
    rows, vocabulary, width = 2 * 96, 262_144, 8
    weight = torch.randn(vocabulary, width).requires_grad_()
    streams = torch.randn(3 * 2, 96, width).requires_grad_()
    tokens = torch.randint(0, vocabulary, (2, 96))
    leaves = {x.untyped_storage().data_ptr() for x in (weight, streams)}

    def fused() -> Tensor:
        readout = Readout(streams, lambda h, _: h @ weight.T, (weight,), 1.0)
        target = torch.zeros(1, 1, vocabulary).log_softmax(-1)
        return distil(lambda span: target.expand(2, span.stop - span.start, -1), (readout,), tokens, vocabulary).total

    kept, largest = kept_and_largest(fused, leaves)
    assert kept <= weight.numel() + 2 * streams.numel()  # gradients and spans of the streams, nothing of a logit's size
    assert largest <= CHUNK_ELEMENTS < rows * vocabulary / 2
    assert weight.grad is not None
    assert streams.grad is not None


def test_the_plain_definition_keeps_what_the_other_does_not_or_the_test_above_tests_nothing() -> None:
    vocabulary, width = 4096, 8
    weight, streams = torch.randn(vocabulary, width).requires_grad_(), torch.randn(2, 9, width).requires_grad_()
    leaves = {x.untyped_storage().data_ptr() for x in (weight, streams)}
    target = torch.zeros(2, 9, vocabulary).log_softmax(-1)
    kept, largest = kept_and_largest(lambda: kl_per_token(target, streams @ weight.T).mean(), leaves)
    assert kept >= 2 * 9 * vocabulary
    assert largest >= 2 * 9 * vocabulary


def test_logits_at_once_are_bounded_and_no_fewer_than_a_product_needs() -> None:
    cpu = torch.device("cpu")
    assert logits_at_once(cpu, 1024) == 2**21
    assert logits_at_once(cpu, 49_152) == 256 * 49_152
    assert logits_at_once(cpu, 262_144) == CHUNK_ELEMENTS == 64 * 262_144


def test_a_gpu_makes_as_many_logits_at_once_as_its_free_memory_takes_and_never_fewer_than_a_cpu() -> None:
    assert logits_that_fit(80e9) > 64 * 128 * 49152 > CHUNK_ELEMENTS
    assert logits_that_fit(0) == CHUNK_ELEMENTS
