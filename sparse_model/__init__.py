"""Weight-sparse transformers: the model, its corpus, trainer, tasks and circuit pruner.

Importing the package registers the model with Hugging Face's Auto classes.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from sparse_model.config import SparseConfig
from sparse_model.model import SparseTransformer, SparseWalk, Sublayer
from sparse_model.settings import UserError

AutoConfig.register(SparseConfig.model_type, SparseConfig, exist_ok=True)
AutoModelForCausalLM.register(SparseConfig, SparseTransformer, exist_ok=True)

__all__ = ["SparseConfig", "SparseTransformer", "SparseWalk", "Sublayer", "UserError"]
