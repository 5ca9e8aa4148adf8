"""What an edit is wished to be is refused before anything is loaded where it cannot be had."""

import pytest

from bridges.jobs.circuit_edit import EditWish
from foundation.errors import UserError


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["strength", "value"])
def test_a_number_that_is_not_finite_is_refused_by_name(name: str, number: float) -> None:
    EditWish(rule="add", nodes=("0.attn.act_in:1",), value=1.0, strength=1.0).check()
    with pytest.raises(UserError, match=f"^{name} {number}: not a finite number"):
        EditWish(**{"rule": "add", "nodes": ("0.attn.act_in:1",), "value": 1.0, name: number}).check()
