"""The bridge artefact: a folder with `bridge.json`, `bridge.safetensors` and the sparse model it was trained with.

OUT/bridge.json          alignment, widths, dense model id and fingerprint, sparse fingerprint, configs, evaluation
OUT/bridge.safetensors   encoders, decoders, RMS ratios
OUT/sparse/              the sparse model, with tokenizer
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bridges.alignment import SiteAlignment
from bridges.bridge import Bridge
from bridges.massive import after_first
from bridges.protocol import ResidualStack, residual_sites
from foundation.artefacts import read_json, read_tensors, save_tensors, write_json
from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint
from foundation.versions import versions
from sparse_model.transformer.model import SparseTransformer


@dataclass(frozen=True)
class BridgeArtefact:
    """A loaded bridge: the two sparse-side parts and what they were made for."""

    bridge: Bridge
    sparse: SparseTransformer
    tokenizer: PreTrainedTokenizerBase
    description: dict[str, Any]

    @property
    def dense_fingerprint(self) -> str:
        """Of the dense model the bridge was trained with."""
        return str(self.description["dense"]["fingerprint"])

    def check_dense(self, fingerprint: str, name: str) -> None:
        """Refuse another dense model than the bridge's own.

        Raises:
            UserError: the fingerprints differ.
        """
        if fingerprint != self.dense_fingerprint:
            raise UserError(
                f"{name}: is not the model this bridge was trained with ({self.description['dense']['name']}; fingerprint "
                f"{self.dense_fingerprint[:12]}, not {fingerprint[:12]}); pass that model, or train a bridge for this one"
            )


def save_bridge(
    folder: Path,
    bridge: Bridge,
    sparse: SparseTransformer,
    tokenizer: PreTrainedTokenizerBase,
    description: dict[str, Any],
) -> None:
    """Write the parts into an existing folder; `description` holds at least `dense: {name, fingerprint}`."""
    sparse.save_pretrained(folder / "sparse")
    tokenizer.save_pretrained(folder / "sparse")
    save_tensors(folder / "bridge.safetensors", bridge.state_dict())
    shape = {
        "alignment": bridge.alignment.to_json(),
        "d_sparse": bridge.d_sparse,
        "d_dense": bridge.d_dense,
        "topk_fraction": bridge.topk_fraction,
    }
    write_json(
        folder / "bridge.json",
        {**shape, "sparse_fingerprint": model_fingerprint(sparse), "versions": versions(), **description},
    )


def load_bridge(folder: Path, device: str = "cpu") -> BridgeArtefact:
    """Read a bridge and its sparse model.

    Raises:
        UserError: a part is missing or damaged, or the sparse model inside is not the bridge's own.
    """
    folder = Path(folder)
    description = read_json(folder, "bridge.json", "bridge")
    sparse = SparseTransformer.from_pretrained(folder / "sparse")
    if model_fingerprint(sparse) != description["sparse_fingerprint"]:
        raise UserError(
            f"{folder / 'sparse'}: is not the sparse model this bridge was trained with; restore or retrain it"
        )
    alignment = SiteAlignment.from_json(description["alignment"])
    bridge = Bridge(alignment, description["d_sparse"], description["d_dense"], description["topk_fraction"])
    tensors = read_tensors(folder / "bridge.safetensors", "bridge")
    try:
        bridge.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{folder}: bridge.safetensors does not fit bridge.json ({' '.join(str(error).split())})"
        ) from None
    tokenizer = AutoTokenizer.from_pretrained(folder / "sparse", trust_remote_code=False)
    for module in (bridge, sparse):
        module.to(device).eval().requires_grad_(False)
    return BridgeArtefact(bridge, sparse, tokenizer, description)


@torch.no_grad()
def dense_rms(
    dense: ResidualStack, bridge: Bridge, blocks: NDArray[np.integer], device: str = "cpu", skip_first: bool = False
) -> Float[Tensor, " J"]:
    """RMS(h^d) at every aligned site, over channels, averaged over the tokens of `blocks` [N, T].

    Args:
        skip_first: leave the first position of every block out (see `bridges.massive`).
    """
    tokens = torch.from_numpy(np.asarray(blocks, dtype=np.int64)).to(device)
    streams = residual_sites(dense, dense.walk(tokens))
    return torch.stack([_mean_rms(streams[site.dense], skip_first) for site in bridge.alignment.sites])


def _mean_rms(h: Float[Tensor, "B T W"], skip_first: bool) -> Float[Tensor, ""]:
    return (after_first(h) if skip_first else h).float().square().mean(-1).sqrt().mean()


@torch.no_grad()
def measure_rms_ratio(
    sparse: SparseTransformer,
    dense: ResidualStack,
    bridge: Bridge,
    blocks: NDArray[np.integer],
    device: str = "cpu",
    skip_first: bool = False,
) -> None:
    """Set ρ_j = RMS(h^s)/RMS(h^d), RMS over channels averaged over the tokens of `blocks` [N, T].

    Args:
        skip_first: leave the first position of every block out, of both streams.
    """
    tokens = torch.from_numpy(np.asarray(blocks, dtype=np.int64)).to(device)
    h_sparse = residual_sites(sparse, sparse.walk(tokens))
    ours = torch.stack([_mean_rms(h_sparse[site.sparse], skip_first) for site in bridge.alignment.sites])
    bridge.rms_ratio.copy_(ours / dense_rms(dense, bridge, blocks, device, skip_first))
