"""Hugging Face causal language models as residual stacks, proven at load.

errors.py        the one error for what cannot be used
kinds.py         refuse encoders and state-space models by their configuration
anatomy.py       find the trunk and its layers
trace.py         watch one forward pass
resolve.py       read each layer's roles off the trace
block_spec.py    the roles, as frozen records
norms.py         what a norm computes, as numbers
skeleton.py      the model's own code around the layers, run without them
streams.py       several residual streams of one token batch
contribution.py  one contribution, bound to its modules
probe_batch.py   the batch that models are resolved and proven on
resolved.py      ResolvedStack: the record that all below work on
walk.py          step through the residual stream
probe.py         the numeric proof at load
probe_report.py  its findings
stack.py         DenseStack: resolved, probed, ready to be walked, recorded and edited
source.py        what a name stands for
plausible.py     refuse sizes that no model has
complete.py      refuse checkpoints that are not the whole model
adapter.py       merge an adapter (LoRA) into its base
half_precision.py  frozen weights in bf16 while training, and back
gguf_cache.py    keep what GGUF files were converted to
gguf_file.py     why a GGUF file does not load
loading.py       load a model and tokenizer by id, folder or GGUF file, plainly or as a stack
left_out.py      special tokens and the first position, which edits may leave alone
positions.py     prompt, generated and padding positions of a running forward
live_sites.py    where sites can be seen and changed on the running model
editing.py       edits of the live model
recording.py     recordings of the live model
generation.py    text from the live model, edited or not
tying.py         whether the head is the embedding
fingerprint.py   one hash of a model
readers.py       which weights read a site
bake.py          edits in weight space
checkpoint.py    baked models as folders, and back
"""

from dense_adapters.bake import AddBias, RemoveDirection
from dense_adapters.block_spec import BlockSpec, Sublayer
from dense_adapters.checkpoint import BakeRecord, bake, undo_bake
from dense_adapters.editing import EditFn
from dense_adapters.errors import AttachError
from dense_adapters.left_out import LeftOut
from dense_adapters.loading import load_dense, load_stack
from dense_adapters.probe_report import ProbeReport
from dense_adapters.stack import DenseStack
from dense_adapters.walk import Walk

__all__ = [
    "AddBias",
    "AttachError",
    "BakeRecord",
    "BlockSpec",
    "DenseStack",
    "EditFn",
    "LeftOut",
    "ProbeReport",
    "RemoveDirection",
    "Sublayer",
    "Walk",
    "bake",
    "load_dense",
    "load_stack",
    "undo_bake",
]
