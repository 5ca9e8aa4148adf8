"""The judge's own trials on tiny models: what each kind of placebo is, and that none can pass on random models."""

import pytest
import torch

from bridges.validation.node_sets import SiteChannels
from bridges.validation.placebo import KINDS, ClassMeans, Suite, calibrated, most_moved, rate_bound
from foundation.fingerprints import model_fingerprint
from sparse_model.circuits.circuit import Circuit
from sparse_model.transformer.nodes import node_locations
from sparse_model.transformer.taps import Recorder


def circuit_of(sparse, offset: int = 0) -> Circuit:
    keep = {name: torch.arange(w) % 6 == offset for name, w in node_locations(sparse.config).items()}
    values = {name: torch.zeros(len(mask)) for name, mask in keep.items()}
    return Circuit("tiny", model_fingerprint(sparse), keep, values, "zero")


@pytest.fixture(scope="module")
def suite(validated) -> Suite:
    sparse = validated.sparse
    parts = validated.bridge, sparse, validated.dense, validated.splits
    return Suite(circuit_of(sparse), circuit_of(sparse, 1), *parts, draws=99)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_explains_anything_on_random_models(kind: str, suite: Suite) -> None:
    trial = suite.run(kind)
    assert trial is not None
    assert trial.word != "explains"
    assert trial.failed
    assert trial.to_json()["kind"] == kind


def test_the_sets_are_what_their_names_say(suite: Suite) -> None:
    own = suite.circuit.keep
    sets = {kind: suite._set(kind).keep for kind in ("complement", "every_node", "random", "other_task", "most_moved")}
    for name, mask in own.items():
        assert torch.equal(sets["complement"][name], ~mask)
        assert sets["every_node"][name].all()
        assert sets["random"][name].sum() == sets["most_moved"][name].sum() == mask.sum()
        assert torch.equal(sets["other_task"][name], suite.other.keep[name])


def test_every_node_leaves_nothing_to_compare_it_to(suite: Suite) -> None:
    trial = suite.run("every_node")
    assert {"necessary", "specific"} <= set(trial.failed)


def test_class_means_say_the_same_whatever_set_is_asked(suite: Suite) -> None:
    found = ClassMeans(suite.validator.held_out, suite._means)
    a, b = (found.sparse_change(SiteChannels(1, channels, ())) for channels in ((0, 1, 2), (3, 4, 5, 6)))
    both = ((a.abs().amax(-1) > 0) & (b.abs().amax(-1) > 0))[..., None]
    assert both.any()
    torch.testing.assert_close(found.dense_change(1, a) * both, found.dense_change(1, b) * both)
    assert not found.dense_change(1, torch.zeros_like(a)).any()


def test_the_most_moved_nodes_differ_more_between_the_prompts_than_any_other(suite: Suite, validated) -> None:
    contrast = suite.validator.train.contrast
    keep = most_moved(validated.sparse, suite.circuit, contrast)
    recorders = [Recorder(["0.mlp.post_act"]) for _ in range(2)]
    with torch.no_grad():
        for recorder, tokens in zip(recorders, (contrast.base, contrast.counterfactual), strict=True):
            validated.sparse(tokens, tap=recorder)
    gap = (recorders[0].activations["0.mlp.post_act"] - recorders[1].activations["0.mlp.post_act"]).abs()
    real = torch.arange(gap.shape[1])[None] <= contrast.last[:, None]
    moved = (gap * real[..., None]).mean((0, 1))
    chosen = keep["0.mlp.post_act"]
    assert moved[chosen].min() >= moved[~chosen].max()


def test_calibration_never_turns_wrong_answers_into_right_ones(validated, suite: Suite) -> None:
    """A set that answers the wrong way round would else count as sufficient."""
    swapped = validated.splits.__class__(*(pairs.swapped() for pairs in suite.splits.__dict__.values()))
    for splits in (suite.splits, swapped):
        assert calibrated(validated.sparse, suite.circuit, splits).calibration.scale >= 0


def test_a_rate_seen_never_in_n_is_bounded_by_about_three_over_n() -> None:
    assert rate_bound(0, 140) == pytest.approx(3 / 140, rel=0.02)
    assert rate_bound(1, 140) > rate_bound(0, 140)
    assert rate_bound(5, 5) == 1
