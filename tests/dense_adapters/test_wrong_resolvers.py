"""For each identity the probe checks, a deliberately wrong resolver, which must be caught, named and refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import dense_adapters.resolved as resolved
from dense_adapters import AttachError, BlockSpec, DenseStack
from dense_adapters.norms import NormSpec
from tests.dense_adapters.tiny_models import CASES, Case, build, tokens_and_mask

BY_ID = {case.id: case for case in CASES}
Spoil = Callable[[BlockSpec], BlockSpec]


def _case(start: str) -> Case:
    return next(case for name, case in BY_ID.items() if name.startswith(start))


def _attention(**changes: Any) -> Spoil:
    return lambda spec: replace(spec, attention=replace(spec.attention, **changes))  # type: ignore[type-var]


def _mlp(**changes: Any) -> Spoil:
    return lambda spec: replace(spec, mlp=replace(spec.mlp, **changes))  # type: ignore[type-var]


def _spoilt(monkeypatch: pytest.MonkeyPatch, case: Case, spoil: Spoil, layer: int = 1) -> DenseStack:
    """A stack whose resolver lies about one layer."""
    honest = resolved.resolve_layer

    def resolve(index: int, *rest: Any) -> BlockSpec:
        spec = honest(index, *rest)
        return spoil(spec) if index == layer else spec

    monkeypatch.setattr(resolved, "resolve_layer", resolve)
    return DenseStack(build(case))


LIES = [
    ("residual multiplier dropped", "Granite", _attention(scale=1.0), "attention of layer 1", "residual"),
    ("residual multiplier slightly off", "Granite", _mlp(scale=0.351), "mlp of layer 1", "residual"),
    ("sandwich norm dropped", "Gemma-2", _attention(contribution_norm=None), "attention of layer 1", "residual"),
    ("contribution norm taken for a read norm", "OLMo-2", _attention(read_norm="post_attention_layernorm"), "", "read"),
    (
        "norms exchanged",
        "Llama-grouped",
        _attention(read_norm="post_attention_layernorm"),
        "attention of layer 1",
        "read",
    ),
    ("stream norm dropped", "OPT-norm-after", _mlp(stream_norm=None), "mlp of layer 1", "residual"),
    ("pre-norm forgotten", "OPT-norm-before", _mlp(read_norm=None), "mlp of layer 1", "residual"),
    ("inner residual added twice", "BLOOM-residual-added", _attention(adds_residual=False), "", "residual"),
    ("inner residual of MPT added twice", "MPT-ALiBi", _mlp(adds_residual=False), "mlp of layer 1", "residual"),
    ("normed skip taken for plain", "BLOOM-residual-taken", _attention(adds_residual=False), "", "residual"),
    (
        "sequential taken for parallel",
        "Llama-grouped",
        lambda s: replace(s, arrangement="parallel"),
        "block",
        "read",
    ),
    (
        "parallel taken for sequential",
        "GPT-NeoX-parallel",
        lambda s: replace(s, arrangement="sequential"),
        "",
        "residual",
    ),
]


@pytest.mark.parametrize(("lie", "family", "spoil", "where", "check"), LIES, ids=[lie[0] for lie in LIES])
def test_a_wrong_role_is_caught_at_its_layer_and_the_rest_stays_usable(
    monkeypatch: pytest.MonkeyPatch, lie: str, family: str, spoil: Spoil, where: str, check: str
) -> None:
    stack = _spoilt(monkeypatch, _case(family), spoil)
    layers = {stack.sublayers[r.site].layer for r in stack.report.refused if r.site < len(stack.sublayers)}
    assert layers == {1}, f"{lie}: {[str(r) for r in stack.report.refused]}"
    assert any(r.check == check and where in r.sublayer and r.error > r.tolerance for r in stack.report.refused)
    tokens, _ = tokens_and_mask()
    walk = stack.walk(tokens)
    h = walk.embedding()
    first = [site for site, sublayer in enumerate(stack.sublayers) if sublayer.layer == 0]
    for site in first:
        h = walk.sublayer(site, h)
    bad = next(r for r in stack.report.refused if r.step in ("sublayer", "read"))
    with pytest.raises(AttachError, match="layer 1"):
        walk.sublayer(bad.site, h) if bad.step == "sublayer" else walk.read(bad.site, h)


def test_a_gain_read_as_w_where_the_model_means_one_plus_w_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = resolved.describe_norm

    def describe(*given: Any) -> NormSpec | None:
        spec = honest(*given)
        return None if spec is None else replace(spec, gain=spec.gain - 1.0)

    monkeypatch.setattr(resolved, "describe_norm", describe)
    stack = DenseStack(build(_case("Gemma-gain")))
    assert {r.check for r in stack.report.refused} == {"norm"}
    assert len({r.site for r in stack.report.refused}) == stack.n_sites


def test_a_layernorm_described_as_an_rmsnorm_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = resolved.describe_norm

    def describe(*given: Any) -> NormSpec | None:
        spec = honest(*given)
        return None if spec is None else replace(spec, centres=False)

    monkeypatch.setattr(resolved, "describe_norm", describe)
    assert "norm" in {r.check for r in DenseStack(build(_case("GPT-2-plain"))).report.refused}


@pytest.mark.parametrize(("family", "factor"), [("Cohere-parallel", 1 / 0.3), ("Granite", 2.5)])
def test_a_dropped_logit_scale_refuses_the_head_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, family: str, factor: float
) -> None:
    from dense_adapters.skeleton import Skeleton

    honest = Skeleton.logits
    monkeypatch.setattr(Skeleton, "logits", lambda self, hidden: honest(self, hidden) * factor)
    stack = DenseStack(build(_case(family)))
    assert {(r.step, r.check) for r in stack.report.refused} == {("unembed", "logits")}
    walk = stack.walk(tokens_and_mask()[0])
    walk.sublayer(0, walk.embedding())
    with pytest.raises(AttachError, match="final norm and head"):
        walk.unembed(walk.embedding())


def test_an_embedding_without_its_multiplier_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from dense_adapters.walk import Walk

    honest = Walk.embedding
    monkeypatch.setattr(Walk, "embedding", lambda self: honest(self) / 3.0)
    stack = DenseStack(build(_case("Granite")))
    assert "entry" in {r.check for r in stack.report.refused}


def test_a_read_edit_that_leaks_into_the_skip_path_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import dense_adapters.editing as editing_module
    from dense_adapters.live_sites import change_residual

    monkeypatch.setattr(editing_module, "change_read", change_residual)
    stack = DenseStack(build(_case("Llama-grouped")))
    assert {r.check for r in stack.report.refused} == {"read edit"}
    with pytest.raises(AttachError, match="read edit"), stack.editing({0: lambda h, x: x}):
        pass


def test_a_residual_edit_that_misses_the_skip_path_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import dense_adapters.editing as editing_module
    from dense_adapters.live_sites import change_read

    monkeypatch.setattr(editing_module, "change_residual", change_read)
    stack = DenseStack(build(_case("Llama-grouped")))
    assert {r.check for r in stack.report.refused} == {"residual edit"}


def test_an_edit_that_lands_one_layer_late_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    import dense_adapters.editing as editing_module

    honest = editing_module.change_read
    monkeypatch.setattr(
        editing_module,
        "change_read",
        lambda stack, site, *rest: honest(stack, (site + 2) % len(stack.sublayers), *rest),
    )
    stack = DenseStack(build(_case("Llama-grouped")))
    assert {r.check for r in stack.report.refused} == {"read edit"}
    assert len(stack.report.refused) == len(stack.sublayers)


def test_a_layer_whose_sum_has_no_known_form_is_refused_by_name_and_the_rest_stays_usable() -> None:
    model = build(_case("Llama-grouped"))
    odd = model.model.layers[1]

    class OddLayer(type(odd)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return torch.sin(super().forward(*args, **kwargs))

    odd.__class__ = OddLayer
    stack = DenseStack(model)
    assert stack.blocks[1].arrangement == "opaque"
    site = next(i for i, s in enumerate(stack.sublayers) if s.layer == 1)
    refused = [r for r in stack.report.refused if r.site == site]
    assert {r.step for r in refused} == {"read", "read edit"}
    assert "OddLayer" in str(refused[0])
    assert {r.site for r in stack.report.refused} == {site}
    tokens, _ = tokens_and_mask()
    walk = stack.walk(tokens)
    h = walk.embedding()
    for i in range(len(stack.sublayers)):
        h = walk.sublayer(i, h)
    torch.testing.assert_close(walk.unembed(h), model(tokens).logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(AttachError, match="OddLayer"):
        stack.norm_gain(site)
