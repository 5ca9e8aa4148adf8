"""A layer's contribution to the stream, bound to the modules that compute it."""

from typing import Any

from torch import Tensor, nn

from dense_adapters.block_spec import CallTemplate, ContributionSpec
from dense_adapters.skeleton import LayerCall
from dense_adapters.trace import first_tensor

Read = Tensor | tuple[Tensor, Tensor]


class Contribution:
    """A ContributionSpec bound to the modules of one layer."""

    def __init__(self, spec: ContributionSpec, layer: nn.Module) -> None:
        self.spec = spec
        self.modules = [layer.get_submodule(name) for name in spec.modules]
        self.read_norm, self.contribution_norm, self.stream_norm = (
            None if name is None else layer.get_submodule(name)
            for name in (spec.read_norm, spec.contribution_norm, spec.stream_norm)
        )

    def read(self, h: Tensor) -> Tensor:
        """The normed input [B,T,D] for residual h [B,T,D]."""
        return h if self.read_norm is None else self.read_norm(h)

    def apply(self, h: Tensor, x: Tensor, normed: Tensor, layer_call: LayerCall) -> Tensor:
        """The module's output (after its contribution norm) for residual h, read x and unedited read `normed`."""
        args, kwargs = fill(self.spec.call, h, x, normed, layer_call)
        out = first_tensor(self.modules[0](*args, **kwargs))
        for module in self.modules[1:]:
            out = module(out)
        return out if self.contribution_norm is None else self.contribution_norm(out)

    def join(self, h: Tensor, normed: Tensor, out: Tensor) -> Tensor:
        """The residual after this contribution."""
        if not self.spec.adds_residual:
            skip = h if self.spec.skip == "residual" else normed
            out = out.reshape(skip.shape)
            out = skip.to(out.device) + (out if self.spec.scale == 1.0 else out * self.spec.scale)
        return out if self.stream_norm is None else self.stream_norm(out)


def fill(
    template: CallTemplate, h: Tensor, x: Tensor, normed: Tensor, layer_call: LayerCall
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments for a module call: tensors for the roles, the layer's own arguments for the rest."""
    layer_args, layer_kwargs = layer_call

    def value(argument: Any) -> Any:
        match argument.source:
            case "read":
                return x
            case "normed":
                return normed
            case "residual":
                return h
            case "constant":
                return argument.value
        found: Any = layer_args if isinstance(argument.path[0], int) else layer_kwargs
        for key in argument.path:
            found = found[key]
        return found

    return [value(a) for a in template.args], {name: value(a) for name, a in template.kwargs}
