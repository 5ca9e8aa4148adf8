"""Fingerprints: hashes that tie an artefact to the numbers it was made from."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def hash_tensor(digest: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    """Add one named tensor's dtype, shape and bytes to a running hash."""
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw: Any = flat.view(torch.uint8).numpy()
    digest.update(raw)


def tensors_fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, shapes, types and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(value.shape)}:{value.dtype};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def values_fingerprint(values: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over plain values as JSON with sorted keys; the same for what is written and what is read again."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """`tensors_fingerprint` of a model's state dict."""
    return tensors_fingerprint(model.state_dict())
