"""Floating-point operations per token of a sparse model (a multiply-add is two), forward and per optimiser step.

Matrix products per token, R the channels a sublayer reads and A = H·K:

    attention   2·R·3A + 2·A·S          and 4·T·A for the scores and the mixing (the whole square, as is the custom)
    MLP         2·R·N + 2·N·S
    unembedding 2·S·V

The backward pass costs twice the forward pass in matrix products, and 2.5 times in attention, whose fused kernels make
the scores again. Norms, AbsTopK, the optimiser and the projection do few operations; what they cost is in the
utilisation.
"""

from dataclasses import dataclass

from sparse_model.transformer.sparse_config import SparseConfig

ATTENTION_BACKWARD, MATMUL_BACKWARD = 2.5, 2.0


@dataclass(frozen=True)
class Work:
    """FLOPs per token, matrix products and attention apart because their backward passes differ."""

    matmul: float = 0.0
    attention: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.matmul + other.matmul, self.attention + other.attention)

    def __mul__(self, factor: float) -> "Work":
        return Work(self.matmul * factor, self.attention * factor)

    @property
    def forward(self) -> float:
        """FLOPs per token of the forward pass."""
        return self.matmul + self.attention

    @property
    def step(self) -> float:
        """FLOPs per token of forward and backward where both inputs and weights need gradients."""
        return (1 + MATMUL_BACKWARD) * self.matmul + (1 + ATTENTION_BACKWARD) * self.attention

    @property
    def step_frozen(self) -> float:
        """The same where the weights are frozen: only gradients of the inputs."""
        return 2 * self.matmul + (1 + ATTENTION_BACKWARD) * self.attention


def attention_work(config: SparseConfig, length: int) -> Work:
    """One attention sublayer on sequences of `length` tokens."""
    reach = length + int(config.attention_sink)
    matmul = 2 * config.d_read * 3 * config.d_attn + 2 * config.d_attn * config.d_model
    return Work(matmul, 4 * reach * config.d_attn)


def mlp_work(config: SparseConfig) -> Work:
    """One MLP sublayer."""
    return Work(2 * config.d_read * config.d_mlp + 2 * config.d_mlp * config.d_model)


def unembedding_work(config: SparseConfig) -> Work:
    """The final linear map to the vocabulary."""
    return Work(2 * config.d_model * config.vocab_size)


def model_work(config: SparseConfig, length: int) -> Work:
    """The whole model on sequences of `length` tokens."""
    layer = attention_work(config, length) + mlp_work(config)
    return layer * config.n_layer + unembedding_work(config)
