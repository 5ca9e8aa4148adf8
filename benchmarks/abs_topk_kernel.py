"""What the GPU kernel of AbsTopK should cost, counted where there is no GPU. It predicts; `abs_topk.py` measures.

    pip install triton
    python benchmarks/abs_topk_kernel.py [--rows 200] [--check]

The kernel is compiled for sm_90 and disassembled: registers, spilled bytes, and instructions per entry of a row, outside and
inside its search. How often the search counts is read off the same kernel in Triton's interpreter, on normal rows and on rows
that its first guess does not suit. A multiprocessor issues four warp instructions a cycle, two of them to the integer
unit; the busier of the two, beside the bytes a row needs at the data sheet's bandwidth, gives the largest fraction of a copy's
speed that the arithmetic leaves. Rows of 2048 channels, k = 512. --check exits 1 if that is below the target for bf16 or
the compiler spills.
"""

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, K, LANES, TARGET = 2048, 512, 32, 0.5
KINDS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
MULTIPROCESSORS, GIGAHERTZ, TERABYTES = 132, 1.98, 4.8
"""Of an H200 SXM: NVIDIA's data sheet, and its boost clock."""
ELSEWHERE = {
    "FADD",
    "FMUL",
    "FFMA",
    "IMAD",
    "HADD2",
    "HFMA2",
    "LDG",
    "STG",
    "BRA",
    "SHFL",
    "NOP",
    "MUFU",
    "I2FP",
    "F2I",
}
"""Instructions that the integer unit does not execute; every other one is taken to need it."""


@dataclass(frozen=True)
class Compiled:
    """Instructions of a warp that treats one row, and the resources of a thread."""

    once: Counter[str]
    per_count: Counter[str]
    registers: int
    spilled_bytes: int

    def cycles(self, counts: float) -> float:
        """Of a multiprocessor per row: those that issue takes, or the integer unit where that is longer."""
        issued = self.once.total() + counts * self.per_count.total()
        integer = sum(
            times * number
            for part, times in ((self.once, 1.0), (self.per_count, counts))
            for name, number in part.items()
            if name not in ELSEWHERE
        )
        return max(issued / 4, integer / 2)


def compiled(kind: str) -> Compiled:
    """The forward kernel for rows of `WIDTH` channels, compiled and disassembled."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from sparse_model.transformer.abs_topk_triton import _keep, sizes

    constants = sizes(getattr(torch, kind), WIDTH)
    options = {"num_warps": constants.pop("num_warps")}
    pointers = {"x_start": f"*{KINDS[kind]}", "y_start": f"*{KINDS[kind]}", "cut_start": "*i32"}
    types = {**pointers, "threshold_per_sum": "fp32", **dict.fromkeys(constants, "constexpr")}
    names = _keep.arg_names
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if name in (*pointers, "stride")}
    source = ASTSource(
        fn=_keep,
        signature={name: types.get(name, "i32") for name in names},
        attrs=aligned,
        **{_constants_argument(ASTSource): {(names.index(name),): value for name, value in constants.items()}},
    )
    built = triton.compile(source, target=GPUTarget("cuda", 90, LANES), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(built.asm["cubin"])
        run = [str(tool), "-sass", "-res-usage", file.name]
        return _read(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


def _constants_argument(source: type) -> str:
    """`constexprs`, or what Triton called it before 3.3."""
    return next(name for name in inspect.signature(source).parameters if name.startswith("const"))


def _read(disassembly: str) -> Compiled:
    """Split what runs once from the first loop, which is the search; whatever stands in no loop counts as run."""
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\d+ )?([A-Z0-9]+)(.*?);", disassembly, re.MULTILINE)
    placed = [(int(place, 16), name, rest) for place, name, rest in lines]
    loops = []
    for place, name, rest in placed:
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name == "BRA" and target and int(target[1], 16) < place:
            body = Counter(n for p, n, _ in placed if int(target[1], 16) <= p <= place)
            loops += [body] if "STG" not in body else []
    everything = Counter(name for _, name, _ in placed if name != "NOP")
    resources = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", disassembly))
    return Compiled(
        once=everything - loops[0],
        per_count=loops[0],
        registers=int(resources["REG"]),
        spilled_bytes=int(resources["STACK"]) + int(resources["LOCAL"]),
    )


def counts_per_row(rows: int) -> dict[str, dict[str, float]]:
    """How often the kernel counts per row, by dtype and kind of row; runs in Triton's interpreter."""
    import torch

    from sparse_model.transformer import abs_topk_triton as kernel

    calls = 0
    reaching = kernel._reaching

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return reaching(*arguments)

    kernel._reaching = counted
    torch.manual_seed(0)
    normal = torch.randn(rows, WIDTH)
    inputs = {
        "normal": normal,
        "after a GELU": torch.nn.functional.gelu(normal),
        "channels of unlike scale": normal * torch.randn(WIDTH).exp(),
    }
    found: dict[str, dict[str, float]] = {}
    for dtype in KINDS:
        found[dtype] = {}
        for name, x in inputs.items():
            calls = 0
            kernel.AbsTopKTriton.apply(x.to(getattr(torch, dtype)), K)
            found[dtype][name] = calls / rows
    return found


def predict(dtype: str, counts: dict[str, float]) -> dict[str, Any]:
    """Instructions per entry, and the fraction of a copy's speed that they leave."""
    found, entries = compiled(dtype), WIDTH / LANES
    bytes_per_row = 2 * WIDTH * (4 if dtype == "float32" else 2)
    copy_cycles = bytes_per_row / (TERABYTES * 1e12) * GIGAHERTZ * 1e9 * MULTIPROCESSORS
    return {
        "registers": found.registers,
        "spilled_bytes": found.spilled_bytes,
        "instructions_per_entry_once": round(found.once.total() / entries, 1),
        "instructions_per_entry_and_count": round(found.per_count.total() / entries, 1),
        "counts_per_row": counts,
        "largest_fraction_of_copy": {
            name: round(min(1.0, copy_cycles / found.cycles(number)), 2) for name, number in counts.items()
        },
    }


def main() -> None:
    """Count and print; the interpreter needs a process of its own, since Triton settles on it when imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200, help="rows of each kind that the interpreter treats")
    parser.add_argument("--check", action="store_true", help="exit 1 when the target is missed")
    parser.add_argument("--interpreted", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.interpreted:
        print(json.dumps(counts_per_row(arguments.rows)))
        return
    again = [sys.executable, __file__, "--rows", str(arguments.rows), "--interpreted"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(again, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr)
    counts = json.loads(ran.stdout)
    os.environ.pop("TRITON_INTERPRET", None)
    found = {dtype: predict(dtype, counts[dtype]) for dtype in KINDS}
    print(json.dumps({"width": WIDTH, "k": K, "target": TARGET, **found}, indent=1))
    spills = any(each["spilled_bytes"] for each in found.values())
    if arguments.check and (spills or min(found["bfloat16"]["largest_fraction_of_copy"].values()) < TARGET):
        sys.exit(1)


if __name__ == "__main__":
    main()
