"""What a node of a graph becomes: a cost before the run and a step during it.

Belongs here: one file an operation, trips into ciphertexts and back, products in slots, pads. Only
this room sees both a ciphertext and a share. May use: both engines, `models` (nodes, linear maps),
`config`. Used by `planning`, which binds nodes to them, and `runtime`, which runs them.
"""

from typing import Any

from hybrid.operators.attention import AttentionProductOperator
from hybrid.operators.base import Operator
from hybrid.operators.dealt_layers import (
    BeaverAttention,
    BeaverLinear,
    DealtAttentionOperator,
    DealtLinearOperator,
)
from hybrid.operators.exact_layers import ExactAttentionOperator, ExactLinearOperator
from hybrid.operators.linear import LinearOperator
from hybrid.operators.nonlinear import NonlinearOperator
from hybrid.operators.pool import MaskedSum, PoolOperator

OPERATORS: tuple[type[Operator], ...] = (
    LinearOperator,
    ExactLinearOperator,
    DealtLinearOperator,
    AttentionProductOperator,
    ExactAttentionOperator,
    DealtAttentionOperator,
    NonlinearOperator,
    PoolOperator,
)
"""Each serves the catalog entries that derive from its `entries`."""

ENTRIES: tuple[type[Any], ...] = (BeaverLinear, BeaverAttention, MaskedSum)
"""Catalog entries that need nothing but their operator."""

__all__ = ["ENTRIES", "OPERATORS"]
