"""Settings of the bridged objective; apart from it, so that reading them loads no torch."""

from typing import Literal

from pydantic import Field

from bridges.site_terms import SiteTerms

AlignmentRule = Literal["boundaries", "every"]
"""See `bridges.alignment`."""


class BridgeConfig(SiteTerms):
    """Weights of the loss terms and the bridges' own optimiser settings."""

    topk_fraction: float = Field(0.25, gt=0, le=1, description="fraction of sparse channels the encoders keep")
    cross_entropy: float = Field(
        0.0,
        ge=0,
        description="weight of the sparse model's next-token cross-entropy; above 0 it is pulled towards the text as well, "
        "away from the dense model",
    )
    distillation: float = Field(1.0, ge=0, description="weight of KL(dense ‖ sparse)")
    dense_to_sparse: float = Field(1.0, ge=0, description="c₂, weight of M3")
    sparse_to_dense: float = Field(1.0, ge=0, description="c₃, weight of M4")
    align: AlignmentRule = Field(
        "every",
        description="which sites of a sparse model of other depth meet the dense one: layer boundaries alone, or every site",
    )
    skip_first: bool = Field(
        False,
        description="leave the first position, a sink in many models, out of M2, of the dense stream's unit and of the RMS "
        "ratios",
    )
    crossings: int = Field(0, ge=0, description="sites crossed per step and direction, drawn at random; 0 for all")
    dense_dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="of the dense model's matrices while training; auto: that of --precision, so that none is cast",
    )
    lr: float = Field(2e-3, gt=0, description="peak learning rate of encoders and decoders")
    sharkfin: bool = Field(
        True,
        description="whether the bridges' rate too is multiplied by 1/√density, though their own weights stay dense",
    )
    eps: float = Field(1e-8, gt=0, description="AdamW ε of encoders and decoders")
