"""What a causal language model's layers do to its residual stream, read off one traced forward pass.

A `ResolvedStack` is the record beneath a `DenseStack`: a `BlockSpec` per layer, its modules, every norm. What walks, probes,
records or edits the model works on the record; `DenseStack` puts them together.
"""

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dense_adapters.anatomy import Anatomy, find_anatomy
from dense_adapters.block_spec import BlockSpec, Sublayer
from dense_adapters.contribution import Contribution, Read
from dense_adapters.errors import AttachError
from dense_adapters.fingerprint import fingerprint
from dense_adapters.norms import NormSpec, describe_norm, is_norm
from dense_adapters.probe_batch import TOLERANCE, first_line, probe_batch, require_causal
from dense_adapters.probe_report import ProbeReport
from dense_adapters.resolve import resolve_layer
from dense_adapters.skeleton import build_skeleton, model_inputs
from dense_adapters.streams import measure_batch_units
from dense_adapters.trace import Trace, trace_forward

SiteKind = Literal["read", "residual"]


class ResolvedStack:
    """The resolved layers of a decoder-only Hugging Face causal language model. The model is shared, never modified."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Resolve `model`, which must be in evaluation mode.

        Raises:
            AttachError: the model is no decoder-only transformer, or a layer's roles cannot be told.
        """
        if model.training:
            raise AttachError(f"{type(model).__name__} is in training mode, where dropout is random; call model.eval()")
        self.model = model
        self.anatomy = find_anatomy(model)
        tokens, mask = probe_batch(model)
        require_causal(model, tokens)
        trace = _traced(self.anatomy, tokens, mask)
        layers = self.anatomy.layers
        self.n_layers = len(layers)
        multipliers = _named_multipliers(model)
        self.blocks: tuple[BlockSpec, ...] = tuple(
            resolve_layer(index, call, multipliers) for index, call in enumerate(trace.layers)
        )
        first = trace.layers[0].hidden_in
        assert first is not None
        self.d_model: int = first.shape[-1]
        self.vocab_size: int = trace.logits.shape[-1]
        self.dtype = first.dtype
        self.tail_names = tuple(call.name for call in trace.tail)
        self.skeleton = build_skeleton(
            self.anatomy,
            [len(call.output) if isinstance(call.output, tuple | list) else 0 for call in trace.layers],
        )
        three = torch.cat([tokens, tokens[:1]]), torch.cat([mask, mask[:1]])
        try:
            two_rows = self.skeleton.layer_calls(model_inputs(model, tokens, mask))
            three_rows = self.skeleton.layer_calls(model_inputs(model, *three))
        except Exception as failure:  # whatever a model's own code raises
            raise AttachError(
                f"the code of {type(model).__name__} around its layers does not run without them "
                f"({first_line(failure)}); its stream cannot be walked"
            ) from failure
        self.batch_units = [measure_batch_units(a, b) for a, b in zip(two_rows, three_rows, strict=True)]
        if all(block.arrangement == "opaque" for block in self.blocks):
            raise AttachError(
                f"{type(model).__name__} has no layer that can be read: layer 0, {self.blocks[0].reason}; "
                "attach a transformer whose layers add attention and MLP to a residual stream"
            )
        self._bind(layers)
        self._refused_steps: set[tuple[int, str]] = set()
        self.report = ProbeReport(type(model).__name__, self.n_layers, TOLERANCE[self.dtype])
        """what the probe found; nothing before it has run"""

    def _bind(self, layers: list[nn.Module]) -> None:
        sublayers: list[Sublayer] = []
        contributions: list[tuple[Contribution, ...]] = []
        for spec, layer in zip(self.blocks, layers, strict=True):
            parts = tuple(Contribution(part, layer) for part in spec.contributions)
            if spec.arrangement == "sequential":
                sublayers += [Sublayer("attention", spec.layer), Sublayer("mlp", spec.layer)]
                contributions += [parts[:1], parts[1:]]
            else:
                sublayers.append(Sublayer("block", spec.layer))
                contributions.append(parts)
        self.layers = layers
        self.sublayers: tuple[Sublayer, ...] = tuple(sublayers)
        self.contributions = contributions
        self.tail_modules = [self.anatomy.trunk.get_submodule(name) for name in self.tail_names]
        self.final_norm: nn.Module | None = (
            self.tail_modules[0] if self.tail_modules and is_norm(self.tail_modules[0]) else None
        )
        self._norm_specs: dict[tuple[int, int], NormSpec | None] = {}

    @property
    def n_sites(self) -> int:
        """Number of residual sites: one before each sublayer and one before the final norm."""
        return len(self.sublayers) + 1

    @property
    def positions(self) -> int | None:
        """The longest text the model was made for, in tokens; None where its configuration names no limit."""
        found = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    def norm_spec(self, site: int, part: int = 0) -> NormSpec | None:
        """The norm in front of sublayer `site` (of a block's attention for part 0, MLP for part 1), None without one.

        Raises:
            AttachError: the module there is no known normalisation.
            IndexError: there is no such site.
        """
        self.check_site(site)
        if (site, part) not in self._norm_specs:
            last = site == len(self.sublayers)
            if not last and not self.contributions[site]:
                raise AttachError(f"site {site} ({self.sublayers[site]}) cannot be read: {self._opaque_reason(site)}")
            module = self.final_norm if last else self.contributions[site][part].read_norm
            self._norm_specs[site, part] = describe_norm(module, self.d_model, self.dtype)
        return self._norm_specs[site, part]

    def _opaque_reason(self, site: int) -> str | None:
        return self.blocks[self.sublayers[site].layer].reason

    def norm_gain(self, site: int) -> Tensor:
        """Effective gain [D] of the norm in front of sublayer `site`, of the final norm at the last site.

        Ones where no norm stands in front (post-norm families). A copy, never the model's parameter.
        """
        spec = self.norm_spec(site)
        return torch.ones(self.d_model, dtype=self.dtype) if spec is None else spec.gain.clone()

    def norm_centres(self, site: int) -> bool:
        """Whether the norm in front of sublayer `site` subtracts the mean (LayerNorm) rather than not (RMSNorm)."""
        spec = self.norm_spec(site)
        return spec is not None and spec.centres

    def block_reads(self, site: int, h: Tensor, read: Read | None) -> tuple[Tensor, Tensor]:
        """The attention's and the MLP's reads of a parallel block, given a replacement for one or both (see
        Walk.sublayer).
        """
        attention, mlp = self.contributions[site]
        if isinstance(read, tuple):
            return read
        x_a = attention.read(h)
        if attention.read_norm is mlp.read_norm:
            return (x_a, x_a) if read is None else (read, read)
        x_m = mlp.read(h)
        return (x_a, x_m) if read is None else (read, x_m + (read - x_a) * self.gain_ratio(site).to(x_a))

    def gain_ratio(self, site: int) -> Tensor:
        """MLP gain over attention gain [D] of a block with two norms; 0 where the attention's gain is 0."""
        a, m = self.norm_spec(site, 0), self.norm_spec(site, 1)
        ones = torch.ones(self.d_model)
        gain_a = ones if a is None else a.gain.float()
        gain_m = ones if m is None else m.gain.float()
        return torch.where(gain_a == 0, torch.zeros_like(gain_a), gain_m.to(gain_a) / gain_a)

    def final_read(self, h: Tensor) -> Tensor:
        """What the final norm makes of h [B,T,D]; h itself without one."""
        return h if self.final_norm is None else self.final_norm(h)

    def tail(self, h: Tensor) -> Tensor:
        """What the trunk returns for the last residual h [B,T,D]: final norm and any projection after it."""
        for module in self.tail_modules:
            h = module(h)
        return h

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over configuration and parameters; computed on first use and kept."""
        return fingerprint(self.model)

    def check_site(self, site: int) -> None:
        """Refuse a site that does not exist.

        Raises:
            IndexError: there is no such site; the message names the valid ones.
        """
        if not 0 <= site < self.n_sites:
            raise IndexError(
                f"site {site} does not exist; {type(self.model).__name__} has sites 0 to {self.n_sites - 1}"
            )

    def require(self, site: int, step: str) -> None:
        """Refuse a step of a site that did not prove right.

        Raises:
            AttachError: the probe refused this step of this site.
        """
        self.check_site(site)
        if self._refused_steps and (site, step) in self._refused_steps:
            refusal = next(r for r in self.report.refused if (r.site, r.step) == (site, step))
            raise AttachError(str(refusal))


def _traced(anatomy: Anatomy, tokens: Tensor, mask: Tensor) -> Trace:
    """One traced forward; a model that cannot run on ordinary padded tokens cannot be attached."""
    try:
        return trace_forward(anatomy, model_inputs(anatomy.model, tokens, mask))
    except Exception as failure:  # whatever a model's own code raises, it cannot be attached
        raise AttachError(
            f"{type(anatomy.model).__name__} does not run on a small padded batch ({first_line(failure)}); "
            "check its configuration"
        ) from failure


def _named_multipliers(model: PreTrainedModel) -> tuple[float, ...]:
    """Factors on contributions that the configuration names, such as Granite's `residual_multiplier`."""
    config = model.config.get_text_config().to_dict()
    return tuple(
        float(v)
        for k, v in config.items()
        if "residual" in k and k.endswith(("multiplier", "scale")) and isinstance(v, float)
    )
