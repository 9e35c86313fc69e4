"""Operator groups and colours, the same in every figure and table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Group:
    """Operations that are shown as one, with a colour of their own."""

    key: str
    label: str
    colour: str


# The palette of Okabe and Ito: it stays apart under every common kind of colour blindness.
GROUPS = (
    Group("linear", "linear", "#0072B2"),
    Group("prepared", "linear, prepared", "#56B4E9"),
    Group("attention", "attention products", "#E69F00"),
    Group("softmax", "softmax", "#009E73"),
    Group("activation", "activation", "#D55E00"),
    Group("norm", "norm", "#CC79A7"),
    Group("pool", "pool", "#F0E442"),
    Group("token", "next token", "#8C6D31"),
    Group("correlations", "correlations", "#6B7280"),
    Group("other", "other", "#1F2937"),
)
# Darker is nearer to the answer; set-up comes last because it is shared by all requests.
PHASES = (
    Group("offline", "offline", "#8FA3BC"),
    Group("online", "online", "#2B4A73"),
    Group("setup", "set-up (once a session)", "#DCE2EA"),
)
_OF_OP = {
    "linear": "linear",
    "embedding": "linear",
    "scores": "attention",
    "score_bias": "attention",
    "context": "attention",
    "cached_scores": "attention",
    "cached_context": "attention",
    "softmax": "softmax",
    "causal_softmax": "softmax",
    "gelu": "activation",
    "gelu_tanh": "activation",
    "relu": "activation",
    "silu": "activation",
    "tanh": "activation",
    "product": "activation",
    "layernorm": "norm",
    "rmsnorm": "norm",
    "pool": "pool",
    "first_row": "pool",
    "masked_sum": "pool",
    "masked_max": "pool",
    "gain": "pool",
    "open": "pool",
    "next_token": "token",
    "correlations": "correlations",
}


def group_of(step: Json) -> str:
    """Key of a step's group."""
    group = _OF_OP.get(step["op"], "other")
    return "prepared" if group == "linear" and step["phase"] == "offline" else group


def sent(row: Json) -> int:
    """Bytes both ways."""
    return int(row["client_sent_bytes"] + row["server_sent_bytes"])


def value(measured: Json, what: str) -> float:
    """`seconds`, `megabytes` or `rounds` of a measured row."""
    return sent(measured) / 1e6 if what == "megabytes" else float(measured[what])


def by_group(steps: Iterable[Json], what: str) -> dict[str, float]:
    """Sums of all groups that occur, in the fixed order."""
    sums: dict[str, float] = {}
    for step in steps:
        key = group_of(step)
        sums[key] = sums.get(key, 0.0) + value(step["measured"], what)
    return {g.key: sums[g.key] for g in GROUPS if g.key in sums}
