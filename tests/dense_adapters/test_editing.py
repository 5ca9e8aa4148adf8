"""Edits of the running model: where they land, which positions they touch, and that they leave nothing behind."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dense_adapters import AttachError, DenseStack, LeftOut
from tests.dense_adapters.tiny_models import CASES, VOCABULARY, WIDTH, Case, build

_FAMILIES = (
    "GPT-2-plain",
    "Mistral-sliding",
    "Gemma-2",
    "Falcon-40B",
    "BLOOM-residual-taken",
    "OPT-norm-after",
    "Granite",
)
GENERATED = [next(case for case in CASES if case.id.startswith(start)) for start in _FAMILIES]
LLAMA = next(case for case in CASES if case.id.startswith("Llama-grouped"))
NEW = 6
some_families = pytest.mark.parametrize("case", GENERATED, ids=lambda case: case.id)
on_llama = pytest.mark.parametrize("case", [LLAMA], ids=lambda case: case.id)


def _prompts() -> tuple[Tensor, Tensor]:
    tokens = torch.randint(3, VOCABULARY, (2, 8), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    return tokens, mask


def _direction() -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(5)) * 2


def _shift(h: Tensor, x: Tensor) -> Tensor:
    return x + _direction() * torch.sigmoid(x.mean(-1, keepdim=True))


def _generate(model: Any, tokens: Tensor, mask: Tensor, sampled: bool = False, **options: Any) -> Tensor:
    torch.manual_seed(11)
    return model.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=sampled,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )


@some_families
@pytest.mark.parametrize("kind", ["read", "residual"])
@pytest.mark.parametrize("where", ["prompt", "generated", "both"])
def test_an_edited_generation_is_the_same_with_and_without_any_cache(
    case: Case, stack: DenseStack, kind: Any, where: Any
) -> None:
    tokens, mask = _prompts()
    sites = {1: _shift, len(stack.sublayers) - 1: _shift}
    runs = []
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        with stack.editing(sites, kind=kind, where=where):
            runs.append(_generate(stack.model, tokens, mask, **options))
    plain = _generate(stack.model, tokens, mask)
    for run in runs[1:]:
        assert torch.equal(run.sequences, runs[0].sequences)
        for found, wanted in zip(run.logits, runs[0].logits, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    moved = [(a - b).abs().max() > 1e-3 for a, b in zip(runs[0].logits, plain.logits, strict=True)]
    assert moved[0] == (where != "generated")
    assert any(moved)


@some_families
@pytest.mark.parametrize("where", ["prompt", "generated", "both"])
def test_an_edit_that_leaves_positions_out_generates_the_same_with_any_cache_and_each_row_as_alone(
    case: Case, stack: DenseStack, where: Any
) -> None:
    tokens, mask = _prompts()
    plain = _generate(stack.model, tokens, mask).sequences
    often = int(plain[0, -1])  # a token that is generated, so that leaving it out shows there too
    left_out = LeftOut((int(tokens[0, 4]), int(tokens[1, 6]), often), True)
    last = len(stack.sublayers) - 1

    def run(rows: slice, start: int, **options: Any) -> Any:
        with stack.editing({1: _shift, last: _shift}, "residual", where, left_out=left_out):
            return _generate(stack.model, tokens[rows, start:], mask[rows, start:], **options)

    whole = run(slice(None), 0)
    for other in (run(slice(None), 0, use_cache=False), run(slice(None), 0, cache_implementation="static")):
        assert torch.equal(other.sequences, whole.sequences)
        for found, wanted in zip(other.logits, whole.logits, strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    for row, start in ((0, 0), (1, 3)):
        assert torch.equal(run(slice(row, row + 1), start).sequences[0], whole.sequences[row, start:])


@on_llama
def test_positions_left_out_keep_their_stream_and_all_others_change(case: Case, stack: DenseStack) -> None:
    tokens, mask = _prompts()
    out = (int(tokens[0, 4]), int(tokens[1, 6]))
    with stack.recording([1]) as record:
        stack.model(tokens, attention_mask=mask)
    plain = record[1]
    for left_out in (LeftOut(out), LeftOut((), True), LeftOut(out, True)):
        with stack.editing({1: _shift}, "residual", left_out=left_out), stack.recording([1]) as record:
            stack.model(tokens, attention_mask=mask)
        kept = torch.isin(tokens, torch.tensor(left_out.tokens)) | ~mask.bool()
        if left_out.first:
            kept[0, 0] = kept[1, 3] = True
        assert torch.equal((record[1] == plain).all(-1), kept)
    with (
        pytest.raises(ValueError, match="needs input_ids"),
        stack.editing({1: _shift}, "residual", left_out=LeftOut(out)),
    ):
        stack.model(inputs_embeds=stack.model.get_input_embeddings()(tokens))


@on_llama
def test_sampling_under_an_edit_draws_the_same_tokens_with_and_without_cache(case: Case, stack: DenseStack) -> None:
    tokens, mask = _prompts()
    runs = []
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        with stack.editing({2: _shift}):
            runs.append(_generate(stack.model, tokens, mask, sampled=True, **options).sequences)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@some_families
@pytest.mark.parametrize("kind", ["read", "residual"])
def test_an_edited_forward_is_the_walk_with_the_edit_put_in(case: Case, stack: DenseStack, kind: Any) -> None:
    tokens, _ = _prompts()
    for site in range(stack.n_sites):
        with stack.editing({site: _shift}, kind=kind):
            found = stack.model(tokens).logits
        walk = stack.walk(tokens)
        h = walk.embedding()
        for i in range(len(stack.sublayers)):
            read = None
            if i == site and kind == "read":
                read = _shift(h, walk.read(i, h))
            elif i == site:
                h = _shift(h, h)
            h = walk.sublayer(i, h, read)
        if site == len(stack.sublayers) and kind == "residual":
            h = _shift(h, h)
        if site == len(stack.sublayers) and kind == "read":
            assert (found - walk.unembed(h)).abs().max() > 1e-3
            continue
        torch.testing.assert_close(found, walk.unembed(h), atol=1e-4, rtol=1e-4)


def test_a_read_edit_equals_a_hand_written_hook_on_the_reading_module() -> None:
    tokens, _ = _prompts()
    model, other = build(LLAMA), build(LLAMA)
    with DenseStack(model).editing({2: _shift}):
        found = model(tokens).logits
    layer = other.model.layers[1]

    def change(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "hidden_states": _shift(kwargs["hidden_states"], kwargs["hidden_states"])}

    layer.self_attn.register_forward_pre_hook(change, with_kwargs=True)
    torch.testing.assert_close(found, other(tokens).logits, atol=1e-6, rtol=1e-6)


def test_a_residual_edit_in_mid_layer_equals_the_layer_written_out_by_hand() -> None:
    tokens, _ = _prompts()
    model, other = build(LLAMA), build(LLAMA)
    with DenseStack(model).editing({3: _shift}, kind="residual"):
        found = model(tokens).logits

    def forward(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        h = hidden_states + self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)[0]
        h = _shift(h, h)
        return h + self.mlp(self.post_attention_layernorm(h))

    layer = other.model.layers[1]
    layer.__class__ = type("EditedLayer", (type(layer),), {"forward": forward})
    torch.testing.assert_close(found, other(tokens).logits, atol=1e-5, rtol=1e-5)


@on_llama
def test_edits_see_the_residual_and_the_read_and_never_change_padding(case: Case, stack: DenseStack) -> None:
    tokens, mask = _prompts()
    seen: list[tuple[Tensor, Tensor]] = []

    def wipe(h: Tensor, x: Tensor) -> Tensor:
        seen.append((h, x))
        return torch.zeros_like(x)

    with stack.editing({1: wipe}), stack.recording([1], kind="read") as reads:
        stack.model(tokens, attention_mask=mask)
    with stack.recording([1], kind="residual") as residuals:
        stack.model(tokens, attention_mask=mask)
    h, x = seen[0]
    torch.testing.assert_close(h, residuals[1])
    torch.testing.assert_close(x, stack.walk(tokens, mask).read(1, h))
    assert (reads[1][mask.bool()] == 0).all()
    assert torch.equal(reads[1][~mask.bool()], x[~mask.bool()])


@on_llama
def test_the_model_is_bit_identical_and_without_hooks_after_edits_and_after_an_exception(
    case: Case, stack: DenseStack
) -> None:
    model, before = build(case), build(case).state_dict()
    tokens, mask = _prompts()
    plain = model(tokens).logits
    fresh = DenseStack(model)
    modules = {name: id(module) for name, module in model.named_modules()}

    def explode(h: Tensor, x: Tensor) -> Tensor:
        raise ArithmeticError("inside an edit")

    with fresh.editing({0: _shift, 3: _shift}, kind="residual"), fresh.recording([0, 2]):
        model.generate(tokens, attention_mask=mask, max_new_tokens=2, pad_token_id=0)
    with pytest.raises(ArithmeticError), fresh.editing({1: explode}):
        model(tokens)
    assert {name: id(module) for name, module in model.named_modules()} == modules
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in vars(module)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(tokens).logits, plain)


@on_llama
def test_edits_of_a_walk_batch_do_not_reach_walks(case: Case, stack: DenseStack) -> None:
    tokens, _ = _prompts()
    walk = stack.walk(tokens)
    plain = walk.sublayer(0, walk.embedding())
    with stack.editing({0: _shift}):
        inside = stack.walk(tokens).sublayer(0, walk.embedding())
        stack.model(tokens)
    assert torch.equal(plain, inside)


@on_llama
def test_nested_edits_compose_and_an_edit_of_an_earlier_site_feeds_a_later_one(case: Case, stack: DenseStack) -> None:
    tokens, _ = _prompts()
    with stack.editing({2: _shift, 3: _shift}, kind="residual"):
        together = stack.model(tokens).logits
    with stack.editing({3: _shift}, kind="residual"), stack.editing({2: _shift}, kind="residual"):
        nested = stack.model(tokens).logits
    torch.testing.assert_close(together, nested, atol=1e-5, rtol=1e-5)


@on_llama
def test_an_edit_at_a_site_that_does_not_exist_is_an_error_naming_the_valid_ones(case: Case, stack: DenseStack) -> None:
    with pytest.raises(IndexError, match="sites 0 to 6"), stack.editing({7: _shift}):
        pass


@on_llama
def test_an_edit_that_never_fired_is_an_error(case: Case, stack: DenseStack) -> None:
    with pytest.raises(AttachError, match="touched no position"), stack.editing({1: _shift}):
        pass
    with pytest.raises(AttachError, match="generated"), stack.editing({1: _shift}, where="generated"):
        stack.model(_prompts()[0])


@on_llama
def test_wrong_shapes_kinds_and_places_are_refused(case: Case, stack: DenseStack) -> None:
    tokens, _ = _prompts()
    with pytest.raises(ValueError, match="returned"), stack.editing({1: lambda h, x: x[..., :3]}):
        stack.model(tokens)
    with pytest.raises(ValueError, match="kind"), stack.editing({1: _shift}, kind="write"):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="where"), stack.editing({1: _shift}, where="middle"):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="no edits"), stack.editing({}):
        pass
    with pytest.raises(AttachError, match="nothing was recorded"), stack.recording([0]):
        pass


@on_llama
def test_a_cache_filled_outside_needs_the_prompt_length(case: Case, stack: DenseStack) -> None:
    tokens, _ = _prompts()
    cache = stack.model(tokens[:, :4], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="prompt_length"), stack.editing({1: _shift}, where="prompt"):
        stack.model(tokens[:, 4:], past_key_values=cache)
    cache = stack.model(tokens[:, :4], use_cache=True).past_key_values
    with stack.editing({1: _shift}, where="prompt", prompt_length=6), stack.recording([1], kind="read") as reads:
        stack.model(tokens[:, 4:], past_key_values=cache)
    plain = stack.walk(tokens)
    h = plain.sublayer(0, plain.embedding())
    changed = (reads[1] - plain.read(1, h)[:, 4:]).abs().amax(-1) > 1e-4
    assert changed[:, :2].all()
    assert not changed[:, 2:].any()


@on_llama
def test_recordings_under_generation_hold_the_prompt_then_one_position_per_token(case: Case, stack: DenseStack) -> None:
    tokens, mask = _prompts()
    with stack.recording([0, stack.n_sites - 1]) as record:
        _generate(stack.model, tokens, mask)
    assert [value.shape[1] for value in record.forwards(0)] == [8, *[1] * (NEW - 1)]


@on_llama
def test_walks_are_differentiable_in_the_stream_and_leave_parameters_without_gradients(
    case: Case, stack: DenseStack
) -> None:
    tokens, mask = _prompts()
    walk = stack.walk(tokens, mask)
    h = walk.embedding().clone().requires_grad_(True)
    read = walk.read(0, h)
    out = walk.unembed(walk.sublayer(1, walk.sublayer(0, h, read * 1.1)))
    out.logsumexp(-1).sum().backward()
    assert h.grad is not None
    assert h.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in stack.model.parameters())


def test_a_block_with_two_norms_takes_both_reads_or_carries_the_change_over() -> None:
    case = next(c for c in CASES if c.id.startswith("Falcon-40B"))
    stack = DenseStack(build(case))
    walk = stack.walk(_prompts()[0])
    h = walk.embedding()
    model = build(case)
    layer = model.transformer.h[0]
    x_a, x_m = layer.ln_attn(h), layer.ln_mlp(h)
    assert torch.equal(walk.read(0, h), x_a)
    torch.testing.assert_close(walk.sublayer(0, h, (x_a, x_m)), walk.sublayer(0, h))
    moved = 0.3 * torch.roll((x_a - layer.ln_attn.bias) / layer.ln_attn.weight, 1, -1)
    both = (x_a + moved * layer.ln_attn.weight, x_m + moved * layer.ln_mlp.weight)
    torch.testing.assert_close(walk.sublayer(0, h, both[0]), walk.sublayer(0, h, both), atol=1e-4, rtol=1e-4)
