"""From a circuit to an edit of the dense model: what kind of edit is wished for, and how it is made.

paired     the circuit's read nodes (or chosen nodes) as directions; the edit acts as on a second prompt
standing   rule `move`: place and strength are chosen on validation pairs; another rule: chosen nodes alone
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bridges.edits.fit import node_edit
from bridges.edits.mapping import map_circuit, map_nodes
from bridges.edits.paired import Loop, PairedEdit, make_paired, save_paired
from bridges.edits.rules import Move, find_rule, rules_of_nodes
from bridges.edits.standing import StandingEdit
from bridges.edits.standing_artefact import save_standing
from bridges.jobs.material import Grounds
from bridges.pairing import Pairing
from bridges.validation.standing import StandingChoice
from dense_adapters import LeftOut
from foundation.errors import UserError
from sparse_model.circuits.circuit import Circuit
from sparse_model.transformer.nodes import Node

Form = Literal["paired", "standing"]
Towards = Literal["a_to_b", "b_to_a"]


@dataclass(frozen=True)
class EditWish:
    """Which edit a circuit is to become."""

    form: Form = "standing"
    direction: Towards = "a_to_b"
    """of a standing edit: which answer it moves to which"""
    loop: Loop = "closed"
    """of a paired edit: whether later sites see what earlier ones did"""
    nodes: tuple[str, ...] = ()
    """only these, such as `1.mlp.act_in:17`; empty: the whole circuit"""
    rule: str = Move.name
    """of a standing edit (`bridges.edits.rules`)"""
    value: float | None = None
    """for the rules that need one, in stream units of the sparse model"""
    strength: float | None = None
    """None: as chosen on validation pairs, or 1"""
    skip_special: bool = False
    """of a standing edit: leave special tokens and the first position alone, and out of the means"""

    def check(self) -> None:
        """Refuse parts that do not go together, before anything is loaded.

        Raises:
            UserError: the rule is unknown, a part belongs to another form or rule, or a number is NaN or infinite.
        """
        for name, number in (("value", self.value), ("strength", self.strength)):
            if number is not None and not math.isfinite(number):
                raise UserError(f"{name} {number}: not a finite number; give one")
        try:
            find_rule(self.rule)
        except UserError as error:
            raise UserError(f"--rule: {error}") from None
        if self.form == "paired":
            if self.rule != Move.name or self.value is not None:
                raise UserError(
                    "--rule and --value belong to standing edits; a paired edit follows its counterfactual prompt"
                )
            if self.skip_special:
                raise UserError(
                    "--skip-special belongs to standing edits; a paired edit follows its counterfactual at every position"
                )
        elif self.rule == Move.name and (self.nodes or self.value is not None):
            raise UserError(
                f"--node and --value need a --rule of {', '.join(rules_of_nodes())}; move takes the whole circuit"
            )


def make_edit(circuit: Circuit, pairing: Pairing, grounds: Grounds, wish: EditWish) -> StandingEdit | PairedEdit:
    """The edit that is wished for.

    Args:
        grounds: of a paired edit, neither pairs nor text are used; of a rule on nodes, the text alone.

    Raises:
        UserError: nothing maps, a node is not in the circuit, or parts of the wish do not go together.
    """
    wish.check()
    chosen = [_kept(name, circuit) for name in wish.nodes]
    if wish.form == "paired":
        return _paired(circuit, chosen, pairing, wish)
    make = _moving if wish.rule == Move.name else _ruled
    edit = make(circuit, chosen, pairing, grounds, wish)
    return edit if wish.strength is None else replace(edit, strength=wish.strength)


def save_edit(edit: StandingEdit | PairedEdit, folder: Path, overwrite: bool = False) -> None:
    """Write an edit of either form.

    Raises:
        UserError: the folder exists and `overwrite` is false.
    """
    if isinstance(edit, StandingEdit):
        save_standing(edit, folder, overwrite)
    else:
        save_paired(edit, folder, overwrite)


def describe(edit: StandingEdit | PairedEdit) -> dict[str, Any]:
    """Claim, strength and sites of an edit as plain types."""
    sites = [{"dense_site": site.dense_site, "nodes": list(site.nodes)} for site in edit.sites]
    return {"task": edit.task, "claim": edit.claim, "strength": edit.strength, "sites": sites}


def _kept(name: str, circuit: Circuit) -> Node:
    node = Node.parse(name)
    if node not in circuit.nodes:
        raise UserError(f"node '{node}' is not in the circuit for '{circuit.task}'; see sparsebridge circuit show")
    return node


def _paired(circuit: Circuit, chosen: list[Node], pairing: Pairing, wish: EditWish) -> PairedEdit:
    artefact, stack = pairing.artefact, pairing.stack
    parts = artefact.bridge, artefact.sparse, stack
    sites = map_nodes(chosen, *parts) if chosen else map_circuit(circuit, *parts)
    claim = f"{circuit.task}: act as on the counterfactual prompt"
    strength = 1.0 if wish.strength is None else wish.strength
    return make_paired(sites, artefact.bridge, stack, circuit.task, claim, wish.loop, strength)


def _moving(circuit: Circuit, _chosen: list[Node], pairing: Pairing, grounds: Grounds, wish: EditWish) -> StandingEdit:
    artefact = pairing.artefact
    parts = artefact.bridge, artefact.sparse, pairing.stack
    choice = StandingChoice(circuit, *parts, grounds.splits(), grounds.text(), left_out=_left_out(pairing, wish))
    return choice.choose("circuit", wish.direction)


def _ruled(circuit: Circuit, chosen: list[Node], pairing: Pairing, grounds: Grounds, wish: EditWish) -> StandingEdit:
    artefact, text = pairing.artefact, grounds.text()
    parts = artefact.bridge, artefact.sparse, pairing.stack
    reads = chosen or [node for node in circuit.nodes if node.part == "act_in"]
    values = {} if wish.value is None else {"value": wish.value}
    left_out = _left_out(pairing, wish)
    return node_edit(reads, wish.rule, values, *parts, text.h, circuit.task, left_out, text.tokens)


def _left_out(pairing: Pairing, wish: EditWish) -> LeftOut:
    return LeftOut.special(pairing.artefact.tokenizer) if wish.skip_special else LeftOut()
