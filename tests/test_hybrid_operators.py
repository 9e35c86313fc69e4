"""Operators between both engines: right values, exactly the declared traffic."""

import numpy as np
import pytest

from he_linear.packings.rotated_slots import RotatedSlotsPacking
from he_linear.packings.token_periodic import TokenPeriodicPacking
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.models.ranges import Bound
from hybrid.operators.attention import AttentionProductOperator
from hybrid.operators.base import Choice
from hybrid.operators.linear import LinearOperator
from mpc_nonlinear.blocks.products import Bounds
from tests.parties import PRODUCTS, plan_context, run_states, shares, value
from transport.traffic import Party

BOUND = Bound(2.0**-20, 2.0, 16.0)


def run_on_shares(operator, inputs):
    pairs = [shares(x) for x in inputs]
    return run_states(
        lambda state: operator.run([share_of(state, p) for p in pairs], state),
        steps=operator.galois_steps,
    )


def share_of(state, pair):
    return pair[0] if state.session.party is Party.CLIENT else pair[1]


@pytest.mark.parametrize(
    ("tokens", "d_in", "d_out", "diagonal"),
    [(1, 3, 5, False), (3, 24, 72, True), (8, 40, 24, False), (33, 100, 1, True)],
)
def test_linear_layer_on_shares(tokens, d_in, d_out, diagonal):
    rng = np.random.default_rng(tokens)
    x = rng.normal(0, 2, (tokens, d_in))
    weight = rng.normal(0, d_in**-0.5, (d_in, d_out))
    bias, scale, shift = rng.normal(size=d_out), rng.normal(size=d_in), rng.normal(size=d_in)
    linear = LinearMap(weight, bias, scale if diagonal else None, shift if diagonal else None)
    bounds = {"input": BOUND, "output": BOUND}
    node = Node("l", 0, "linear", ("x",), ("y",), (tokens, d_in, d_out), bounds, diagonal)
    choice = Choice(TokenPeriodicPacking.name)
    operator = LinearOperator(node, TokenPeriodicPacking, choice, plan_context())
    pair = shares(x)
    client, server, traffic = run_states(
        lambda state: operator.run([share_of(state, pair)], state),
        steps=operator.galois_steps,
        encoded={"l": operator.encode(linear)},
    )
    assert np.abs(value(client[0], server[0]) - (x @ weight + bias)).max() < 2**-10
    if diagonal:
        assert np.abs(value(client[1], server[1]) - (x * scale + shift)).max() < 2**-10
    assert traffic == operator.cost().traffic
    assert traffic.rounds == 2


@pytest.mark.parametrize("heads,tokens,size", [(1, 1, 2), (3, 8, 8), (12, 5, 32), (5, 33, 4)])
def test_attention_products_on_shares(heads, tokens, size):
    rng = np.random.default_rng(heads)
    qkv = rng.normal(size=(tokens, 3 * heads * size))
    bounds = {"left": BOUND, "right": BOUND, "output": BOUND}
    query, key, val = qkv.reshape(tokens, 3, heads, size).transpose(1, 2, 0, 3)
    probabilities = rng.uniform(size=(heads, tokens, tokens))
    cases = {
        "scores": ((heads, tokens, size, tokens), [qkv], query @ key.transpose(0, 2, 1)),
        "context": (
            (heads, tokens, tokens, size),
            [probabilities, qkv],
            (probabilities @ val).transpose(1, 0, 2).reshape(tokens, heads * size),
        ),
    }
    for op, (shape, inputs, expected) in cases.items():
        node = Node("p", 0, op, ("x",), ("y",), shape, bounds)
        choice = Choice(RotatedSlotsPacking.name)
        operator = AttentionProductOperator(node, RotatedSlotsPacking, choice, plan_context())
        client, server, traffic = run_on_shares(operator, inputs)
        assert np.abs(value(client[0], server[0]) - expected).max() < 2**-7
        assert traffic == operator.cost().traffic


@pytest.mark.parametrize("count", [1, 4095, 4097])
def test_products_in_slots(count):
    rng = np.random.default_rng(count)
    x, y = rng.uniform(-4, 4, (2, count))
    px, py = shares(x), shares(y)
    bounds = Bounds(4.0, 4.0, 8.0)

    def multiply(state):
        session = state.session
        return session.products.multiply(share_of(state, px), share_of(state, py), session, bounds)

    client, server, traffic = run_states(multiply)
    products = PRODUCTS
    error = np.abs(value(client, server) - x * y).max() * 2**16
    assert error <= products.max_error_units
    assert traffic == products.multiply_cost(count, bounds).traffic

    def square(state):
        return state.session.products.square(share_of(state, px), state.session, bounds)

    client, server, traffic = run_states(square)
    error = np.abs(value(client, server) - x * x).max() * 2**16
    assert error <= products.max_error_units
    assert traffic == products.square_cost(count, bounds).traffic
