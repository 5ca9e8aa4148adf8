"""Tiny random models of every supported family, with every switch that changes the computation away from neutral.

The table below is both the test matrix and the source of the family table in docs/dense_adapters.md.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 61
WIDTH = 32
LAYERS = 3

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GATED = {**_COMMON, "intermediate_size": 40, "num_key_value_heads": 2}
_ROPE = {"rope_type": "default", "rope_theta": 1000.0}
_PARTIAL = {"rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5}}
_YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}
_CTRL = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "dff": 40, "n_positions": 64}
_GPT1 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 64}


@dataclass(frozen=True)
class Case:
    """One tiny model: a family, what is switched, its configuration, and the roles a reader of its paper expects.

    arrangement: sequential or parallel. norms: which norms an expert expects, as pre, post, sandwich or stream.
    """

    family: str
    switch: str
    config: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    arrangement: str = "sequential"
    norms: str = "pre"
    centres: bool = False

    @property
    def id(self) -> str:
        return f"{self.family} {self.switch}".replace(" ", "-")


def _gpt_style(**options: Any) -> dict[str, Any]:
    return {**_COMMON, **options}


CASES: tuple[Case, ...] = (
    Case("GPT-2", "plain", "GPT2Config", _gpt_style(n_inner=40), centres=True),
    Case(
        "GPT-2",
        "untied, attention scaled by layer, upcast",
        "GPT2Config",
        _gpt_style(tie_word_embeddings=False, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
        centres=True,
    ),
    Case(
        "GPT-Neo",
        "global and local attention",
        "GPTNeoConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 4,
            "max_position_embeddings": 64,
        },
        centres=True,
    ),
    Case(
        "GPT-J",
        "parallel, rotary on half a head",
        "GPTJConfig",
        {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "rotary_dim": 4, "n_positions": 64},
        arrangement="parallel",
        centres=True,
    ),
    Case(
        "GPT-NeoX",
        "parallel (Pythia)",
        "GPTNeoXConfig",
        {**_COMMON, "intermediate_size": 40, "use_parallel_residual": True, **_PARTIAL},
        arrangement="parallel",
        centres=True,
    ),
    Case(
        "GPT-NeoX",
        "sequential, no attention bias",
        "GPTNeoXConfig",
        {**_COMMON, "intermediate_size": 40, "use_parallel_residual": False, "attention_bias": False},
        centres=True,
    ),
    Case("Llama", "grouped queries", "LlamaConfig", _GATED),
    Case(
        "Llama",
        "tied, biases, YaRN positions",
        "LlamaConfig",
        {**_GATED, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rope_parameters": _YARN},
    ),
    Case("Mistral", "sliding window", "MistralConfig", {**_GATED, "sliding_window": 4}),
    Case(
        "Mistral", "full attention, own head width", "MistralConfig", {**_GATED, "sliding_window": None, "head_dim": 6}
    ),
    Case(
        "Mixtral", "experts, sliding window", "MixtralConfig", {**_GATED, "num_local_experts": 4, "sliding_window": 4}
    ),
    Case("Qwen2", "full attention", "Qwen2Config", _GATED),
    Case(
        "Qwen2",
        "sliding window in later layers",
        "Qwen2Config",
        {**_GATED, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    Case(
        "Qwen2-MoE",
        "experts, shared expert, one dense layer",
        "Qwen2MoeConfig",
        {
            **_GATED,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
        },
    ),
    Case("Qwen3", "query and key norms", "Qwen3Config", {**_GATED, "head_dim": 8, "attention_bias": True}),
    Case("Gemma", "gain 1 + w, scaled embedding", "GemmaConfig", {**_GATED, "head_dim": 8}),
    Case(
        "Gemma-2",
        "sandwich norms, soft caps, alternating window",
        "Gemma2Config",
        {
            **_GATED,
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 12,
            "final_logit_softcapping": 3.0,
            "attn_logit_softcapping": 5.0,
        },
        norms="sandwich",
    ),
    Case(
        "Gemma-3",
        "text, local and global rotary tables",
        "Gemma3TextConfig",
        {
            **_GATED,
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        norms="sandwich",
    ),
    Case(
        "Phi",
        "parallel, partial rotary, head bias",
        "PhiConfig",
        {**_COMMON, "intermediate_size": 40, **_PARTIAL},
        arrangement="parallel",
        centres=True,
    ),
    Case(
        "Phi",
        "query and key norms",
        "PhiConfig",
        {**_COMMON, "intermediate_size": 40, "qk_layernorm": True},
        arrangement="parallel",
        centres=True,
    ),
    Case("Phi-3", "fused projections, sliding window", "Phi3Config", {**_GATED, "sliding_window": 4}),
    Case("OPT", "norm before", "OPTConfig", {**_COMMON, "ffn_dim": 40}, centres=True),
    Case(
        "OPT",
        "norm after, projected embedding (350m)",
        "OPTConfig",
        {**_COMMON, "ffn_dim": 40, "do_layer_norm_before": False, "word_embed_proj_dim": 20},
        norms="stream",
    ),
    Case(
        "OPT",
        "norm before, no biases, plain norms (Galactica)",
        "OPTConfig",
        {**_COMMON, "ffn_dim": 40, "enable_bias": False, "layer_norm_elementwise_affine": False},
        centres=True,
    ),
    Case(
        "Falcon",
        "7B: multi-query, parallel, one norm",
        "FalconConfig",
        {**_COMMON, "multi_query": True, "parallel_attn": True, "bias": True},
        arrangement="parallel",
        centres=True,
    ),
    Case(
        "Falcon",
        "40B: grouped, parallel, two norms",
        "FalconConfig",
        {**_COMMON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        arrangement="parallel",
        centres=True,
    ),
    Case(
        "Falcon",
        "11B: grouped, parallel, one norm",
        "FalconConfig",
        {**_COMMON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        arrangement="parallel",
        centres=True,
    ),
    Case(
        "Falcon",
        "RW: every head its own keys, sequential, ALiBi",
        "FalconConfig",
        {**_COMMON, "multi_query": False, "parallel_attn": False, "alibi": True, "bias": True},
        centres=True,
    ),
    Case(
        "BLOOM",
        "residual added inside",
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": 3, "n_head": 4, "pad_token_id": 0},
        centres=True,
    ),
    Case(
        "BLOOM",
        "residual taken after the norm",
        "BloomConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": WIDTH,
            "n_layer": 3,
            "n_head": 4,
            "apply_residual_connection_post_layernorm": True,
        },
        centres=True,
    ),
    Case(
        "MPT",
        "ALiBi, residual added inside the MLP",
        "MptConfig",
        {"vocab_size": VOCABULARY, "d_model": WIDTH, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
        centres=True,
    ),
    Case(
        "MPT",
        "clipped projections, softmax scale",
        "MptConfig",
        {
            "vocab_size": VOCABULARY,
            "d_model": WIDTH,
            "n_layers": 3,
            "n_heads": 4,
            "max_seq_len": 64,
            "attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.4, "alibi_bias_max": 4},
        },
        centres=True,
    ),
    Case("OLMo", "norms without parameters, clipped", "OlmoConfig", {**_GATED, "clip_qkv": 0.5}, centres=True),
    Case("OLMo-2", "norms after, before the sum", "Olmo2Config", {**_GATED, "attention_bias": True}, norms="post"),
    Case(
        "Granite",
        "four multipliers",
        "GraniteConfig",
        {
            **_GATED,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.5,
            "residual_multiplier": 0.35,
            "attention_multiplier": 0.2,
            "mlp_bias": True,
        },
    ),
    Case(
        "Cohere",
        "parallel, logit scale",
        "CohereConfig",
        {**_GATED, "logit_scale": 0.3, "use_qk_norm": False},
        arrangement="parallel",
        centres=True,
    ),
    Case(
        "Cohere",
        "query and key norms",
        "CohereConfig",
        {**_GATED, "logit_scale": 0.3, "use_qk_norm": True, "attention_bias": True},
        arrangement="parallel",
        centres=True,
    ),
    Case(
        "StableLM", "sequential, biases", "StableLmConfig", {**_GATED, "use_qkv_bias": True, **_PARTIAL}, centres=True
    ),
    Case(
        "StableLM",
        "parallel, query and key norms",
        "StableLmConfig",
        {**_GATED, "use_parallel_residual": True, "qk_layernorm": True},
        arrangement="parallel",
        centres=True,
    ),
    Case("StarCoder2", "biases, sliding window", "Starcoder2Config", {**_GATED, "sliding_window": 4}, centres=True),
    Case(
        "SmolLM3",
        "layers without rotary positions",
        "SmolLM3Config",
        {**_GATED, "no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 4},
    ),
    Case("GLM-4", "sandwich norms", "Glm4Config", {**_GATED, "head_dim": 8, **_PARTIAL}, norms="sandwich"),
)

NEWCOMERS: tuple[Case, ...] = (
    Case("Arcee", "unlisted", "ArceeConfig", _GATED),
    Case("Helium", "unlisted", "HeliumConfig", {**_GATED, "head_dim": 8}),
    Case("OLMo-3", "unlisted", "Olmo3Config", {**_GATED, "sliding_window": 4}, norms="post"),
    Case("Exaone-4", "unlisted", "Exaone4Config", {**_GATED, "sliding_window": 4}, norms="post"),
    Case(
        "Cohere-2", "unlisted", "Cohere2Config", {**_GATED, "sliding_window": 4}, arrangement="parallel", centres=True
    ),
    Case(
        "Qwen3-MoE",
        "unlisted",
        "Qwen3MoeConfig",
        {**_GATED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    Case("Nemotron", "unlisted", "NemotronConfig", _GATED, centres=True),
    Case("GPT-BigCode", "unlisted", "GPTBigCodeConfig", _gpt_style(n_inner=40), centres=True),
    Case("CTRL", "unlisted, one tensor read three times", "CTRLConfig", _CTRL, centres=True),
    Case("GPT-1", "unlisted, norm after", "OpenAIGPTConfig", _GPT1, norms="stream"),
    Case("nanochat", "unlisted, normed embedding, soft cap", "NanoChatConfig", _GATED),
    Case(
        "GPT-OSS",
        "unlisted, experts, attention sinks",
        "GptOssConfig",
        {**_GATED, "num_local_experts": 4, "head_dim": 8},
    ),
    Case("Seed-OSS", "unlisted", "SeedOssConfig", {**_GATED, "head_dim": 8}),
)


def build(case: Case, seed: int = 0, **loading: Any) -> PreTrainedModel:
    """The tiny model of `case`: seeded, in evaluation mode, frozen; gains, biases and matrices away from neutral."""
    torch.manual_seed(seed)
    config = getattr(transformers, case.config)(**copy.deepcopy(dict(case.options)))
    model = AutoModelForCausalLM.from_config(config, **loading)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                values = noise * (1.2 / math.sqrt(parameter.shape[-1]))
            elif name.endswith("bias"):
                values = 0.2 * noise
            else:
                values = parameter + 0.3 * noise
            parameter.copy_(values)
    return model.eval().requires_grad_(False)


def tokens_and_mask(batch: int = 3, length: int = 11, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens [B,T] and a mask [B,T] whose last row is padded on the left by three."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (batch, length), generator=generator)
    mask = torch.ones_like(tokens)
    mask[-1, :3] = 0
    return tokens, mask
