"""Weights on disk as their nonzeros.

A tensor with few nonzeros is stored as `name.values` [n] and `name.places` [n] (flat positions, int32 where they
fit), everything else as itself. At 1 % density the file is more than 20 times smaller than the dense one, and
nothing is rounded.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from foundation.errors import UserError

PLACES, VALUES, SHAPE = ".places", ".values", ".shape"
PACK_BELOW = 0.4  # a nonzero costs value + place, so packing pays below about one half


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace tensors that are mostly zero by values, places and shape."""
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        flat = tensor.reshape(-1)
        places = ((flat != 0) | flat.signbit()).nonzero().squeeze(-1)  # a negative zero is kept as it is
        if tensor.dim() == 0 or not tensor.is_floating_point() or len(places) >= PACK_BELOW * tensor.numel():
            packed[name] = tensor
            continue
        packed[name + VALUES] = flat[places]
        packed[name + PLACES] = places.to(torch.int32 if tensor.numel() < 2**31 else torch.int64)
        packed[name + SHAPE] = torch.tensor(tensor.shape, dtype=torch.int64)
    return packed


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `pack`, bit for bit.

    Raises:
        UserError: places beyond the shape, or parts that do not belong together.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith((PLACES, SHAPE)):
            continue
        if not name.endswith(VALUES):
            state[name] = tensor
            continue
        stem = name.removesuffix(VALUES)
        try:
            places, shape = packed[stem + PLACES].long(), packed[stem + SHAPE].tolist()
            flat = torch.zeros(shape, dtype=tensor.dtype).reshape(-1)
            flat[places] = tensor
        except (KeyError, IndexError, RuntimeError) as error:
            raise UserError(f"weights of '{stem}' are damaged ({error}); copy or make the model again") from None
        state[stem] = flat.view(shape)
    return state
