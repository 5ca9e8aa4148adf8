"""What loads, what is refused, and that every refusal is one line that says what, why and what to do."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from dense_adapters import AttachError, DenseStack, RemoveDirection, bake, load_dense, undo_bake
from tests.dense_adapters.tiny_models import CASES, WIDTH, build, tokens_and_mask

GPT2 = CASES[0]
LLAMA = next(case for case in CASES if case.id.startswith("Llama-grouped"))


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]").save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(LLAMA).save_pretrained(tmp_path / "model", max_shard_size="20KB")
    _save_tokenizer(tmp_path / "model")
    return tmp_path / "model"


def test_a_sharded_folder_loads_frozen_in_float32_and_evaluation_mode(folder: Path) -> None:
    assert len(list(folder.glob("*.safetensors"))) > 1
    model, tokenizer = load_dense(folder)
    assert tokenizer("a b")["input_ids"] == [0, 1]
    assert not model.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in model.parameters())
    assert DenseStack(model).fingerprint == DenseStack(build(LLAMA)).fingerprint


@pytest.mark.filterwarnings("ignore")
def test_a_model_spread_by_a_device_map_passes_the_probe(folder: Path) -> None:
    model, _ = load_dense(folder, device_map={"": "cpu"})
    assert DenseStack(model).report.ok


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["cpu", "disk"])
def test_an_offloaded_model_passes_the_probe_and_has_the_same_fingerprint(tmp_path: Path, kind: str) -> None:
    from accelerate import cpu_offload, disk_offload

    model = build(LLAMA)
    plain = model(tokens_and_mask()[0]).logits
    if kind == "cpu":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        disk_offload(model, str(tmp_path / "offload"), execution_device=torch.device("cpu"))
    assert any(p.device.type == "meta" for p in model.parameters())
    stack = DenseStack(model)
    assert stack.report.ok, [str(r) for r in stack.report.refused]
    assert stack.fingerprint == DenseStack(build(LLAMA)).fingerprint
    torch.testing.assert_close(stack.norm_gain(1), build(LLAMA).model.layers[0].post_attention_layernorm.weight)
    with stack.editing({1: lambda h, x: x * 0.5}):
        edited = model(tokens_and_mask()[0]).logits
    assert (edited - plain).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_passes_under_its_own_tolerance(folder: Path, dtype: str) -> None:
    model, _ = load_dense(folder, dtype=dtype)
    report = DenseStack(model).report
    assert report.ok, [str(r) for r in report.refused]
    assert report.tolerance > 1e-3


REFUSED = [
    ("encoder–decoder", "T5Config", {"d_model": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16}),
    ("encoder–decoder", "BartConfig", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}),
    ("no causal language model", "ViTConfig", {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}),
    ("no causal language model", "DistilBertConfig", {"dim": 16, "n_layers": 1, "n_heads": 2}),
    ("state-space", "MambaConfig", {"hidden_size": 16, "num_hidden_layers": 1}),
    ("state-space", "Mamba2Config", {"hidden_size": 16, "num_hidden_layers": 1, "num_heads": 4, "head_dim": 8}),
    ("state-space", "RwkvConfig", {"hidden_size": 16, "num_hidden_layers": 1}),
]


@pytest.mark.parametrize(("reason", "config", "options"), REFUSED, ids=[row[1] for row in REFUSED])
def test_other_kinds_of_model_are_refused_in_one_line(
    tmp_path: Path, reason: str, config: str, options: dict[str, Any]
) -> None:
    getattr(transformers, config)(**options).save_pretrained(tmp_path)
    with pytest.raises(AttachError, match=reason) as refusal:
        load_dense(tmp_path)
    assert "\n" not in str(refusal.value)


def test_an_encoder_saved_as_such_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    config = transformers.BertConfig(architectures=["BertForMaskedLM"], hidden_size=16, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    with pytest.raises(AttachError, match="no causal language model"):
        load_dense(tmp_path)


def test_the_text_part_of_a_larger_model_is_refused_with_the_class_that_loads_it_and_that_one_attaches(
    tmp_path: Path,
) -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40}
    config = transformers.Emu3Config().text_config.__class__(
        vocab_size=61, hidden_size=WIDTH, pad_token_id=0, bos_token_id=0, eos_token_id=0, **shape
    )
    torch.manual_seed(0)
    transformers.Emu3ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(
        AttachError, match=r"is the text part of a larger model.*Emu3ForCausalLM.from_pretrained"
    ) as refusal:
        load_dense(tmp_path)
    assert "encoder" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert DenseStack(transformers.Emu3ForCausalLM.from_pretrained(tmp_path).eval().requires_grad_(False)).report.ok


def _bert(**options: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=61, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, **options
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_bidirectional_encoder_under_a_causal_head_is_refused() -> None:
    with pytest.raises(AttachError, match=r"takes no input_ids|later tokens"):
        DenseStack(_bert())


def test_a_decoder_shaped_encoder_is_refused_by_measurement() -> None:
    case = next(case for case in CASES if case.family == "Gemma-3")
    options = {**case.options, "use_bidirectional_attention": True}
    with pytest.raises(AttachError, match="later tokens"):
        DenseStack(build(replace(case, options=options)))


def test_a_state_space_model_in_memory_is_refused_naming_its_mixer() -> None:
    config = transformers.MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=2, state_size=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(AttachError, match=r"no (layer|attention)|state-space") as refusal:
        DenseStack(model)
    assert "\n" not in str(refusal.value)


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(AttachError, match=r"model\.eval"):
        DenseStack(build(GPT2).train())


def test_missing_models_missing_tokenizers_and_unknown_dtypes_are_one_line_each(tmp_path: Path) -> None:
    build(GPT2).save_pretrained(tmp_path / "bare")
    for call, reason in (
        (lambda: load_dense(tmp_path / "nowhere"), "no such folder"),
        (lambda: load_dense(tmp_path / "bare"), "tokenizer"),
        (lambda: load_dense(tmp_path / "bare", dtype="int3"), "dtype"),
    ):
        with pytest.raises(AttachError, match=reason) as refusal:
            call()
        assert "\n" not in str(refusal.value)


class SmolLM2(NamedTuple):
    """The real model, and what it took to load and probe it."""

    model: Any
    tokenizer: Any
    stack: DenseStack
    seconds: float
    """of processor time, not by the clock on the wall, which counts other programs too"""


@pytest.fixture(scope="module")
def smollm2(smollm2_folder: Path) -> SmolLM2:
    """Loaded once; tests leave it as it is."""
    started = time.process_time()
    model, tokenizer = load_dense(smollm2_folder)
    stack = DenseStack(model)
    return SmolLM2(model, tokenizer, stack, time.process_time() - started)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_smollm2_from_its_gguf_file_passes_all_thirty_layers_within_a_minute_of_one_core(smollm2: SmolLM2) -> None:
    model, tokenizer, stack, seconds = smollm2
    assert stack.n_layers == 30
    assert stack.report.ok, [str(r) for r in stack.report.refused]
    assert seconds < 60
    tokens = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    walk = stack.walk(tokens)
    h = walk.embedding()
    for site in range(len(stack.sublayers)):
        h = walk.sublayer(site, h)
    torch.testing.assert_close(walk.unembed(h), model(tokens).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_smollm2_bakes_and_its_baked_folder_equals_the_hook(smollm2: SmolLM2, tmp_path: Path) -> None:
    model, tokenizer, stack, _ = smollm2
    edit = RemoveDirection(20, torch.randn(stack.d_model, generator=torch.Generator().manual_seed(0)))
    bake(stack, (edit,), tmp_path / "baked", tokenizer)
    baked, again = load_dense(tmp_path / "baked")
    tokens = again("def f(x):\n    return", return_tensors="pt")["input_ids"]
    with stack.editing({20: edit.as_hook()}):
        hooked = model(tokens).logits
    torch.testing.assert_close(baked(tokens).logits, hooked, atol=1e-4, rtol=1e-4)
    assert undo_bake(tmp_path / "baked", tmp_path / "restored") == stack.fingerprint
