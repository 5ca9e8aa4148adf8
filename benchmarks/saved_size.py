"""How much smaller a sparse model is on disk than the same weights in a dense safetensors file.

    python benchmarks/saved_size.py [--width 512] [--check]

The whole model counts, norms, biases and embeddings included (L=4, V=1024, floor 4). A nonzero costs its value and a 32-bit
place, 8 bytes against 4 per dense entry, so d nonzeros in an entry give at best 1 / (2·d): 50 times at 1 %. Printed as
one JSON object. Target: 20 times at 1 % (--check exits 1 below it).
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from foundation.artefacts import save_tensors
from sparse_model.training.projection import density_report, project, sparse_tensors
from sparse_model.transformer.model import WEIGHTS_NAME, SparseTransformer
from sparse_model.transformer.sparse_config import SparseConfig

TARGET = 20.0


def measure(width: int, density: float) -> dict[str, float]:
    """Bytes of both files, and whether loading gives back every bit."""
    torch.manual_seed(0)
    model = SparseTransformer(
        SparseConfig(
            vocab_size=1024, n_layer=4, d_model=width, n_head=width // 16, d_head=16, d_mlp=4 * width, block_size=128
        )
    )
    project(sparse_tensors(model), density, 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tensors(folder / "dense.safetensors", model.state_dict())
        model.save_pretrained(folder / "sparse")
        started = time.perf_counter()
        again = SparseTransformer.from_pretrained(folder / "sparse")
        seconds = time.perf_counter() - started
        if any(not torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items()):
            raise AssertionError("the model that came back is another one")
        dense = (folder / "dense.safetensors").stat().st_size
        sparse = (folder / "sparse" / WEIGHTS_NAME).stat().st_size
    return {
        "dense_bytes": dense,
        "sparse_bytes": sparse,
        "times_smaller": round(dense / sparse, 1),
        "best_possible_for_the_nonzeros": round(1 / (2 * density_report(model)["total"]), 1),
        "seconds_to_load": round(seconds, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--check", action="store_true", help="exit 1 when the target is missed")
    arguments = parser.parse_args()
    found = {f"{density:.0%}": measure(arguments.width, density) for density in (0.01, 0.02, 0.05)}
    print(json.dumps({"width": arguments.width, "target": TARGET, **found}, indent=1))
    if arguments.check and found["1%"]["times_smaller"] < TARGET:
        sys.exit(1)


if __name__ == "__main__":
    main()
