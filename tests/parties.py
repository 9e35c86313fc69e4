"""Both parties of a session inside one process, for tests of operators and protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import PARAMETER_SETS, CkksParameters
from hybrid.operators.base import EncodedLinear, PlanContext, RunState
from hybrid.operators.homomorphic import HomomorphicClient, HomomorphicServer
from hybrid.operators.slot_products import CkksProducts
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.correlations import SoftSpokenSource
from mpc_nonlinear.fixed_point import FixedPoint
from tests.waiting import GUARD_S
from transport.channel import Channel
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party, Traffic

PARAMETERS = PARAMETER_SETS["n8192_q88"]
DEEP = PARAMETER_SETS["n8192_q182"]
FIXED_POINT = FixedPoint(16)
UNIT = FIXED_POINT.unit


PRODUCTS = CkksProducts(PARAMETERS, DEEP, FIXED_POINT.fraction_bits)


def plan_context(baby_steps: int = 8) -> PlanContext:
    """Products in CKKS slots."""
    products = {PRODUCTS.name: PRODUCTS}
    return PlanContext(PARAMETERS, DEEP, FIXED_POINT, products, SoftSpokenSource, baby_steps)


_KEYS_LOCK = Lock()


def keys(steps: tuple[int, ...]) -> tuple[list[ClientKeys], list[ServerKeys]]:
    """Key pairs of both sets for these rotations, shared by tests: keys are not what they test."""
    # Both parties' threads may ask first, and must get the same pair.
    with _KEYS_LOCK:
        pairs = [_made_keys(PARAMETERS, steps), _made_keys(DEEP, ())]
        return [client for client, _ in pairs], [server for _, server in pairs]


@lru_cache(maxsize=8)
def _made_keys(parameters: CkksParameters, steps: tuple[int, ...]) -> tuple[ClientKeys, ServerKeys]:
    client = ClientKeys.generate(parameters, steps, True, SecureRandom())
    return client, ServerKeys.parse(parameters, client.public_bytes(), steps, True)


def shares(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Uniform additive shares of reals."""
    first = SecureRandom().uint64(x.shape)
    return first, FIXED_POINT.encode(x) - first


def value(client: np.ndarray, server: np.ndarray) -> np.ndarray:
    """Reals from both shares."""
    return FIXED_POINT.decode(client + server)


def run_states(
    role: Callable[[RunState], Any],
    *,
    steps: tuple[int, ...] = (),
    encoded: dict[str, EncodedLinear] | None = None,
    label: str = "test",
    source: Any = None,
) -> tuple[Any, Any, Traffic]:
    """Run `role` once per party with keys; returns both results and the label's traffic."""
    client_keys, server_keys = keys(steps)

    def party(channel: Channel) -> Any:
        if channel.party is Party.CLIENT:
            homomorphic = HomomorphicClient(client_keys, SecureRandom())
        else:
            homomorphic = HomomorphicServer(server_keys, SecureRandom())
        context = Context(FIXED_POINT, replace(PRODUCTS, party=homomorphic))
        session = Session(channel, context, source, SecureRandom())
        own = encoded if encoded and channel.party is Party.SERVER else {}
        state = RunState(session, homomorphic, own)
        with channel.step(label):
            return role(state)

    client, server, channel = run_both(party, timeout_s=GUARD_S)
    return client, server, channel.traffic(label)
