"""Step through a dense model's residual stream sublayer by sublayer, by its own modules.

One walk owns what its batch needs once: the embedding and every layer's arguments (positions, masks, rotary tables,
ALiBi), from the model's own code (see `skeleton`). Each step is then a handful of module calls, differentiable with
respect to h.
"""

from torch import Tensor

from dense_adapters.contribution import Read
from dense_adapters.resolved import ResolvedStack
from dense_adapters.skeleton import LayerCall, model_inputs
from dense_adapters.streams import repeat_rows
from dense_adapters.trace import first_tensor


class Walk:
    """One batch's way through the stack; made by `DenseStack.walk`. B is the token batch, T tokens, D width, V
    vocabulary.

    Every step also takes h [k*B,T,D] for an integer k: k streams of the same token batch stacked along the batch.
    """

    def __init__(self, stack: ResolvedStack, tokens: Tensor, attention_mask: Tensor | None) -> None:
        self.stack = stack
        self.tokens = tokens
        self.batch = tokens.shape[0]
        calls = stack.skeleton.layer_calls(model_inputs(stack.model, tokens, attention_mask))
        self._calls = {1: calls}
        args, kwargs = calls[0]
        self._embedding: Tensor = args[0] if args else kwargs["hidden_states"]

    def embedding(self) -> Tensor:
        """The residual stream [B,T,D] before the first sublayer."""
        self.stack.require(0, "entry")
        return self._embedding

    def read(self, site: int, h: Tensor) -> Tensor:
        """The normed input [B,T,D] of sublayer `site` for residual h; at the last site the final norm's output.

        A `block` sublayer with two norms answers with the attention's.

        Raises:
            AttachError: the probe refused the sublayer.
        """
        self.stack.require(site, "read")
        if site == len(self.stack.sublayers):
            return self.stack.final_read(h)
        return self.stack.contributions[site][0].read(h)

    def sublayer(self, site: int, h: Tensor, read: Read | None = None) -> Tensor:
        """The residual [B,T,D] after sublayer `site`.

        read: replaces the normed input. For a `block` whose attention and MLP have norms of their own, a tuple gives
        both; a single tensor is the attention's, and its change reaches the MLP's read rescaled by the ratio of the two
        gains, that is, as the same change of the normalised stream.

        Raises:
            AttachError: the probe refused the sublayer.
        """
        self.stack.require(site, "sublayer")
        parts = self.stack.contributions[site]
        layer_call = self._layer_call(self.stack.sublayers[site].layer, h.shape[0])
        if not parts:
            return self._whole_layer(site, h, read, layer_call)
        if len(parts) == 1:
            part = parts[0]
            if isinstance(read, tuple):
                raise ValueError(f"{self.stack.sublayers[site]} has one read; give one tensor, not a tuple")
            # The unedited read is needed only where nothing replaces it or the skip path carries it.
            normed = part.read(h) if read is None or part.spec.skip == "normed" else read
            return part.join(h, normed, part.apply(h, normed if read is None else read, normed, layer_call))
        attention, mlp = parts
        x_a, x_m = self.stack.block_reads(site, h, read)
        out = attention.apply(h, x_a, x_a, layer_call)
        return attention.join(h, h, out + mlp.apply(h, x_m, x_m, layer_call).to(out.device).reshape(out.shape))

    def _whole_layer(self, site: int, h: Tensor, read: Read | None, layer_call: LayerCall) -> Tensor:
        """Run an opaque layer on h; what it reads cannot be replaced."""
        if read is not None:
            self.stack.require(site, "read")
        args, kwargs = layer_call
        args, kwargs = ((h, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": h})
        return first_tensor(self.stack.layers[self.stack.sublayers[site].layer](*args, **kwargs))

    def unembed(self, h: Tensor) -> Tensor:
        """Logits [B,T,V]: final norm, head, logit scale and soft cap."""
        self.stack.require(len(self.stack.sublayers), "unembed")
        return self.stack.skeleton.logits(self.stack.tail(h))

    def _layer_call(self, layer: int, rows: int) -> LayerCall:
        streams, rest = divmod(rows, self.batch)
        if rest or not streams:
            raise ValueError(
                f"h has {rows} rows, no multiple of the walk's {self.batch} token rows; stack whole batches"
            )
        if streams not in self._calls:
            done: dict[int, Tensor] = {}
            self._calls[streams] = [
                repeat_rows(call, streams, self.batch, units, done)
                for call, units in zip(self._calls[1], self.stack.batch_units, strict=True)
            ]
        return self._calls[streams][layer]
