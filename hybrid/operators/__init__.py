"""What a node of a graph becomes: a cost before the run and a step during it.

Belongs here: one file an operation, trips into ciphertexts and back, products in slots, pads. Of
all that plans and runs only this room sees both a ciphertext and a share. May use: both engines,
`models` (nodes, linear maps). Used by `planning`, which binds nodes to them, `runtime`, which runs
them, and by `calibration` and `testing`.
"""

from typing import Any

from hybrid.operators.attention import AttentionProductOperator
from hybrid.operators.base import Operator
from hybrid.operators.cached_attention import (
    DealtCachedAttentionOperator,
    DealtCorrelations,
)
from hybrid.operators.dealt_layers import (
    BeaverAttention,
    BeaverEmbedding,
    BeaverLinear,
    DealtAttentionOperator,
    DealtLinearOperator,
)
from hybrid.operators.elementwise import EngineProduct, ProductOperator
from hybrid.operators.exact_cached_attention import ExactCachedAttentionOperator, MatrixCorrelations
from hybrid.operators.exact_layers import ExactAttentionOperator, ExactLinearOperator
from hybrid.operators.exact_rows_layers import (
    ExactRowsEmbedding,
    ExactRowsLinear,
    ExactRowsOperator,
)
from hybrid.operators.linear import LinearOperator
from hybrid.operators.local_steps import (
    FirstRow,
    Halves,
    LastRow,
    LocalOperator,
    Rotary,
    RotaryOperator,
)
from hybrid.operators.next_token import ChosenOnShares, NextTokenOperator
from hybrid.operators.nonlinear import NonlinearOperator
from hybrid.operators.pool import (
    GainOperator,
    MaskedMaximum,
    MaskedSum,
    MaximumOperator,
    Opening,
    OpenOperator,
    OwnGain,
    PoolOperator,
    SharedSum,
    SharedSumOperator,
)
from hybrid.operators.score_bias import ScoreBias, ScoreBiasOperator
from hybrid.operators.slot_attention import SlotCachedAttentionOperator, SlotCorrelations

OPERATORS: tuple[type[Operator], ...] = (
    LinearOperator,
    ExactLinearOperator,
    DealtLinearOperator,
    AttentionProductOperator,
    ExactAttentionOperator,
    DealtAttentionOperator,
    ExactCachedAttentionOperator,
    SlotCachedAttentionOperator,
    DealtCachedAttentionOperator,
    NonlinearOperator,
    PoolOperator,
    SharedSumOperator,
    MaximumOperator,
    GainOperator,
    OpenOperator,
    ExactRowsOperator,
    RotaryOperator,
    ScoreBiasOperator,
    LocalOperator,
    ProductOperator,
    NextTokenOperator,
)
"""Each serves the catalog entries that derive from its `entries`."""

ENTRIES: tuple[type[Any], ...] = (
    BeaverLinear,
    BeaverEmbedding,
    BeaverAttention,
    MatrixCorrelations,
    SlotCorrelations,
    DealtCorrelations,
    MaskedSum,
    SharedSum,
    MaskedMaximum,
    OwnGain,
    Opening,
    FirstRow,
    ExactRowsLinear,
    ExactRowsEmbedding,
    Rotary,
    Halves,
    LastRow,
    ScoreBias,
    EngineProduct,
    ChosenOnShares,
)
"""Catalog entries that need nothing but their operator."""

__all__ = ["ENTRIES", "OPERATORS"]
