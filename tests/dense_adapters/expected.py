"""What an expert reading each family's paper expects, computed without the package under test.

A second copy of the model is built from the same seed and run once with plain hooks on modules named here by hand.
Norms are recomputed from their formulas. Nothing here imports dense_adapters.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.dense_adapters.tiny_models import Case, build


@dataclass(frozen=True)
class Names:
    """Where things are in one family. mid: the module whose input is the residual between attention and MLP, if any."""

    layers: str
    attention: str
    mlp: str
    mid: str | None
    attention_norm: str | None
    final_norm: str | None


_LLAMA = Names("model.layers", "self_attn", "mlp", "post_attention_layernorm", "input_layernorm", "model.norm")
_GPT2 = Names("transformer.h", "attn", "mlp", "ln_2", "ln_1", "transformer.ln_f")
_PARALLEL = Names("model.layers", "self_attn", "mlp", None, "input_layernorm", "model.norm")
_GEMMA = Names("model.layers", "self_attn", "mlp", "pre_feedforward_layernorm", "input_layernorm", "model.norm")
_NEOX = Names(
    "gpt_neox.layers", "attention", "mlp", "post_attention_layernorm", "input_layernorm", "gpt_neox.final_layer_norm"
)
_OPT = Names(
    "model.decoder.layers",
    "self_attn",
    "fc1",
    "final_layer_norm",
    "self_attn_layer_norm",
    "model.decoder.final_layer_norm",
)
_BLOOM = Names(
    "transformer.h", "self_attention", "mlp", "post_attention_layernorm", "input_layernorm", "transformer.ln_f"
)

_BY_CONFIG = {
    "GPT2Config": _GPT2,
    "GPTNeoConfig": _GPT2,
    "GPTBigCodeConfig": _GPT2,
    "GPTJConfig": Names("transformer.h", "attn", "mlp", None, "ln_1", "transformer.ln_f"),
    "GPTNeoXConfig": _NEOX,
    "Gemma2Config": _GEMMA,
    "Gemma3TextConfig": _GEMMA,
    "PhiConfig": Names("model.layers", "self_attn", "mlp", None, "input_layernorm", "model.final_layernorm"),
    "OPTConfig": _OPT,
    "FalconConfig": _BLOOM,
    "BloomConfig": _BLOOM,
    "MptConfig": Names("transformer.blocks", "attn", "ffn", "norm_2", "norm_1", "transformer.norm_f"),
    "Olmo2Config": Names("model.layers", "self_attn", "mlp", "mlp", None, "model.norm"),
    "Olmo3Config": Names("model.layers", "self_attn", "mlp", "mlp", None, "model.norm"),
    "Exaone4Config": Names("model.layers", "self_attn", "mlp", "mlp", None, "model.norm"),
    "CTRLConfig": Names(
        "transformer.h", "multi_head_attention", "ffn", "layernorm2", "layernorm1", "transformer.layernorm"
    ),
    "OpenAIGPTConfig": Names("transformer.h", "attn", "mlp", "mlp", None, None),
    "CohereConfig": _PARALLEL,
    "Cohere2Config": _PARALLEL,
    "GemmaConfig": _LLAMA,
}


def names_of(case: Case) -> Names:
    """The hand-written names for a case, adjusted where a switch of the configuration moves a norm."""
    names = _BY_CONFIG.get(case.config, _LLAMA)
    options = dict(case.options)
    changes: dict[str, Any] = {}
    if case.arrangement == "parallel":
        changes["mid"] = None
    if (
        case.config == "FalconConfig"
        and options.get("new_decoder_architecture")
        and "num_ln_in_parallel_attn" not in options
    ):
        changes["attention_norm"] = "ln_attn"
    if case.norms == "stream" and case.config == "OPTConfig":
        changes |= {"mid": "fc1", "attention_norm": None, "final_norm": None}
    if case.config == "StableLmConfig" or case.config == "Starcoder2Config":
        changes["final_norm"] = "model.norm"
    return Names(**{**names.__dict__, **changes})


@dataclass(frozen=True)
class Observed:
    """One unhooked-by-us forward of the second copy: per layer what entered and left, and the reads."""

    logits: Tensor
    residuals: list[Tensor]
    attention_reads: list[Tensor]
    mlp_reads: list[Tensor]
    final_read: Tensor | None


def own_inputs(model: PreTrainedModel, tokens: Tensor, mask: Tensor | None) -> dict[str, Any]:
    """Inputs as `generate` gives them: positions counted from the first token of each row."""
    inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if mask is not None:
        inputs["attention_mask"] = mask
        if "position_ids" in inspect.signature(model.forward).parameters:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    return inputs


@torch.no_grad()
def observe(case: Case, tokens: Tensor, mask: Tensor | None) -> Observed:
    """Run an independently built copy of the case's model and note its residuals and reads. Sites in stack order."""
    model = build(case)
    names = names_of(case)
    shape = (*tokens.shape, -1)
    logits = model(**own_inputs(model, tokens, mask)).logits
    seen: dict[tuple[int, str], Tensor] = {}

    def note(layer: int, role: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            value = args[0] if args else kwargs["hidden_states"]
            seen[layer, role] = value.detach().clone().reshape(shape)

        return hook

    layers = list(model.get_submodule(names.layers))
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(note(index, "in"), with_kwargs=True)
        for role in ("attention", "mlp", "mid"):
            name = getattr(names, role)
            if name is not None:
                layer.get_submodule(name).register_forward_pre_hook(note(index, role), with_kwargs=True)

    def note_last(module: nn.Module, args: Any, output: Any) -> None:
        seen[-1, "out"] = (output if isinstance(output, Tensor) else output[0]).detach().clone()

    layers[-1].register_forward_hook(note_last)
    if names.final_norm is not None:
        model.get_submodule(names.final_norm).register_forward_hook(
            lambda module, args, output: seen.update({(-1, "final"): output.detach().clone()})
        )
    again = model(**own_inputs(model, tokens, mask)).logits
    assert torch.equal(again, logits), "noting must not change the model"
    residuals = []
    for index in range(len(layers)):
        residuals.append(seen[index, "in"])
        if names.mid is not None:
            residuals.append(seen[index, "mid"])
    return Observed(
        logits,
        [*residuals, seen[-1, "out"]],
        [seen[index, "attention"] for index in range(len(layers))],
        [seen[index, "mlp"] for index in range(len(layers))],
        seen.get((-1, "final")),
    )


def first_norm(case: Case) -> tuple[Tensor, bool]:
    """Gain [D] and centring of the norm in front of the first attention, from the parameters and the paper's
    formula.
    """
    model = build(case)
    names = names_of(case)
    ones = torch.ones(model.get_input_embeddings().weight.shape[-1])
    if names.attention_norm is None:
        hidden = getattr(model.config, "hidden_size", ones.numel())
        return torch.ones(hidden), False
    norm = model.get_submodule(names.layers)[0].get_submodule(names.attention_norm)
    weight = getattr(norm, "weight", None)
    gain = ones if weight is None else weight
    if case.config in ("GemmaConfig", "Gemma2Config", "Gemma3TextConfig", "NemotronConfig"):
        gain = 1.0 + gain
    return gain, case.centres
