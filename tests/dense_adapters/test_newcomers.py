"""An architecture nobody listed passes by structure and probe alone, or is refused by name with what failed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, RecurrentGemmaConfig

from dense_adapters import AttachError, DenseStack, load_stack
from tests.dense_adapters.folders import save_model
from tests.dense_adapters.tiny_models import _GATED, NEWCOMERS, VOCABULARY, WIDTH, Case, build, tokens_and_mask


class NovelConfig(PreTrainedConfig):
    """A model type that transformers has never heard of."""

    model_type = "novel"


class RootNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(1 + 0.3 * torch.randn(WIDTH))
        self.weight = self.g

    def forward(self, x: Tensor) -> Tensor:
        return self.g * x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()


class CoreAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, stream: Tensor, *, bias: Tensor) -> Tensor:
        q, k, v = self.qkv(stream).chunk(3, -1)
        return self.o(torch.softmax(q @ k.transpose(-1, -2) / WIDTH**0.5 + bias, -1) @ v)


class Stage(nn.Module):
    """One layer with names nobody uses; `learned` puts a trained factor on every channel of its contributions."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.before, self.between = RootNorm(), RootNorm()
        self.core = CoreAttention()
        self.gate = nn.Sequential(nn.Linear(WIDTH, 40), nn.GELU(), nn.Linear(40, WIDTH))
        self.factor = nn.Parameter(torch.rand(WIDTH)) if learned else None

    def forward(self, h: Tensor, bias: Tensor) -> tuple[Tensor, None]:
        factor = 1.0 if self.factor is None else self.factor
        h = h + factor * self.core(self.before(h), bias=bias)
        return h + factor * self.gate(self.between(h)), None


class Body(nn.Module):
    def __init__(self, config: NovelConfig, learned: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.stages = nn.ModuleList(Stage(learned and i == 1) for i in range(config.num_hidden_layers))
        self.close = RootNorm()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        length = input_ids.shape[1]
        bias = torch.full((length, length), -1e4).triu(1)[None]
        if attention_mask is not None:
            bias = bias + (attention_mask[:, None, :] == 0) * -1e4
        h = self.table(input_ids) * 2.0
        for stage in self.stages:
            h = stage(h, bias)[0]
        return SimpleNamespace(last_hidden_state=self.close(h))


class NovelForCausalLM(PreTrainedModel):
    config_class = NovelConfig

    def __init__(self, config: NovelConfig, learned: bool = False) -> None:
        super().__init__(config)
        self.body = Body(config, learned)
        self.out = nn.Linear(WIDTH, VOCABULARY)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        return None

    def get_input_embeddings(self) -> nn.Module:
        return self.body.table

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool = False,
        inputs_embeds: Tensor | None = None,
    ) -> Any:
        hidden = self.body(input_ids, attention_mask=attention_mask).last_hidden_state
        return SimpleNamespace(logits=5 * torch.tanh(self.out(hidden) / 5))


def _novel(learned: bool = False) -> NovelForCausalLM:
    torch.manual_seed(0)
    config = NovelConfig(num_hidden_layers=3, vocab_size=VOCABULARY)
    return NovelForCausalLM(config, learned).eval().requires_grad_(False)


def test_a_model_type_unknown_to_transformers_passes_by_its_structure() -> None:
    model = _novel()
    stack = DenseStack(model)
    assert stack.report.ok, [str(r) for r in stack.report.refused]
    tokens, mask = tokens_and_mask()
    walk = stack.walk(tokens, mask)
    h = walk.embedding()
    for site in range(len(stack.sublayers)):
        h = walk.sublayer(site, h)
    wanted = model(tokens, mask).logits
    torch.testing.assert_close(walk.unembed(h)[mask.bool()], wanted[mask.bool()], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stack.norm_gain(1), model.body.stages[0].between.g)


def test_a_layer_with_trained_factors_is_refused_by_name_with_what_failed() -> None:
    stack = DenseStack(_novel(learned=True))
    assert not stack.report.ok
    assert {stack.sublayers[r.site].layer for r in stack.report.refused} == {1}
    assert "Stage the residual after its attention" in str(stack.report.refused[0])


