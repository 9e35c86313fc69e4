"""The next token from shared logits, opened to the client alone: all that a pass opens."""

from __future__ import annotations

from math import ceil, log2
from typing import Any, ClassVar

import numpy as np

from hybrid.models.graph import Node
from hybrid.operators.base import Choice, MultiplyingOperator, PlanContext, RunState
from mpc_nonlinear.blocks.decoding import (
    MAX_CANDIDATES,
    GreedyDecoding,
    TemperatureSampling,
)
from mpc_nonlinear.blocks.opening import open_to_client, open_to_client_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import ConfigError


class ChosenOnShares:
    """Catalog entry: argmax, or inverse transform sampling, as the node's constants say."""

    op: ClassVar[str] = "next_token"
    name: ClassVar[str] = "on_shares"
    source: ClassVar[str] = "tournament [Rathee20]; inverse transform [Devroye86] Chapter II.2"


_STEP_PART = 2.0**-13
"""Of the bound on logits: those that differ by less than two such steps are taken for equal, since
their own errors are larger. Then 14 bits are compared below the sign: four short digits, or two."""
_KEPT = 1 - 2.0**-11
"""Of the bound, which has a wide margin: two logits at both its ends would take a bit more."""


class NextTokenOperator(MultiplyingOperator):
    """Greedy where the temperature is zero, else a draw among the k largest."""

    entries = ChosenOnShares

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        bound, found = node.bounds["input"].max_abs, node.constants
        self._top_k = int(found["top_k"]) or None
        self._decoding: GreedyDecoding | TemperatureSampling = GreedyDecoding(
            _KEPT * bound, _STEP_PART * 2.0 ** ceil(log2(bound))
        )
        if found["temperature"]:
            self._check_candidates(node.shape[-1])
            rms = node.bounds["input"].rms
            self._decoding = TemperatureSampling(bound, found["temperature"], self._top_k, rms)

    def _check_candidates(self, vocabulary: int) -> None:
        if self._top_k is None and vocabulary > MAX_CANDIDATES:
            raise ConfigError(
                f"generation.top_k: missing; sampling from {vocabulary} tokens takes the largest "
                f"alone, give 1 to {MAX_CANDIDATES}"
            )

    def parameters(self) -> dict[str, float | int | str]:
        """Bound on logits, and how the token is chosen."""
        bound = self.node.bounds["input"]
        return {"bound": bound.max_abs, "rms": bound.rms, **self.node.constants}

    def cost(self) -> Cost:
        """The choice and the opening of one number a conversation."""
        opened = open_to_client_cost(self.node.shape[0])
        return self._decoding.cost(self.node.shape, self._mpc) + opened

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(conversations, vocabulary) to tokens (conversations,) at the client, zeros elsewhere."""
        session = self._multiplying(state)
        opened = open_to_client(self._decoding.run(inputs[0], session), session)
        return [np.zeros(len(inputs[0]), np.uint64) if opened is None else opened]
