"""The bridge artefact: a folder with `bridge.json`, `bridge.safetensors` and the sparse model it was trained with.

OUT/bridge.json          alignment, widths, dense model id and fingerprint, sparse fingerprint, configs, evaluation
OUT/bridge.safetensors   encoders, decoders, RMS ratios
OUT/sparse/              the sparse model, with tokenizer
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from bridges.alignment import SiteAlignment
from bridges.bridge import Bridge
from bridges.massive import after_first, mean_rms
from bridges.protocol import ResidualStack, residual_sites
from foundation.artefacts import (
    Description,
    check_fingerprint,
    read_json,
    read_tensors,
    save_tensors,
    write_json,
)
from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint, tensors_fingerprint
from foundation.tensors import Expected, check_tensors
from foundation.tokenizers import tokenizer_of
from foundation.versions import versions
from sparse_model.transformer.model import SparseTransformer

DESCRIPTION, TENSORS = "bridge.json", "bridge.safetensors"
WIDEST = 1 << 20
"""Channels of a stream; no model has more, so a number beyond is damage."""


class AlignmentRecord(Description):
    """Meeting points, as pairs of sparse and dense site."""

    sites: list[list[Annotated[int, Field(ge=0, le=WIDEST)]]] = Field(min_length=1)
    is_identity: bool
    rule: Literal["identity", "boundaries", "every", "extended"] | None = None


class DenseRecord(Description):
    """The dense model."""

    name: str
    fingerprint: str


class BridgeRecord(Description):
    """The keys of `bridge.json` that loading needs; those with a default came later."""

    alignment: AlignmentRecord
    d_sparse: int = Field(ge=1, le=WIDEST)
    d_dense: int = Field(ge=1, le=WIDEST)
    topk_fraction: float = Field(gt=0, le=1)
    sparse_fingerprint: str
    dense: DenseRecord
    tensors_fingerprint: str | None = None


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
    save_tensors(folder / TENSORS, bridge.state_dict())
    shape = {
        "alignment": bridge.alignment.to_json(),
        "d_sparse": bridge.d_sparse,
        "d_dense": bridge.d_dense,
        "topk_fraction": bridge.topk_fraction,
        "tensors_fingerprint": tensors_fingerprint(bridge.state_dict()),
    }
    write_json(
        folder / DESCRIPTION,
        {**shape, "sparse_fingerprint": model_fingerprint(sparse), "versions": versions(), **description},
    )


def load_bridge(folder: Path, device: str = "cpu") -> BridgeArtefact:
    """Read a bridge and its sparse model.

    Raises:
        UserError: a part is missing or damaged, or the sparse model inside is not the bridge's own.
    """
    folder = Path(folder)
    description = read_json(folder, DESCRIPTION, "bridge")
    record = BridgeRecord.check(description, str(folder / DESCRIPTION), "bridge")
    alignment = _alignment(record, folder / DESCRIPTION)
    tensors = _bridge_tensors(record, folder / TENSORS)
    sparse = SparseTransformer.from_pretrained(folder / "sparse")
    if model_fingerprint(sparse) != record.sparse_fingerprint:
        raise UserError(
            f"{folder / 'sparse'}: is not the sparse model this bridge was trained with; restore or retrain it"
        )
    if sparse.config.d_model != record.d_sparse or alignment.sites[-1].sparse > len(sparse.sublayers):
        raise UserError(f"{folder / DESCRIPTION}: does not fit the sparse model beside it; the bridge is damaged")
    bridge = Bridge(alignment, record.d_sparse, record.d_dense, record.topk_fraction)
    bridge.load_state_dict(tensors)
    with tokenizer_of("bridge", folder / "sparse"):
        tokenizer = AutoTokenizer.from_pretrained(folder / "sparse", trust_remote_code=False)
    for module in (bridge, sparse):
        module.to(device).eval().requires_grad_(False)
    return BridgeArtefact(bridge, sparse, tokenizer, description)


def _alignment(record: BridgeRecord, place: Path) -> SiteAlignment:
    """The alignment, whose sites come later in both stacks one after another.

    Raises:
        UserError: they do not.
    """
    sites = record.alignment.sites
    rising = all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(sites) if len(a) == len(b) == 2)
    if not rising or any(len(site) != 2 for site in sites):
        raise UserError(f"{place}: alignment.sites are no rising pairs of sites; the bridge is damaged, copy it again")
    return SiteAlignment.from_json(record.alignment.model_dump(exclude_none=True))


def _bridge_tensors(record: BridgeRecord, place: Path) -> dict[str, Tensor]:
    """The state of the bridge, of the shapes its description says, in float32.

    Raises:
        UserError: it is missing or damaged.
    """
    tensors = read_tensors(place, "bridge")
    check_fingerprint(tensors, record.tensors_fingerprint, place, "bridge")
    count, S, D = len(record.alignment.sites), record.d_sparse, record.d_dense
    expected = {"rms_ratio": Expected((count,), low=0)}
    for j in range(count):
        expected |= {f"encoders.{j}.weight": Expected((S, D)), f"encoders.{j}.bias": Expected((S,))}
        expected |= {f"decoders.{j}.weight": Expected((D, S)), f"decoders.{j}.bias": Expected((D,))}
    return check_tensors(tensors, expected, place, "bridge")


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
    return mean_rms(after_first(h) if skip_first else h)


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
