"""Every gate fails by itself where its own figure is at fault, and the word follows from the gates."""

from dataclasses import replace

import pytest

from bridges.validation.in_sparse import InSparse
from bridges.validation.specificity import Specificity, check_draws
from bridges.validation.transfer import Fit, Transfer
from bridges.validation.verdict import Findings, gates, reason_of, word_of
from foundation.errors import UserError
from foundation.statistics import Estimate


def around(value: float, width: float = 0.02) -> Estimate:
    return Estimate(value, value - width, value + width)


IN_SPARSE = InSparse(9, around(1.0, 0), around(0.1), around(0.2), around(1.1), around(0.01), around(0.8), around(0.79))
NULL = Fit(around(0.0), around(0.05), around(0.1))
TRANSFER = Transfer(Fit(around(0.95), around(0.9), around(0.95)), {"permuted": [NULL], "untrained": [NULL]}, [])
SPECIFIC = Specificity(1, around(0.7), around(0.05), around(0.65), 0.0099, 100, ())
GOOD = Findings(around(1.0, 0), around(0.98), around(0.95), IN_SPARSE, TRANSFER, SPECIFIC, around(0.7), around(0.69))


def fit(**changes: Estimate) -> Transfer:
    return replace(TRANSFER, fit=replace(TRANSFER.fit, **changes))


FAULTS = {
    "does the task": [
        replace(GOOD, accuracy_dense=Estimate(0.9, 0.84, 0.95)),
        replace(GOOD, accuracy_sparse=Estimate(0.9, 0.84, 0.95)),
    ],
    "carried": [replace(GOOD, carried=Estimate(0.8, 0.59, 0.9)), replace(GOOD, carried=None)],
    "sufficient": [replace(GOOD, in_sparse=replace(IN_SPARSE, loss=Estimate(0.3, 0.2, 0.35)))],
    "necessary": [
        replace(GOOD, in_sparse=replace(IN_SPARSE, necessity=Estimate(0.6, 0.49, 0.7))),
        replace(GOOD, in_sparse=replace(IN_SPARSE, necessity=None)),
    ],
    "predicted": [
        replace(GOOD, transfer=fit(slope=Estimate(0.6, 0.49, 0.7))),
        replace(GOOD, transfer=fit(slope=Estimate(1.9, 1.8, 2.01))),
        replace(GOOD, transfer=fit(r2=Estimate(0.6, 0.49, 0.7))),
        replace(GOOD, transfer=replace(fit(r2=around(0.6)), nulls={"untrained": [replace(NULL, r2=around(0.59))] * 3})),
    ],
    "specific": [
        replace(GOOD, specificity=replace(SPECIFIC, difference=Estimate(0.2, 0.09, 0.3))),
        replace(GOOD, specificity=replace(SPECIFIC, p_value=0.02)),
        replace(GOOD, specificity=None),
    ],
    "moves": [
        replace(GOOD, circuit=Estimate(0.2, 0.09, 0.3)),
        replace(GOOD, beyond_isotropic=Estimate(0.1, -0.01, 0.3)),
    ],
}


def test_where_every_gate_holds_the_circuit_explains() -> None:
    found = gates(GOOD)
    assert [gate.name for gate in found if not gate.passed] == []
    assert word_of(found) == "explains"
    assert [gate.name for gate in found] == list(FAULTS)


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, faults in FAULTS.items() for n in range(len(faults))])
def test_exactly_the_gate_at_fault_fails_and_says_what_to_do(name: str, number: int) -> None:
    found = gates(FAULTS[name][number])
    assert [gate.name for gate in found if not gate.passed] == [name]
    (gate,) = (gate for gate in found if gate.name == name)
    assert gate.measured
    assert gate.required
    assert gate.meaning in reason_of(found) or name == "moves"
    assert gate.remedy
    assert word_of(found) == ("explains" if name == "moves" else "steers")


def test_gates_look_at_the_worse_end_of_the_interval_not_at_the_figure() -> None:
    wide = replace(GOOD, carried=Estimate(0.95, 0.3, 1.2))
    assert word_of(gates(wide)) == "steers"
    assert word_of(gates(replace(GOOD, carried=around(0.63)))) == "explains"


def test_what_neither_explains_nor_moves_fails() -> None:
    weak = replace(GOOD, circuit=around(0.05), specificity=replace(SPECIFIC, difference=around(0.0)))
    assert word_of(gates(weak)) == "fails"
    assert reason_of(gates(weak)).startswith("not specific, moves: ")


def test_fewer_draws_than_p_needs_are_refused_and_so_many_that_it_could_pass_are_not() -> None:
    with pytest.raises(UserError, match=r"--draws 98: p must fall below 0.01.*pass 99 or more"):
        check_draws(98)
    check_draws(99)
