"""Both parties of attention over a cache, and the plain products, shared by its tests."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from threading import Lock

import numpy as np

from he_linear.exact.ring_keys import RingClientKeys, RingServerKeys
from he_linear.packings.row_blocks import Room
from hybrid.models.graph import CachePlace, Node
from hybrid.models.ranges import Bound
from hybrid.operators.base import Choice, RunState
from hybrid.operators.cached_attention import (
    DealtCachedAttentionOperator,
    DealtCorrelations,
)
from hybrid.operators.exact_cached_attention import ExactCachedAttentionOperator, MatrixCorrelations
from hybrid.operators.exact_products import RingClient, RingServer
from hybrid.operators.exact_rows import RowsClient, RowsServer
from hybrid.operators.slot_attention import SlotCachedAttentionOperator, SlotCorrelations
from hybrid.testing.local_parties import RecordingStock
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.correlations import TrustedDealer
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from tests.ot_sources import InsecureLocalSource, source_factory, stocked
from tests.parties import plan_context
from tests.rows_setup import made_keys
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

FIXED = FixedPoint(16)
BOUND = Bound(2.0**-20, 2.0, 64.0)
EXACT = plan_context()
DEALT = replace(EXACT, source=TrustedDealer)
OTS = OtCount(0, 4000)
_KEYS_LOCK = Lock()


OPERATORS = {
    "beaver": (DealtCorrelations, DealtCachedAttentionOperator),
    "matrix_correlations": (MatrixCorrelations, ExactCachedAttentionOperator),
    "slot_correlations": (SlotCorrelations, SlotCachedAttentionOperator),
}
NAMES = tuple(OPERATORS)


def operators(name, sizes, past, n, layer=0, **changed):
    """Scores and context of one pass."""
    entry, cls = OPERATORS[name]
    context = DEALT if name == "beaver" else EXACT
    place = CachePlace(sizes.prefix, past, sizes.capacity, sizes.kv_heads)
    heads, seen = sizes.kv_heads * sizes.group, place.keys(n)
    found = []
    for op, shape in (
        ("cached_scores", (heads, n, sizes.size, seen)),
        ("cached_context", (heads, n, seen, sizes.size)),
    ):
        node = Node(
            f"layer{layer}.{op[7:]}", layer, op, ("in",), ("out",), shape,
            {"left": BOUND, "right": BOUND, "output": BOUND}, cache=place,
        )  # fmt: skip
        node = replace(node, **changed)
        found.append(cls(node, entry, Choice(name), context))
    return found


@lru_cache(maxsize=16)
def _made_keys(parameters, automorphisms):
    client = RingClientKeys(parameters, automorphisms, SecureRandom())
    return client, RingServerKeys.parse(parameters, client.public_bytes(), automorphisms)


def ring_party(party, wanted):
    with _KEYS_LOCK:
        pair = _made_keys(wanted.parameters, wanted.automorphisms)
    kind = RingClient if party is Party.CLIENT else RingServer
    return {wanted.parameters: kind(pair[party], SecureRandom())}


def slot_party(party):
    with _KEYS_LOCK:
        pair = made_keys(())
    if party is Party.CLIENT:
        return RowsClient(pair[0], SecureRandom())
    return RowsServer(pair[1], SecureRandom(), Room())


def state_of(channel, name, sizes, prefix, make):
    """One party's half; `make` gives its source of correlations."""
    source = stocked(make(channel), OTS, channel)
    session = Session(channel, Context(FIXED, None), source, SecureRandom(), RecordingStock(source))
    ring = {}
    if name == "matrix_correlations":
        keys = [operator.ring_keys for operator in operators(name, sizes, 0, 1)]
        elements = tuple(sorted({e for k in keys for e in k.automorphisms}))
        ring = ring_party(channel.party, replace(keys[0], automorphisms=elements))
    slots = slot_party(channel.party) if name == "slot_correlations" else None
    own = prefix if channel.party is Party.SERVER else {}
    return RunState(session, None, ring=ring, slots=slots, prefix=own)