def test_a_recurrent_layer_among_attention_layers_is_refused_by_name_and_walked_through() -> None:
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        lru_width=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        attention_window_size=4,
    )
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    stack = DenseStack(model)
    assert "RecurrentGemmaRecurrentBlock" in str(stack.report.refused[0])
    assert [s.kind for s in stack.sublayers] == ["block", "block", "attention", "mlp"]
    tokens, _ = tokens_and_mask()
    walk = stack.walk(tokens)
    h = walk.embedding()
    for site in range(len(stack.sublayers)):
        h = walk.sublayer(site, h)
    torch.testing.assert_close(walk.unembed(h), model(tokens, use_cache=False).logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(AttachError, match="refused for `read`"):
        walk.read(0, walk.embedding())


WISHED = (
    Case(
        "Gemma-4", "text, no per-layer inputs", "Gemma4TextConfig",
        {**_GATED, "head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
         "vocab_size_per_layer_input": VOCABULARY, "sliding_window": 4,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    Case(
        "MiniCPM3", "depth scale", "MiniCPM3Config",
        {**_GATED, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8,
         "qk_rope_head_dim": 8, "v_head_dim": 8, "scale_emb": 3, "scale_depth": 1.4, "dim_model_base": 16},
    ),
    Case(
        "MiniMax", "linear and full attention", "MiniMaxConfig",
        {**_GATED, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "block_size": 8,
         "layer_types": ["linear_attention", "full_attention", "full_attention"]},
    ),
    Case("MiniMax-M2", "experts", "MiniMaxM2Config", {**_GATED, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}),
    Case(
        "Qwen3-Next", "linear and full attention, experts", "Qwen3NextConfig",
        {**_GATED, "head_dim": 8, "layer_types": ["linear_attention", "full_attention", "full_attention"],
         "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
         "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
)  # fmt: skip
HYBRIDS = (
    Case(
        "Granite-4", "one recurrent layer of three", "GraniteMoeHybridConfig",
        {**_GATED, "layer_types": ["mamba", "attention", "attention"], "mamba_n_heads": 4, "mamba_d_state": 8,
         "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_expand": 2, "num_local_experts": 0, "num_experts_per_tok": 0,
         "shared_intermediate_size": 40, "residual_multiplier": 0.5},
    ),
    Case(
        "Bamba", "two recurrent layers of three", "BambaConfig",
        {**_GATED, "attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1},
    ),
    Case(
        "Jamba", "two recurrent layers of three", "JambaConfig",
        {**_GATED, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "num_experts_per_tok": 1,
         "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4},
    ),
    Case(
        "LFM2", "two convolutions of three", "Lfm2Config",
        {**_GATED, "layer_types": ["conv", "full_attention", "conv"], "block_ff_dim": 40, "block_multiple_of": 8},
    ),
)  # fmt: skip
OUT_OF_REACH = (
    (Case("Doge", "learned vectors on the skip path", "DogeConfig", _GATED), "plus a scaled contribution"),
    (
        Case(
            "Falcon-H1", "recurrence beside attention", "FalconH1Config",
            {**_GATED, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1,
             "head_dim": 8},
        ),
        "runs `mamba` before its attention",
    ),
    (
        Case(
            "Nemotron-H", "one mixer a layer", "NemotronHConfig",
            {**_GATED, "hybrid_override_pattern": "M*-", "head_dim": 8, "mamba_num_heads": 4, "mamba_head_dim": 16,
             "ssm_state_size": 8, "n_groups": 1, "expand": 2},
        ),
        "has no attention modules",
    ),
)  # fmt: skip


def _walked(stack: DenseStack, tokens: Tensor) -> Tensor:
    walk = stack.walk(tokens)
    h = walk.embedding()
    for site in range(len(stack.sublayers)):
        h = walk.sublayer(site, h)
    return walk.unembed(h)


@pytest.mark.parametrize("case", WISHED, ids=lambda case: case.id)
def test_a_family_asked_for_passes_at_every_site_and_walks_as_a_second_model_of_it_runs(case: Case) -> None:
    stack = DenseStack(build(case))
    assert stack.report.ok, [str(refusal) for refusal in stack.report.refused]
    assert [sublayer.kind for sublayer in stack.sublayers] == ["attention", "mlp"] * 3
    tokens, _ = tokens_and_mask()
    wanted = build(case)(tokens, use_cache=False).logits
    torch.testing.assert_close(_walked(stack, tokens), wanted, atol=1e-4, rtol=1e-4)
    if case.family == "MiniCPM3":
        assert stack.blocks[0].attention.scale == pytest.approx(1.4 / 3**0.5)


@pytest.mark.parametrize("case", HYBRIDS, ids=lambda case: case.id)
def test_a_hybrids_attention_layers_are_usable_and_the_others_are_run_whole(case: Case) -> None:
    stack = DenseStack(build(case))
    opaque = {site for site, sublayer in enumerate(stack.sublayers) if sublayer.kind == "block"}
    assert {(r.site, r.step) for r in stack.report.refused} == {
        (s, step) for s in opaque for step in ("read", "read edit")
    }
    assert 0 < len(opaque) < len(stack.sublayers)
    tokens, _ = tokens_and_mask()
    torch.testing.assert_close(
        _walked(stack, tokens), build(case)(tokens, use_cache=False).logits, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("case", "reason"), OUT_OF_REACH, ids=lambda part: getattr(part, "id", ""))
def test_a_family_out_of_reach_is_refused_with_its_reason(case: Case, reason: str) -> None:
    with pytest.raises(AttachError, match=reason) as refusal:
        DenseStack(build(case))
    assert "\n" not in str(refusal.value)


def test_a_hybrid_loads_for_bridges_with_a_word_on_what_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_model(tmp_path, HYBRIDS[0])
    stack, _ = load_stack(str(tmp_path))
    assert "layers 0 are run whole" in caplog.text
    with pytest.raises(AttachError, match="refused for `read`"):
        stack.walk(tokens_and_mask()[0]).read(0, torch.zeros(2, 9, WIDTH))


@pytest.mark.parametrize("case", NEWCOMERS, ids=lambda case: case.id)
def test_an_unlisted_family_has_its_report_as_json(case: Case, stack: DenseStack) -> None:
    import json

    report = json.loads(stack.report.to_json())
    needed = {
        "ok",
        "architecture",
        "n_layers",
        "max_logit_error",
        "max_residual_error",
        "max_read_error",
        "refused",
        "seconds",
    }
    assert needed <= set(report)
    assert report["ok"] is True
    assert report["refused"] == []
