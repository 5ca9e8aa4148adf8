"""The table of families in docs/dense_adapters.md, made from the test matrix and the probe's own findings.

Write it with `python -m tests.dense_adapters.family_table`; a test fails where the document and the table differ.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dense_adapters import BlockSpec, DenseStack
from sparse_model.studies.page import write_between
from tests.dense_adapters.tiny_models import CASES, NEWCOMERS, Case, build

DOCUMENT = Path(__file__).parents[2] / "docs" / "dense_adapters.md"


@cache
def stack_of(case: Case) -> DenseStack:
    """The resolved stack of a tiny model, one for all who ask; they must leave its model as it is."""
    return DenseStack(build(case))


def family_table() -> str:
    """Markdown rows, one per tiny model that passes its probe at every site."""
    lines = ["| family | what is switched | layer | norms | residual |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *_rows((*CASES, *NEWCOMERS))])


def _rows(cases: tuple[Case, ...]) -> Iterator[str]:
    for case in cases:
        stack = stack_of(case)
        if stack.report.ok:
            block = stack.blocks[0]
            kind = "LayerNorm" if case.centres or case.norms == "stream" else "RMSNorm"
            yield f"| {case.family} | {case.switch} | {block.arrangement} | {case.norms}, {kind} | {_residual(block)} |"


def _residual(block: BlockSpec) -> str:
    parts = block.contributions
    said = []
    if any(part.adds_residual for part in parts):
        inside = [name for name, part in zip(("attention", "MLP"), parts, strict=True) if part.adds_residual]
        said.append("added inside " + " and ".join(inside))
    if any(part.skip == "normed" for part in parts):
        said.append("taken after the norm")
    if any(part.scale != 1.0 for part in parts):
        said.append("contributions scaled")
    return ", ".join(said) or "plain"


if __name__ == "__main__":
    write_between(DOCUMENT, "families", family_table())