@contextmanager
def source_of(name):
    if name == "beaver":
        with source_factory("dealer") as make:
            yield make
    else:
        yield lambda channel: InsecureLocalSource(channel.party)


def run_states(name, sizes, role, prefix=None):
    with source_of(name) as make:

        def inside(channel):
            return role(state_of(channel, name, sizes, prefix or {}, make))

        return run_both(inside)[:2]


def shares(x):
    first = SecureRandom().uint64(x.shape)
    return first, FIXED.encode(x) - first


def stepped(state, label, cost, function):
    """Under a step of its own, with the traffic and the demand that `cost` declares."""
    channel, stock = state.session.channel, state.session.prepared
    before, stock.asked = stock.asked, type(stock.asked)()
    with channel.step(label):
        result = function()
    assert channel.traffic(label) == cost.traffic
    assert stock.asked == cost.demand
    # Lifts may fail, and products in slots.
    assert cost.failure_probability < 2**-20
    stock.asked = before
    return result


def begin(state, name, sizes, label="conversation"):
    for operator in operators(name, sizes, 0, 1):
        cost = operator.conversation_cost()
        stepped(
            state, f"{label} {operator.node.op}", cost,
            lambda operator=operator: operator.prepare_conversation(state),
        )  # fmt: skip


def advance(state, name, sizes, past, rows, weights):
    """One pass of both products."""
    scores, context = operators(name, sizes, past, len(rows))
    (found,) = stepped(state, f"scores {past}", scores.cost(), lambda: scores.run([rows], state))
    (merged,) = stepped(
        state, f"context {past}", context.cost(), lambda: context.run([weights], state)
    )
    return found, merged


def texts(sizes, passes, rng):
    """Reals: the prefix, then qkv and probabilities of every pass."""
    g, heads = sizes.kv_heads, sizes.kv_heads * sizes.group
    shape = g, sizes.prefix, sizes.size
    prefix = {f"layer0.{what}": rng.normal(0, 2, shape) for what in ("keys", "values")}
    rows, past = [], 0
    for n in passes:
        qkv = rng.normal(0, 2, (n, (heads + 2 * g) * sizes.size))
        rows.append((qkv, rng.uniform(0, 1, (heads, n, sizes.prefix + past + n))))
        past += n
    return prefix, rows


def plain(sizes, prefix, rows):
    """Scores and context of every pass, head by head, from the definition."""
    s, g = sizes.size, sizes.kv_heads
    heads = g * sizes.group
    keys = [list(head) for head in prefix["layer0.keys"]]
    values = [list(head) for head in prefix["layer0.values"]]
    results = []
    for qkv, weights in rows:
        for row in qkv:
            for head in range(g):
                keys[head].append(row[(heads + head) * s :][:s])
                values[head].append(row[(heads + g + head) * s :][:s])
        n, seen = len(qkv), len(keys[0])
        scores, context = np.zeros((heads, n, seen)), np.zeros((n, heads * s))
        for head in range(heads):
            own = head // sizes.group
            for i in range(n):
                for j in range(seen - n + i + 1):
                    scores[head, i, j] = qkv[i, head * s :][:s] @ keys[own][j]
                    context[i, head * s :][:s] += weights[head, i, j] * values[own][j]
        results.append((scores, context))
    return results


def check(name, sizes, passes, seed=0):
    prefix, rows = texts(sizes, passes, np.random.default_rng(seed))
    pairs = [tuple(shares(part) for part in row) for row in rows]

    def role(state):
        begin(state, name, sizes)
        past, results = 0, []
        for qkv, weights in pairs:
            mine = state.session.party
            results.append(advance(state, name, sizes, past, qkv[mine], weights[mine]))
            past += len(qkv[0])
        return results

    both = zip(*run_states(name, sizes, role, prefix), plain(sizes, prefix, rows), strict=True)
    for client, server, wanted in both:
        for ours, theirs, exact in zip(client, server, wanted, strict=True):
            assert ours.shape == exact.shape
            away = np.abs(FIXED.decode(ours + theirs) - exact).max()
            assert away < (2 + 16 * max(sizes.size, sizes.keys)) * FIXED.unit
