"""A circuit as a change of the dense model."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bridges.edits.edit_folder import edit_form
from bridges.edits.mapping import check_base_model
from bridges.edits.paired import PairedEdit, load_paired
from bridges.edits.standing import StandingEdit, Where
from bridges.edits.standing_artefact import load_standing
from bridges.jobs.circuit_edit import EditWish, Form, Towards, make_edit, save_edit
from bridges.jobs.material import Grounds
from dense_adapters.generation import encode
from foundation.errors import UserError
from sparsebridge.circuits import TaskCircuit
from sparsebridge.dense import DenseModel
from sparsebridge.shown import html_table


@dataclass(frozen=True, eq=False)
class CircuitEdit:
    """A change of one dense model that follows a circuit."""

    dense: DenseModel
    edit: StandingEdit | PairedEdit
    """the encoder and decoder rows of its nodes, and its rule"""

    @property
    def form(self) -> Form:
        """standing: acts by itself; paired: makes one prompt act like a second one."""
        return "standing" if isinstance(self.edit, StandingEdit) else "paired"

    @property
    def claim(self) -> str:
        """What the edit is said to do."""
        return self.edit.claim

    @property
    def strength(self) -> float:
        """0 changes nothing, 1 is a full step."""
        return self.edit.strength

    def with_strength(self, strength: float) -> "CircuitEdit":
        """The same edit at another strength.

        Raises:
            UserError: NaN or infinite.
        """
        if not math.isfinite(strength):
            raise UserError(f"strength {strength}: not a finite number; give one")
        return CircuitEdit(self.dense, replace(self.edit, strength=strength))

    @contextmanager
    def applied(
        self, prompt: str | None = None, counterfactual: str | None = None, where: Where = "both"
    ) -> Iterator[DenseModel]:
        """A context in which the dense model runs edited, `model.generate` included.

        Args:
            prompt, counterfactual: for a paired edit, the text it acts on and the text to act like, of equal token length.
            where: the positions that a standing edit may touch.

        Raises:
            UserError: prompts are missing or not wanted, or of unequal length.
        """
        if isinstance(self.edit, StandingEdit):
            if prompt is not None or counterfactual is not None:
                raise UserError("a standing edit takes no prompts; call applied() without them")
            context = self.edit.applied(self.dense.stack, where=where)
        elif prompt is None or counterfactual is None:
            raise UserError(
                "a paired edit needs the prompt it acts on and the one to act like: applied(prompt, counterfactual)"
            )
        else:
            device = self.dense.model.device
            base, other = (encode(self.dense.tokenizer, text, device) for text in (prompt, counterfactual))
            context = self.edit.applied(self.dense.stack, base, other)
        with context:
            yield self.dense

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the edit; it needs neither the sparse model nor the corpus to be applied again.

        Raises:
            UserError: the folder exists and `overwrite` is false.
        """
        save_edit(self.edit, Path(folder), overwrite)

    def __repr__(self) -> str:
        nodes = sum(len(site.nodes) for site in self.edit.sites)
        return f"CircuitEdit({self.claim!r}: {self.form}, {nodes} nodes, strength {self.strength:g})"

    def _repr_html_(self) -> str:
        rows = [[str(site.dense_site), str(len(site.nodes)), ", ".join(site.nodes)] for site in self.edit.sites]
        return html_table(repr(self), ("dense site", "nodes", "which"), rows)


def edit(
    circuit: TaskCircuit,
    form: Form = "standing",
    direction: Towards = "a_to_b",
    nodes: Sequence[str] = (),
    rule: str | None = None,
    value: float | None = None,
    strength: float | None = None,
    skip_special: bool = False,
) -> CircuitEdit:
    """Map a circuit through the bridges to an edit of the dense model.

    Args:
        form: standing acts by itself; paired makes one prompt act like a second one.
        direction: of a standing edit: which answer it moves to which.
        nodes: only these nodes, such as "1.mlp.act_in:17"; unset, the whole circuit.
        rule: of a standing edit: unset moves one answer's activations to the other's; or ablate, scale, clamp, add.
        value: for clamp and add, in stream units of the sparse model.
        strength: unset, as chosen on validation pairs (or 1).
        skip_special: a standing edit leaves special tokens and the first position alone.

    Raises:
        UserError: nothing maps, a node is not in the circuit, or an option does not belong to the form.
    """
    wish = EditWish(
        form,
        direction,
        nodes=tuple(nodes),
        rule=rule or "move",
        value=value,
        strength=strength,
        skip_special=skip_special,
    )
    bridge, grounds = circuit.bridge, Grounds(lambda: circuit.splits, lambda: circuit.bridge.text)
    return CircuitEdit(bridge.dense, make_edit(circuit.circuit, bridge.pairing, grounds, wish))


def load_edit(folder: str | Path, dense: DenseModel) -> CircuitEdit:
    """Read an edit for the dense model it was made for.

    Raises:
        UserError: the folder is damaged, or the edit was made for another model.
    """
    folder = Path(folder)
    found = load_paired(folder) if edit_form(folder) == "paired" else load_standing(folder)
    check_base_model(found.model_fingerprint, dense.stack, dense.name)
    return CircuitEdit(dense, found)
