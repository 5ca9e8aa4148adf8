"""A bridge together with the dense model it belongs to: what every job on the dense side starts from."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bridges.artefact import BridgeArtefact, load_bridge
from dense_adapters import DenseStack, load_stack


@dataclass(frozen=True)
class Pairing:
    """A dense model as a residual stack, its tokenizer, and the bridge that belongs to it."""

    stack: DenseStack
    tokenizer: PreTrainedTokenizerBase
    artefact: BridgeArtefact
    place: str = ""
    """id or folder the dense model was loaded from"""


def load_pairing(bridge: Path, dense: str | None, device: str = "cpu", trust_remote_code: bool = False) -> Pairing:
    """A bridge with its dense model; `dense` defaults to where the bridge says its model was
    (a relative path counts from beside the bridge).

    Raises:
        UserError: the model is not the bridge's own, or either does not load.
    """
    artefact = load_bridge(bridge, device)
    name = dense or str(artefact.description["dense"]["name"])
    if dense is None and (bridge.parent / name).is_dir():
        name = str(bridge.parent / name)
    stack, tokenizer = load_stack(name, device, trust_remote_code)
    artefact.check_dense(stack.fingerprint, name)
    return Pairing(stack, tokenizer, artefact, name)
