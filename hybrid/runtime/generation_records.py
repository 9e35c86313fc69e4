"""What one party measured of a session that answers prompts: plain data for reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid.runtime.runner import Measured
from mpc_nonlinear.cost import Demand
from mpc_nonlinear.fixed_point import RingArray
from transport.traffic import Traffic


@dataclass(frozen=True, slots=True)
class SharedRecord:
    """Preparation that several passes share."""

    kind: str
    """conversation, cache, batch or ahead."""
    steps: tuple[Measured, ...]
    seconds: float
    rows: int
    """Of a batch: how many it serves; 1 of a conversation."""
    declared: tuple[Traffic, ...]
    """What each operator's step was to send; steps of correlations come before them."""
    passes: int = 0
    """How many had run before."""
    is_ahead: bool = False
    """Whether nobody waited for it."""
    made: Demand = Demand()
    """Of what is ahead of need: correlations for the stock."""
    pieces: int = 0
    """Of the cache of a conversation to come: the place of this one. Of a conversation: how many it
    found, all made since the one before it began."""


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass."""

    rows: int
    """Of each conversation that shares it, as `past`."""
    past: int
    steps: tuple[Measured, ...]
    """Offline ones of this pass alone, then online ones."""
    seconds: float
    outputs: Mapping[str, RingArray]
    """Words modulo 2^64, by edge. `next_token` (conversations,): ids of tokens at the client, zeros
    at the server. `logits` (conversations, vocabulary), only where they are kept: this party's
    shares, fixed point."""


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """All of a session."""

    passes: tuple[PassRecord, ...]
    shared: tuple[SharedRecord, ...]
    setup_seconds: float
    setup: Traffic
    """The words that say what comes next belong to set-up."""
    total: Traffic
    dealer_bytes: int
    failure_probability: float
    """Of all that ran."""
    hint_distance: float
    """Of all hints that were sent from simulated ones: a bound, statistical."""
    environment: Mapping[str, str]
