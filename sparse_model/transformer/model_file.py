"""A sparse model's folder, checked before anything of its size is made: `config.json` and packed `model.safetensors`.

A damaged size in one of them would ask for more memory than there is, so both are held against each other first: layers,
tables and widths as the config says them, and as the shapes in the file do.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from foundation.artefacts import Description, read_description, read_tensors
from foundation.errors import UserError
from foundation.tensors import Expected, check_tensor
from foundation.text import one_line
from sparse_model.transformer.packed import PLACES, SHAPE, VALUES, unpack
from sparse_model.transformer.sparse_config import SparseConfig

KIND = "sparse model"
CONFIG, TENSORS = "config.json", "model.safetensors"
LAYER = re.compile(r"transformer\.h\.([0-9]{1,6})\.")
MOST_DIMENSIONS = 4
Size = Annotated[int, Field(ge=1, le=1 << 26)]


class ConfigRecord(Description):
    """The keys of `config.json` that decide a size or are asked for by name; `SparseConfig` knows what they mean."""

    model_type: Literal["sparsebridge"] = "sparsebridge"
    vocab_size: Size = SparseConfig.vocab_size
    block_size: Size = SparseConfig.block_size
    n_layer: Size = SparseConfig.n_layer
    d_model: Size = SparseConfig.d_model
    n_head: Size = SparseConfig.n_head
    d_head: Size = SparseConfig.d_head
    d_mlp: Size = SparseConfig.d_mlp
    d_position: Size | None = None
    norm: str = SparseConfig.norm
    norm_eps: Annotated[float, Field(ge=0)] | None = None
    ln_bias: bool = True
    bias: bool = True
    activation: str = SparseConfig.activation
    topk_fraction: float | None = SparseConfig.topk_fraction
    topk_locations: list[str] = Field(default_factory=list)
    residual_activation: str = SparseConfig.residual_activation
    position: str = SparseConfig.position
    position_trainable: bool = True
    attention_sink: bool = False
    bigram_table: str = SparseConfig.bigram_table
    document_token: int | None = None
    tie_word_embeddings: bool = False
    architectures: list[str] | None = None


def read_config(folder: Path) -> SparseConfig:
    """The config of a sparse model's folder.

    Raises:
        UserError: it is missing or damaged, or its switches contradict each other.
    """
    folder = Path(folder)
    read_description(ConfigRecord, folder, CONFIG, KIND)
    try:
        return SparseConfig.from_pretrained(folder)
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, OSError) as error:  # keys of the base class
        raise UserError(
            f"{folder / CONFIG}: {one_line(str(error))[:200]}; the {KIND} is damaged, copy it again"
        ) from None


def read_weights(folder: Path, config: SparseConfig) -> dict[str, Tensor]:
    """The state of a sparse model, whose sizes are those of its config.

    Raises:
        UserError: it is missing or damaged, or of another model.
    """
    place = Path(folder) / TENSORS
    tensors = read_tensors(place, KIND)
    shapes = _shapes(tensors, place)
    _check_sizes(shapes, config, place)
    for stem in (name.removesuffix(VALUES) for name in tensors if name.endswith(VALUES)):
        places, count = tensors[stem + PLACES], len(tensors[stem + VALUES])
        check_tensor(places, Expected((count,), "int", 0, math.prod(shapes[stem]) - 1), stem + PLACES, place, KIND)
        if bool((places.diff() <= 0).any()):
            raise UserError(
                f"{place}: places of '{one_line(stem)}' are out of order; the {KIND} is damaged, copy it again"
            )
    return unpack(tensors)


def check_numbers(state: Mapping[str, Tensor], model: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse whole numbers where the model computes with floating-point ones.

    Raises:
        UserError: the first tensor for which that is so.
    """
    for name, value in model.items():
        if name in state and state[name].is_floating_point() != value.is_floating_point():
            raise UserError(
                f"{folder}: '{name}' holds {str(state[name].dtype).removeprefix('torch.')}, not what a {KIND} computes with; "
                "it is damaged, copy or make it again"
            )


def _shapes(tensors: Mapping[str, Tensor], place: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors once unpacked, which nothing has been yet."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        if name.endswith((PLACES, SHAPE)):
            continue
        if not name.endswith(VALUES):
            shapes[name] = tuple(tensor.shape)
            continue
        stem = name.removesuffix(VALUES)
        if stem + PLACES not in tensors or stem + SHAPE not in tensors:
            raise UserError(f"{place}: '{one_line(stem)}' is incomplete; the {KIND} is damaged, copy it again")
        check_tensor(tensor, Expected((None,)), name, place, KIND)
        sizes = tensors[stem + SHAPE]
        check_tensor(sizes, Expected((None,), "int", 1, 1 << 40), stem + SHAPE, place, KIND)
        if not 1 <= len(sizes) <= MOST_DIMENSIONS:
            raise UserError(
                f"{place}: '{one_line(stem)}' has {len(sizes)} dimensions; the {KIND} is damaged, copy it again"
            )
        shapes[stem] = tuple(sizes.tolist())
    return shapes


def _check_sizes(shapes: Mapping[str, tuple[int, ...]], config: SparseConfig, place: Path) -> None:
    layers = {found[1] for name in shapes if (found := LAYER.match(name))}
    if layers != {str(layer) for layer in range(len(layers))} or len(layers) != config.n_layer:
        raise UserError(
            f"{place}: holds {len(layers)} layers, config.json says {config.n_layer}; weights do not fit config.json, the "
            f"{KIND} is damaged"
        )
    wanted: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, config.d_model),
        "transformer.h.0.attn.c_attn.weight": (3 * config.d_attn, config.d_read),
        "transformer.h.0.mlp.c_fc.weight": (config.d_mlp, config.d_read),
    }
    if config.position != "none":
        wanted["transformer.wpe.weight"] = (config.block_size, config.d_position or config.d_model)
    if config.bigram_table != "none":
        wanted["bigram_table"] = (config.vocab_size, config.vocab_size)
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            raise UserError(
                f"{place}: '{name}' is of shape {list(shapes.get(name, ()))}, not {list(shape)}; weights do not fit config.json, "
                f"the {KIND} is damaged"
            )
    largest = max(map(math.prod, wanted.values()))
    for name, shape in shapes.items():
        if math.prod(shape) > largest:
            raise UserError(
                f"{place}: '{one_line(name)}' is larger than any tensor of its model; the {KIND} is damaged"
            )
