"""Paired edits: open and closed loop, patches, and what comes of strength 0."""

from collections.abc import Callable

import pytest
import torch

from bridges.edits.mapping import SiteDirections, map_nodes, unplaced
from bridges.edits.paired import Direction, PairedRun, encoded_values
from sparse_model.transformer.nodes import Node
from sparse_model.transformer.taps import Recorder


def reads(setting, sublayers=(0, 1, 2, 3), channels=range(24)) -> tuple[SiteDirections, ...]:
    nodes = [Node(i // 2, "mlp" if i % 2 else "attn", "act_in", channel) for i in sublayers for channel in channels]
    lost = unplaced(nodes, setting.bridge, setting.sparse.d_model)
    return map_nodes([n for n in nodes if n not in lost], setting.bridge, setting.sparse, setting.dense)


def run_of(setting, sites) -> PairedRun:
    return PairedRun(setting.direction, sites, setting.bridge, setting.sparse, setting.dense)


def plain_logits(setting, tokens: torch.Tensor) -> torch.Tensor:
    """Of the unhooked model, at the last tokens."""
    with torch.no_grad():
        return setting.dense.model(tokens).logits[torch.arange(len(tokens)), setting.direction.last]


@pytest.mark.parametrize("loop", ["open", "closed"])
@pytest.mark.parametrize("layers", [2, 4])
def test_strength_zero_leaves_the_models_logits(loop: str, layers: int, setting: Callable) -> None:
    found_in = setting(dense_layers=layers)
    found = run_of(found_in, reads(found_in)).edited(torch.tensor([0.0, 1.0]), loop)
    expected = plain_logits(found_in, found_in.direction.base)
    torch.testing.assert_close(found.logits[0], expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found.logits[1], expected, atol=1e-2)


def test_an_open_edit_of_one_read_is_m5_run_through_the_model_itself(setting: Callable) -> None:
    """The read is changed by a hook on the norm of the unwrapped model."""
    found_in, strength = setting(), 0.7
    sites = reads(found_in, sublayers=(3,), channels=(1, 4, 8))
    found = run_of(found_in, sites).edited(torch.tensor([strength]), "open").logits[0]
    activations = []
    for tokens in (found_in.direction.counterfactual, found_in.direction.base):
        recorder = Recorder(["1.mlp.act_in"])
        with torch.no_grad():
            found_in.sparse(tokens, tap=recorder)
        activations.append(recorder.activations["1.mlp.act_in"])
    change = sum(
        (activations[0] - activations[1])[..., node.channel, None] * direction
        for node, direction in zip(sites[0].nodes, sites[0].directions, strict=True)
    )
    norm = found_in.dense.model.transformer.h[1].ln_2
    handle = norm.register_forward_hook(lambda module, inputs, output: output + strength * change)
    expected = plain_logits(found_in, found_in.direction.base)
    handle.remove()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected, plain_logits(found_in, found_in.direction.base), atol=1e-3)


def test_open_and_closed_loop_agree_at_a_single_site_and_part_at_two(setting: Callable) -> None:
    found_in, strengths = setting(), torch.tensor([0.5, 1.0, 2.0])
    one = run_of(found_in, reads(found_in, sublayers=(1,)))
    torch.testing.assert_close(one.edited(strengths, "open").logits, one.edited(strengths, "closed").logits)
    two = run_of(found_in, reads(found_in, sublayers=(0, 1)))
    assert not torch.allclose(two.edited(strengths, "open").logits, two.edited(strengths, "closed").logits, atol=1e-3)


def moved_at_second_site(found_in, run: PairedRun, delta: torch.Tensor) -> torch.Tensor:
    """By how much the encoded stream at site 3 moves when the read of site 0 changes by `delta` and nothing else does."""
    walk = found_in.dense.walk(found_in.direction.base)
    h = walk.embedding()
    h = walk.sublayer(0, h, read=walk.read(0, h) + delta)
    for i in (1, 2):
        h = walk.sublayer(i, h)
    site = run.sites[1]
    base, now = (
        encoded_values(site, found_in.bridge, found_in.sparse, stream) for stream in (run.h_base[site.dense_site], h)
    )
    return now - base


def test_a_closed_loop_adds_what_is_missing_from_the_encoded_stream(setting: Callable) -> None:
    found_in = setting()
    run = run_of(found_in, reads(found_in, sublayers=(0, 3)))
    found = run.edited(torch.tensor([1.0]), "closed")
    moved = moved_at_second_site(found_in, run, found.deltas[0][0])
    torch.testing.assert_close(found.changes[1][0], run.claimed[1] - moved, atol=1e-4, rtol=1e-4)
    assert moved.abs().max() > 1e-3


def test_a_closed_loop_adds_nothing_where_the_stream_has_already_moved_by_the_target(setting: Callable) -> None:
    found_in = setting()
    run = run_of(found_in, reads(found_in, sublayers=(0, 3)))
    first = run_of(found_in, run.sites[:1]).edited(torch.tensor([1.0]), "closed")
    run.claimed[1] = moved_at_second_site(found_in, run, first.deltas[0][0])
    found = run.edited(torch.tensor([1.0]), "closed")
    assert found.deltas[1].abs().max() < 1e-4
    torch.testing.assert_close(found.logits, first.logits, atol=1e-4, rtol=1e-4)
    assert run.edited(torch.tensor([1.0]), "open").deltas[1].abs().max() > 1e-2


def test_encoded_values_are_the_sparse_models_own_reads_of_the_encoded_stream(setting: Callable) -> None:
    found_in = setting()
    site = reads(found_in, sublayers=(2,))[0]
    h = torch.randn(2, 5, 20)
    stream = found_in.bridge.encode(2, h)
    recorder = Recorder()
    with torch.no_grad():
        found_in.sparse.walk(torch.zeros(2, 5, dtype=torch.long)).sublayer(2, stream, tap=recorder)
    found = encoded_values(site, found_in.bridge, found_in.sparse, h)
    expected = recorder.activations["1.attn.act_in"][..., [node.channel for node in site.nodes]]
    torch.testing.assert_close(found, expected)


def test_patching_all_reads_gives_what_those_reads_give_and_is_more_than_nothing(setting: Callable) -> None:
    found_in = setting()
    run = run_of(found_in, reads(found_in))
    walk, other = (found_in.dense.walk(t) for t in (found_in.direction.base, found_in.direction.counterfactual))
    h, h_other = walk.embedding(), other.embedding()
    for i in range(4):
        read = other.read(i, h_other)
        h, h_other = walk.sublayer(i, h, read=read), other.sublayer(i, h_other)
    expected = walk.unembed(h)[torch.arange(4), found_in.direction.last]
    torch.testing.assert_close(run.patched(), expected.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(run.patched(lambda n, mine, theirs: mine), run.unedited(), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(run.patched(), run.unedited(), atol=1e-2)


def test_patching_the_stream_at_the_last_site_is_the_counterfactual_itself(setting: Callable) -> None:
    found_in = setting()
    sites = map_nodes([Node.parse("1.mlp.resid_delta:0")], found_in.bridge, found_in.sparse, found_in.dense)
    expected = plain_logits(found_in, found_in.direction.counterfactual)
    torch.testing.assert_close(run_of(found_in, sites).patched(), expected, atol=1e-4, rtol=1e-4)


def test_stacked_strengths_are_the_runs_one_by_one(setting: Callable) -> None:
    found_in = setting()
    run = run_of(found_in, reads(found_in))
    for loop in ("open", "closed"):
        together = run.edited(torch.tensor([0.3, 1.7]), loop).logits
        apart = torch.cat([run.edited(torch.tensor([dose]), loop).logits for dose in (0.3, 1.7)])
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_the_two_directions_exchange_prompts_and_answers(known_pairs) -> None:
    forth, back = Direction.of(known_pairs, True), Direction.of(known_pairs, False)
    assert torch.equal(forth.base, back.counterfactual)
    assert torch.equal(forth.original, back.target)
    assert not torch.equal(forth.base, back.base)
    assert forth.base.shape[1] == int(known_pairs.last.max()) + 1


@pytest.fixture
def known_pairs():
    """Three pairs with a column of padding to spare."""
    from sparse_model.tasks.task import TextPair
    from sparse_model.tasks.token_pairs import TokenPairs

    a = torch.arange(15).view(3, 5)
    texts = tuple(TextPair("a", "x", "", "b", "y", "", "t") for _ in range(3))
    last = torch.tensor([3, 2, 3])
    return TokenPairs(
        "own", a, a + 20, last, torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]),
        torch.arange(5)[None] <= last[:, None], ("t",) * 3, texts, {},
    )  # fmt: skip
