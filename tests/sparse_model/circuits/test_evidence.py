"""Evidence: every check says what its definition says, on a model where the answer can be had another way."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.errors import UserError
from foundation.statistics import Estimate, mean_estimate
from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.adversary import adversarial_loss
from sparse_model.circuits.circuit import Calibration, Circuit
from sparse_model.circuits.evidence.adversarial import adversarial
from sparse_model.circuits.evidence.agreement import agreement
from sparse_model.circuits.evidence.binarised import best_steps, binarised
from sparse_model.circuits.evidence.check import all_checks
from sparse_model.circuits.evidence.control_cache import cached_curves
from sparse_model.circuits.evidence.controls import KINDS, Nonsense, RandomWeights, compared
from sparse_model.circuits.evidence.faithfulness import faithfulness
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.forced import Forced, ranked_losses, with_elimination
from sparse_model.circuits.evidence.frozen_norm import frozen_norm
from sparse_model.circuits.evidence.gather import gather
from sparse_model.circuits.evidence.grades import GATES, grade
from sparse_model.circuits.evidence.interchange import interchange
from sparse_model.circuits.evidence.necessity import necessity
from sparse_model.circuits.evidence.outcome import Outcome, Subject
from sparse_model.circuits.evidence.random_weights import shuffled
from sparse_model.circuits.evidence.sufficiency import sufficiency
from sparse_model.circuits.prune import task_loss
from sparse_model.circuits.prune_config import PruneConfig
from tests.sparse_model.circuits.conftest import random_keep


@pytest.fixture
def subject(known, circuit: Circuit) -> Subject:
    """A random circuit under question."""
    return Subject(known.model, circuit, known.validation)


@pytest.fixture
def everything(known, circuit: Circuit) -> Subject:
    """The circuit of all nodes: the whole model."""
    keep = {name: torch.ones_like(mask) for name, mask in circuit.keep.items()}
    return Subject(known.model, dataclasses.replace(circuit, keep=keep), known.validation)


def test_losses_are_those_of_the_model_under_the_circuits_taps(known, subject: Subject) -> None:
    calibrated = dataclasses.replace(subject.circuit, calibration=Calibration(1.5, -0.3))
    subject = Subject(known.model, calibrated, known.validation)
    alone, removed = sufficiency(subject, draws=2), necessity(subject, draws=3)
    only, pairs = subject.circuit.only(), known.validation
    assert alone.task_loss.value == pytest.approx(task_loss(known.model, pairs, only), abs=1e-5)
    expected = task_loss(known.model, pairs, only, calibrated.calibration)
    assert alone.calibrated_loss.value == pytest.approx(expected, abs=1e-5)
    assert alone.full_loss.value == pytest.approx(task_loss(known.model, pairs), abs=1e-5)
    assert removed.necessity_loss.value == pytest.approx(task_loss(known.model, pairs, calibrated.without()), abs=1e-4)
    assert alone.task_loss.low <= alone.task_loss.value <= alone.task_loss.high
    hurt_more = sum(loss >= removed.necessity_loss.value for loss in removed.outside_losses)
    assert removed.p_outside == (1 + hurt_more) / 4


def test_the_whole_model_as_its_own_circuit_is_moved_by_neither_norms_nor_interchange(everything: Subject) -> None:
    whole = everything.whole.loss
    norms, exchanged = frozen_norm(everything), interchange(everything, draws=2)
    assert norms is not None
    assert norms.frozen_norm_loss.value == pytest.approx(whole, abs=1e-4)
    assert norms.amplification.value == pytest.approx(1, abs=1e-4)
    assert [loss.value for loss in exchanged.curve.values()] == pytest.approx([whole] * 5, abs=1e-4)
    assert exchanged.distance == pytest.approx(0, abs=1e-6)


def test_norms_and_interchange_move_a_random_circuit(subject: Subject) -> None:
    norms, exchanged = frozen_norm(subject), interchange(subject, draws=2)
    assert norms is not None
    assert abs(norms.frozen_norm_loss.value - norms.task_loss.value) > 1e-3
    assert exchanged.curve[0.0].value == pytest.approx(subject.by_itself.loss, abs=1e-6)
    assert abs(exchanged.curve[1.0].value - exchanged.curve[0.0].value) > 1e-3
    assert exchanged.worst.high == max(loss.high for loss in exchanged.curve.values())
    assert exchanged.distance > 0.01


def test_frozen_norms_are_not_measured_where_a_layer_norm_has_a_mean(
    tiny_sparse: Callable, known, circuit: Circuit
) -> None:
    assert frozen_norm(Subject(tiny_sparse(norm="layer"), circuit, known.validation)) is None


def test_the_best_step_is_the_split_of_least_squared_error_found_by_trying_all() -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    threshold, low, high = best_steps(x)
    for c in range(4):
        column = x[:, c].sort().values

        def error(split: int, column: torch.Tensor = column) -> float:
            return sum(float((part - part.mean()).square().sum()) for part in (column[:split], column[split:]))

        split = min(range(1, 9), key=error)
        assert (x[:, c] > threshold[c]).sum() == 9 - split
        torch.testing.assert_close(low[c], column[:split].mean())
        torch.testing.assert_close(high[c], column[split:].mean())


def test_binarising_nodes_that_have_two_values_changes_nothing(known, circuit: Circuit) -> None:
    two = known.train.select([3])
    keep = {name: torch.zeros_like(mask) for name, mask in circuit.keep.items()}
    for name in ("1.attn.resid_delta", "1.mlp.resid_delta"):  # read at the two prompts' ends alone
        keep[name] = torch.ones_like(keep[name])
    subject = Subject(known.model, dataclasses.replace(circuit, keep=keep), two)
    found = binarised(subject, two)
    assert found.binarised_loss.value == pytest.approx(found.task_loss.value, abs=1e-4)


def test_adversarial_figures_are_the_adversarys(known, subject: Subject) -> None:
    found = adversarial(subject, batch_pairs=4)
    circuit = subject.circuit
    first = known.validation.select(slice(0, 4))
    expected = adversarial_loss(known.model, circuit.keep, circuit.values, first, 4)
    assert found.adversarial_loss.value == pytest.approx(expected.adversarial, abs=1e-4)
    assert found.adversarial_loss.value >= found.complete_loss - 1e-4


def test_faithfulness_runs_from_nothing_to_the_whole_model_and_needs_a_ranking(known, circuit: Circuit) -> None:
    assert faithfulness(Subject(known.model, circuit, known.validation)) is None
    generator = torch.Generator().manual_seed(0)
    scores = {name: torch.rand(len(mask), generator=generator) for name, mask in circuit.keep.items()}
    found = faithfulness(Subject(known.model, dataclasses.replace(circuit, scores=scores), known.validation))
    assert found is not None
    shares, f = list(found.curve), list(found.curve.values())
    assert (shares[0], shares[-1], f[0], f[-1]) == (0, 1, 0, 1)
    assert found.cpr.value == pytest.approx(np.trapezoid(f, shares))
    assert found.cmd.value == pytest.approx(np.trapezoid(np.abs(1 - np.array(f)), shares))


def test_intervals_resample_templates_and_the_worst_one_is_named(subject: Subject) -> None:
    outcome = subject.by_itself
    apart = Outcome(outcome.difference, [str(i) for i in range(len(subject.pairs))])
    assert apart.loss_estimate() == mean_estimate(outcome.losses())
    steep = torch.tensor([3.0, 3.0, -3.0, -3.0] * 2)
    shared = Outcome(steep, ["x", "x", "y", "y"])
    low, high = math.log1p(math.exp(-3)), math.log1p(math.exp(3))
    assert (shared.loss_estimate().low, shared.loss_estimate().high) == pytest.approx((low, high))
    assert shared.worst_template() == ("y", pytest.approx(high))


def test_agreement_is_the_mean_jaccard_beside_chance(known) -> None:
    runs = [
        {"seed": 0, "nodes": ["0.attn.q:1", "0.mlp.post_act:3"]},
        {"seed": 1, "nodes": ["0.attn.q:1", "0.mlp.post_act:4"]},
        {"seed": 2, "nodes": ["0.attn.q:1"]},
    ]
    found = agreement(known.model.config, runs)
    assert found is not None
    assert found.jaccard == pytest.approx((1 / 3 + 1 / 2 + 1 / 2) / 3)
    assert (found.lowest, found.highest) == pytest.approx((1 / 3, 1 / 2))
    assert found.core == ["0.attn.q:1"]
    assert found.chance < found.jaccard
    assert agreement(known.model.config, runs[:1]) is None


def test_shuffled_weights_keep_every_mask_and_every_value_and_no_place(known) -> None:
    random = shuffled(known.model)
    moved = 0
    for (name, before), after in zip(known.model.named_parameters(), random.parameters(), strict=True):
        assert torch.equal(before != 0, after != 0), name
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values), name
        moved += not torch.equal(before, after)
        assert torch.equal(before, after) or "ln_" not in name
    assert moved > 10


def test_sizes_count_equal_scores_together(known, circuit: Circuit) -> None:
    scores = {name: torch.full((len(mask),), 0.5) for name, mask in circuit.keep.items()}
    scores["0.attn.v"][:3] = 1.0
    total = sum(len(score) for score in scores.values())
    reached = task_loss(known.model, known.train) + 0.01  # by all nodes alone, so that sizes below are looked for
    config = PruneConfig(target_loss=reached, calibrate_in_decision=False)
    found = ranked_losses(known.model, scores, known.train, known.values, config)
    assert set(found.curve) == {0, 3, total}
    three = {name: score == 1.0 for name, score in scores.items()}
    alone = task_loss(known.model, known.train, Ablate(three, known.values))
    assert found.curve[3] == pytest.approx(alone, abs=1e-5)
    assert alone > reached
    assert found.curve[total] == pytest.approx(task_loss(known.model, known.train), abs=1e-5)


def test_where_no_node_is_needed_nothing_is_eliminated(
    known, circuit: Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("looked for a smaller set than none")

    monkeypatch.setattr("sparse_model.circuits.evidence.forced.discretised", never)
    scores = {name: torch.full((len(mask),), 0.5) for name, mask in circuit.keep.items()}
    config = PruneConfig(target_loss=0.15)
    for curve in ({0: 0.1, 5: 0.05}, {0: 0.7, 5: 0.6}):  # the empty set reaches the target; none does
        found = with_elimination(known.model, [(scores, Forced(curve))], known.train, known.values, config)
        assert found.curve == curve
    with pytest.raises(AssertionError, match="smaller set"):
        with_elimination(known.model, [(scores, Forced({0: 0.7, 5: 0.1}))], known.train, known.values, config)


def test_a_control_separates_when_it_needs_twice_the_nodes_or_never_gets_there() -> None:
    task = Forced({0: 0.7, 10: 0.3, 20: 0.1, 100: 0.0})
    never = compared(Nonsense, task, Forced({0: 0.7, 50: 0.6, 100: 1.0}), 0.15)
    assert (never.ratio, never.loss, never.control_nodes, never.nodes) == (None, 0.6, 50, 20)
    assert never.separates
    far = compared(RandomWeights, task, Forced({0: 0.7, 20: 0.5, 45: 0.1}), 0.15)
    assert (far.ratio, far.control_loss_at_size, far.separates) == (45 / 20, 0.5, True)
    near = compared(RandomWeights, task, Forced({0: 0.7, 21: 0.1}), 0.15)
    assert not near.separates
    assert "never reaches" in never.sentence
    assert "2.2 times" in far.sentence


def test_control_runs_are_kept_for_their_own_task_and_settings_only(tmp_path: Path) -> None:
    path, made = tmp_path / "controls.json", []

    def make() -> dict[str, Forced]:
        made.append(1)
        return {"nonsense": Forced({0: 0.7, 12: 0.25})}

    key = {"task": "one", "setting": {"steps": 3}}
    first, second = cached_curves(path, key, make), cached_curves(path, key, make)
    assert first == second == {"nonsense": Forced({0: 0.7, 12: 0.25})}
    assert len(made) == 1
    with pytest.raises(UserError, match="another setting"):
        cached_curves(path, {**key, "setting": {"steps": 4}}, make)
    path.write_text("{}")
    with pytest.raises(UserError, match="holds no control runs"):
        cached_curves(path, key, make)


class _Says(Finding):
    """A finding with given figures, for the gates to read."""

    sentence = "Only figures."

    def __init__(self, **figures: object) -> None:
        self.__dict__.update(figures)


def estimate(value: float) -> Estimate:
    return Estimate(value, value - 0.01, value + 0.01)


def necessary(p: float = 0.01, loss: float = 0.9) -> _Says:
    losses = [0.01] * 100
    return _Says(p_outside=p, p_any=p, outside_losses=losses, any_losses=losses, necessity_loss=estimate(loss))


def findings(**changed: object) -> dict:
    separates = _Says(ratio=3.0, separates=True)
    good = {
        "sufficiency": _Says(calibrated_loss=estimate(0.1)),
        "necessity": necessary(),
        "nonsense": separates,
        "reversed": separates,
        "arbitrary": separates,
        "random_weights": separates,
        "frozen_norm": _Says(frozen_norm_loss=estimate(0.2)),
        "adversarial": _Says(adversarial_loss=estimate(0.2)),
        "interchange": _Says(worst=estimate(0.2)),
        "agreement": _Says(jaccard=0.8, lowest=0.7),
    }
    return {**good, **changed}


@pytest.mark.parametrize(
    ("changed", "letter"),
    [
        ({}, "A"),
        ({"agreement": None}, "B"),
        ({"adversarial": _Says(adversarial_loss=estimate(7.0))}, "B"),
        ({"adversarial": _Says(adversarial_loss=estimate(7.0)), "agreement": None}, "C"),
        ({"nonsense": _Says(ratio=1.1, separates=False)}, "C"),
        ({"nonsense": None, "reversed": None, "arbitrary": None, "random_weights": None}, "C"),
        ({"frozen_norm": _Says(frozen_norm_loss=estimate(0.349))}, "B"),
        ({"agreement": _Says(jaccard=0.5, lowest=0.3)}, "B"),
        ({"necessity": necessary(p=0.2)}, "D"),
        ({"necessity": necessary(loss=0.01)}, "D"),
        ({"sufficiency": _Says(calibrated_loss=estimate(0.299))}, "D"),
    ],
    ids=str,
)
def test_letters_follow_from_gates_and_what_was_not_measured_does_not_pass(changed: dict, letter: str) -> None:
    found = grade(findings(**changed))
    assert found.letter == letter
    assert [gate.name for gate in found.gates] == [gate.name for gate in GATES]
    missing = {name for name, finding in changed.items() if finding is None}
    unmeasured = {gate.name for gate in found.gates if gate.passed is None}
    assert unmeasured == {gate.name for gate in GATES if gate.finding in missing}


def test_a_gate_that_too_few_draws_keep_from_passing_is_undecided_and_says_how_many_would_do() -> None:
    few, enough = ([0.01] * draws for draws in (18, 19))
    necessity = necessary(p=1 / 19)
    necessity.outside_losses, necessity.any_losses = few, enough
    gates = {gate.name: gate for gate in grade(findings(necessity=necessity)).gates}
    assert gates["necessary"].state == "undecided: 18 random sets cannot give a p of 0.05; 19 can (--draws)"
    assert gates["necessary among all"].state == "no"
    assert gates["necessary in size"].state == "yes"


def test_checks_are_the_modules_that_have_one_in_the_order_of_tables() -> None:
    found = all_checks()
    assert list(found)[:3] == ["sufficiency", "necessity", "frozen_norm"]
    assert list(found)[-1] == "adversarial"
    assert not {"grades", "gather", "finding"} & set(found)
    assert len({check.place for check in found.values()}) == len(found)


@pytest.mark.parametrize("quick", [True, False])
def test_everything_is_gathered_into_one_json_object(quick: bool, known, circuit: Circuit) -> None:
    keep = random_keep(known.model, 0.7)
    circuit = dataclasses.replace(circuit, keep=keep, scores={name: mask.float() for name, mask in keep.items()})
    text = np.random.default_rng(0).integers(0, 40, (4, 8))
    few = {"steps": 3, "batch_pairs": 4, "pairs": 8, "edge_steps": 0, "elimination_rounds": 1, "elimination_starts": 2}
    config = PruneConfig(target_loss=5.0, **few)
    subject = Subject(known.model, circuit, known.validation)
    found = gather(subject, known.train, known.validation, None if quick else text, config, draws=2, seeds=2)
    read = json.loads(json.dumps(found.to_json(), allow_nan=False))
    absent = {*KINDS, "agreement"} if quick else set()
    assert set(read["missing"]) == absent
    checks = {"sufficiency", "necessity", "frozen_norm", "interchange", "binarised", "faithfulness", "adversarial"}
    assert set(read["findings"]) == checks | ({*KINDS, "agreement"} - absent)
    assert all(len(finding["sentence"]) > 40 for finding in read["findings"].values())
    assert set(read["findings"]["sufficiency"]["task_loss"]) == {"value", "low", "high"}
    assert read["grade"]["letter"] in {"A", "B", "C", "D"}


def test_the_documentation_names_every_gate_with_its_threshold_and_reason() -> None:
    page = (Path(__file__).parents[3] / "docs" / "circuits.md").read_text("utf-8")
    for gate in GATES:
        assert f"| {gate.name} | {gate.kind} | {gate.threshold:g} | {gate.reason} |" in page
