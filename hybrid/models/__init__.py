"""Models: one file a family, and what families share.

Belongs here: sizes, weights, graph, plain reference, ranges of activations, tokenising, heads,
fetching. May use: `config`. Used by `operators` (nodes, weights) and rooms above it. Outside this
room nothing asks what kind of model it runs; only `calibration` builds one of its own.
"""

from hybrid.models.bert import Bert
from hybrid.models.family import AnyFamily
from hybrid.models.modernbert import ModernBert
from hybrid.models.mpnet import Mpnet
from hybrid.models.t5 import T5

MODELS: tuple[AnyFamily, ...] = (Bert(), Mpnet(), ModernBert(), T5())
"""Every family; a plugin may have a tuple of this name."""

__all__ = ["MODELS"]
