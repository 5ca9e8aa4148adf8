"""Loading what commands are given, with errors that name the option."""

from typing import Any


def load_stack(model: str, device: str = "cpu") -> tuple[Any, Any]:
    """A dense model as a residual stack, and its tokenizer.

    Raises:
        AttachError: it does not load, or it is not a decoder-only language model.
        UserError: the numeric probe refused some of its sites.
    """
    from dense_adapters import DenseStack, load_dense
    from sparse_model.settings import UserError

    network, tokenizer = load_dense(model, device=device)
    stack = DenseStack(network)
    if stack.report.refused:
        raise UserError(
            f"{model}: {len(stack.report.refused)} sites fail the adapter's probe ({stack.report.refused[0]}); "
            f"see sparsebridge dense check {model}"
        )
    return stack, tokenizer
