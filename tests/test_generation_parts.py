"""Operators of decoders one by one, against what they stand for in the clear."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.models.ranges import Bound, weight_bound
from hybrid.operators.base import Choice, RunState
from hybrid.operators.elementwise import EngineProduct, ProductOperator
from hybrid.operators.exact_rows_layers import (
    SLOT_SET,
    ExactRowsEmbedding,
    ExactRowsLinear,
    ExactRowsOperator,
)
from hybrid.operators.local_steps import Halves, LastRow, LocalOperator, Rotary, RotaryOperator
from hybrid.operators.nonlinear import NonlinearOperator
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.blocks.local import turn
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols.causal_softmax import SquaredPolynomialCausalSoftmax
from tests.ot_sources import quick_session
from tests.parties import plan_context
from tests.rows_setup import product
from transport.errors import ConfigError, UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

FIXED = FixedPoint(16)
WIDE = Bound(2.0**-20, 4.0, 64.0)
CONTEXT = replace(plan_context(), products={"ot": OtProducts(16)})
T = SLOT_SET.plain_prime


def split(x):
    first = SecureRandom().uint64(x.shape)
    return first, x - first


def in_units(x):
    return x.view(np.int64).astype(np.longdouble)


def alone(operator, *edges, idle=()):
    """Of a step without a message: what both shares of the results add up to."""
    pairs, state = [split(FIXED.encode(edge)) for edge in edges], RunState(None, None, idle=idle)
    sides = (operator.run([pair[i] for pair in pairs], state) for i in (0, 1))
    return [a + b for a, b in zip(*sides, strict=True)]


# -- steps without a message ------------------------------------------------------------------


def rotary(rows, heads, size, first, columns, theta=10000.0, batch=1):
    constants = {"theta": theta, "size": size, "heads": heads, "first": first}
    node = Node(
        "layer0.rotary", 0, "rotary", ("in",), ("out",), (rows, columns), {"input": WIDE},
        constants=constants, batch=batch,
    )  # fmt: skip
    return RotaryOperator(node, Rotary, Choice("local"), CONTEXT)


def rotated(x, heads, size, first, theta):
    """Of integers, with more digits than float64 has."""
    half, found = size // 2, in_units(x)
    exponents = -2 * np.arange(half, dtype=np.longdouble) / size
    places = first + np.arange(len(x), dtype=np.longdouble)
    angles = places[:, None] * np.longdouble(theta) ** exponents
    cosines, sines = np.cos(angles)[:, None], np.sin(angles)[:, None]
    pairs = found[:, : heads * size].reshape(len(x), heads, 2, half)
    left, right = pairs[:, :, 0], pairs[:, :, 1]
    turned = np.stack([left * cosines - right * sines, right * cosines + left * sines], axis=2)
    found[:, : heads * size] = turned.reshape(len(x), -1)
    return found


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    heads=st.integers(1, 5),
    half=st.integers(1, 9),
    rest=st.integers(0, 5),
    first=st.sampled_from([0, 1, 26, 2047, 131070]),
    theta=st.sampled_from([500.0, 10000.0, 500000.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_rotary_positions(rows, heads, half, rest, first, theta, seed):
    size, columns = 2 * half, heads * 2 * half + rest
    x = np.random.default_rng(seed).uniform(-64, 64, (rows, columns))
    (found,) = alone(rotary(rows, heads, size, first, columns, theta), x)
    wanted = rotated(FIXED.encode(x), heads, size, first, theta)
    assert np.abs(in_units(found) - wanted).max() <= 2
    # What is not turned, such as values, stays what it is.
    assert np.array_equal(found[:, heads * size :], FIXED.encode(x)[:, heads * size :])


@pytest.mark.parametrize("idle", [(), (0, 0, 0), (8, 0, 40)])
def test_conversations_count_from_behind_their_idle_rows(idle):
    """Positions before the first are negative, and no less exact."""
    heads, size, first, theta = 2, 6, 30, 10000.0
    x = np.random.default_rng(4).uniform(-64, 64, (3, 5, heads * size))
    operator = rotary(15, heads, size, first, heads * size, theta, batch=3)
    (found,) = alone(operator, x.reshape(15, -1), idle=idle)
    for mine, own, before in zip(found.reshape(x.shape), x, idle or (0, 0, 0), strict=True):
        wanted = rotated(FIXED.encode(own), heads, size, first - before, theta)
        assert np.abs(in_units(mine) - wanted).max() <= 2


def test_position_zero_turns_nothing():
    x = np.random.default_rng(1).uniform(-64, 64, (1, 30))
    assert np.array_equal(alone(rotary(1, 3, 10, 0, 30), x)[0], FIXED.encode(x))
    (moved,) = alone(rotary(1, 3, 10, 1, 30), x)
    assert not np.array_equal(moved, FIXED.encode(x))


@pytest.mark.parametrize("angle", [0.0, np.pi / 2, np.pi, -3 * np.pi / 4, 1e-9])
def test_turns_at_the_ends_of_factors(angle):
    """Factors of exactly one, minus one and nearly nothing."""
    rng = np.random.default_rng(2)
    x, y = (FIXED.encode(rng.uniform(-2000, 2000, (5, 3))) for _ in range(2))
    factors = np.full(x.shape, np.cos(angle)), np.full(x.shape, np.sin(angle))
    sides = [turn(a, b, *factors) for a, b in zip(split(x), split(y), strict=True)]
    found = [a + b for a, b in zip(*sides, strict=True)]
    left, right = in_units(x), in_units(y)
    cosine, sine = np.cos(np.longdouble(angle)), np.sin(np.longdouble(angle))
    wanted = left * cosine - right * sine, right * cosine + left * sine
    for mine, other in zip(found, wanted, strict=True):
        assert np.abs(in_units(mine) - other).max() <= 2


def local(op, shape, entry, residuals=0, batch=1):
    node = Node("step", -1, op, ("in",), ("out",), shape, batch=batch, residuals=residuals)
    return LocalOperator(node, entry, Choice("local"), CONTEXT)


@pytest.mark.parametrize("rows", [1, 5])
def test_halves_and_last_rows(rows):
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 9, (2, rows, 14))
    left, right = alone(local("halves", (rows, 14), Halves), x)
    assert np.array_equal(left, FIXED.encode(x)[:, :7])
    assert np.array_equal(right, FIXED.encode(x)[:, 7:])
    (one,) = alone(local("last_row", (rows, 14), LastRow), x)
    assert np.array_equal(one, FIXED.encode(x)[-1:])
    (both,) = alone(local("last_row", (rows, 14), LastRow, residuals=1), x, y)
    assert np.array_equal(both, (FIXED.encode(x) + FIXED.encode(y))[-1:])
    # Of each conversation.
    several = x.reshape(rows, 2, 7).transpose(1, 0, 2).reshape(2 * rows, 7)
    (newest,) = alone(local("last_row", (2 * rows, 7), LastRow, batch=2), several)
    assert np.array_equal(newest, FIXED.encode(x)[-1].reshape(2, 7))


# -- products -----------------------------------------------------------------------------------


def together(operator, edges, states=lambda _party: {}, known=()):
    """Opened results of a step with messages; exactly the declared traffic is sent.

    known: edges of the client's, behind the others.
    """
    pairs = [*map(split, edges), *((edge, np.zeros_like(edge)) for edge in known)]
    cost = operator.cost()

    def role(channel):
        session = quick_session(channel, cost.ots, products=OtProducts(16))
        state = RunState(session, None, products={"ot": OtProducts(16)}, **states(channel.party))  # type: ignore[arg-type]
        own = [pair[channel.party is Party.SERVER] for pair in pairs]
        with channel.step("it"):
            return operator.run(own, state)

    client, server, channel = run_both(role)
    assert channel.traffic("it") == cost.traffic
    return [a + b for a, b in zip(client, server, strict=True)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 160), (3, 7)])
def test_products_of_two_edges(shape):
    bounds = {"left": WIDE, "right": WIDE, "output": Bound(2.0**-20, 16.0, 4096.0)}
    node = Node("layer0.gated", 0, "product", ("a", "b"), ("out",), shape, bounds)
    operator = ProductOperator(node, EngineProduct, Choice("engine", "ot"), CONTEXT)
    rng = np.random.default_rng(4)
    x, y = (rng.uniform(-64, 64, shape) for _ in range(2))
    x.flat[0], y.flat[0] = 64.0, -64.0
    (found,) = together(operator, [FIXED.encode(x), FIXED.encode(y)])
    exact = in_units(FIXED.encode(x)) * in_units(FIXED.encode(y)) / 2**16
    assert np.abs(in_units(found) - exact).max() <= 2


# -- weights of a cache's columns ---------------------------------------------------------------


@pytest.mark.parametrize(("rows", "fillers"), [(5, 3), (4, 3), (8, 7), (1, 0)])
def test_rows_that_see_fillers_alone_have_weights(rows, fillers):
    """Without a prefix a filler sees hidden columns alone, which then count like any others."""
    heads, largest, entry = 3, 16.0, SquaredPolynomialCausalSoftmax
    bounds = {"input": Bound(2.0**-20, 4.0, largest)}
    shape = heads, rows, rows
    node = Node("layer0.softmax", 0, entry.op, ("scores", "mask"), ("weights",), shape, bounds)
    operator = NonlinearOperator(node, entry, Choice(entry.name, "ot"), CONTEXT)
    x = np.random.default_rng(fillers).uniform(-largest, largest, shape)
    # The worst there is: hidden columns hold the largest scores, those that count the smallest.
    x[0, :, :fillers], x[0, :, fillers:] = largest, -largest
    x[1, :, :fillers], x[1, :, fillers:] = -largest, largest
    visible = (np.arange(rows) >= fillers).astype(np.uint64)[None]
    (found,) = together(operator, [FIXED.encode(x)], known=[visible])
    weights = in_units(found) / 2**16
    causal = np.tril(np.ones((rows, rows), bool))
    assert not weights[:, ~causal].any()
    seen = causal & (visible[0].astype(bool) | (np.arange(rows) < fillers)[:, None])
    scores = np.where(seen, x, -np.inf)
    wanted = np.exp(scores - scores.max(-1, keepdims=True))
    wanted /= wanted.sum(-1, keepdims=True)
    assert np.abs(weights - wanted).max() < 2.0**-8
    assert np.abs(weights[:, fillers:, :fillers]).max(initial=0) <= 2.0**-9


# -- rows of linear layers ----------------------------------------------------------------------


def rows_operator(weight, rows=2, *, embedding=False, output=64.0):
    entry = ExactRowsEmbedding if embedding else ExactRowsLinear
    bounds = {"input": WIDE, "output": Bound(2.0**-20, 4.0, output), "weight": weight_bound(weight)}
    node = Node("layer0.down", 0, entry.op, ("x",), ("y",), (rows, *weight.shape), bounds)
    return ExactRowsOperator(node, entry, Choice("exact_rows"), CONTEXT)


def stocked_rows(operator, encoded, pads):
    """Both parties' rows as a batch would have left them, made from the weights in the clear."""
    rng = np.random.default_rng(5)
    matrix = encoded.encoded
    d_in, d_out = matrix.shape
    weights = matrix.part(0, d_in, 0, d_out).astype(np.int64)
    rho = rng.integers(0, T, (pads, d_in), dtype=np.uint64)
    mine = rng.integers(0, T, (pads, d_out), dtype=np.uint64)
    theirs = (product(rho, weights).astype(np.uint64) + np.uint64(T) - mine) % np.uint64(T)
    name = operator.node.name
    client = deque(LinearPad(name, *pair) for pair in zip(rho, mine, strict=True))
    server = deque(LinearPad(name, row) for row in theirs)
    return {Party.CLIENT: client, Party.SERVER: server}


def rows_result(operator, weight, bias, x):
    encoded = operator.encode(LinearMap(weight, bias))
    stock = stocked_rows(operator, encoded, len(x))

    def states(party):
        own = {} if party is Party.CLIENT else {operator.node.name: encoded}
        return {"rows": {operator.node.name: stock[party]}, "encoded": own}

    (found,) = together(operator, [x], states)
    assert not any(stock.values())
    return found


@pytest.mark.parametrize(
    ("largest", "output", "bits"),
    # Small ones as many as 16-bit integers have, up to 24; others 16, times a power of two a row.
    [
        (2.0**-12, 1.0, 24), (2.0**-9, 1.0, 24), (2.0**-8, 1.0, 23), (0.3, 64.0, 16),
        (0.5, 64.0, 16), (1.0, 64.0, 16), (1.01, 64.0, 16), (8.0, 64.0, 16),
    ],
)  # fmt: skip
def test_weights_keep_as_many_bits_as_fit(largest, output, bits):
    rng = np.random.default_rng(6)
    weight = rng.uniform(-largest, largest, (9, 5))
    weight.flat[0], weight.flat[1] = largest, -largest
    operator = rows_operator(weight, output=output)
    assert operator.parameters()["weight_bits"] == bits
    x, bias = FIXED.encode(rng.uniform(-1, 1, (2, 9))), rng.normal(0, 1, 5)
    found = rows_result(operator, weight, bias, x)
    wanted = in_units(x) @ weight + in_units(FIXED.encode(bias))
    # Weights are off by half a unit of their row's; one that is a power of two by a whole one.
    lengths = np.ceil(np.log2(np.abs(weight).max(1) * 2.0**bits))
    units = 2.0 ** (np.maximum(0, lengths - 15) - bits)
    rounding = (np.abs(in_units(x)) @ units).max()
    assert np.abs(in_units(found) - wanted).max() <= rounding + 2


def test_a_large_row_takes_no_bits_from_others():
    """Its power of two is the server's own matter: what is public stays the same."""
    weight = np.random.default_rng(8).uniform(-0.5, 0.5, (9, 5))
    large = weight.copy()
    large[3] *= 100
    x = FIXED.encode(np.random.default_rng(9).uniform(-1, 1, (2, 9)))
    x[:, 3] = 0
    operators = [rows_operator(w, output=64.0) for w in (weight, large)]
    assert len({o.parameters()["weight_bits"] for o in operators}) == 1
    for operator, own in zip(operators, (weight, large), strict=True):
        found = in_units(rows_result(operator, own, np.zeros(5), x))
        assert np.abs(found - in_units(x) @ own).max() <= np.abs(in_units(x)).sum() * 2.0**-17 + 2


def test_weights_beyond_their_exponents_take_fewer_bits():
    for largest, bits in ((2.0**16, 16), (2.0**17.5, 15), (2.0**20, 13)):
        operator = rows_operator(np.full((9, 5), largest), output=64.0)
        assert operator.parameters()["weight_bits"] == bits


def test_a_power_of_two_does_not_wrap_around():
    weight = np.array([[1.0], [-1.0]])
    x = FIXED.encode(np.array([[1.0, 0.0], [0.0, 1.0]]))
    found = in_units(rows_result(rows_operator(weight), weight, np.zeros(1), x)) / 2**16
    assert np.abs(found - [[1], [-1]]).max() <= 2.0**-14


def test_bits_give_way_to_large_results():
    weight = np.full((9, 5), 0.3)
    # 45 bits in all: four times the result, with 16 fraction bits of the input and the weights'.
    kept = [rows_operator(weight, output=2.0**k).parameters()["weight_bits"] for k in (6, 12, 18)]
    assert kept[0] == 16 > kept[1] > kept[2] >= 1
    with pytest.raises(ConfigError, match=r"layer0.down: weights up to 0.5 .* have no room") as no:
        rows_operator(weight, output=2.0**28)
    assert "scale the model" in str(no.value)


@pytest.mark.parametrize("largest", [0.2, 1.0, 3.0, 200.0])
def test_rows_of_a_private_table_are_exact(largest):
    """One-hot rows pick rows of the table as it was rounded, to the last bit."""
    table = np.random.default_rng(7).uniform(-largest, largest, (11, 6))
    operator = rows_operator(table, rows=3, embedding=True, output=256.0)
    bits = operator.parameters()["weight_bits"]
    assert bits == 16
    words = np.zeros((3, 11), np.uint64)
    words[[0, 1, 2], [10, 0, 4]] = 1
    found = rows_result(operator, table, np.zeros(6), words)
    lengths = np.ceil(np.log2(np.abs(table[[10, 0, 4]]).max(1) * 2.0**bits))
    units = 2.0 ** np.maximum(0, lengths - 15)[:, None]
    integers = np.rint(table[[10, 0, 4]] * 2.0**bits / units).clip(-(2**15), 2**15 - 1)
    assert np.array_equal(in_units(found), integers * units)


def test_a_row_serves_once_and_a_stock_ends():
    weight = np.full((4, 3), 0.5)
    operator = rows_operator(weight, rows=2)
    name, x = operator.node.name, np.zeros((2, 4), np.uint64)
    pads = stocked_rows(operator, operator.encode(LinearMap(weight, np.zeros(3))), 3)[Party.CLIENT]
    used = list(pads)

    def role(channel):
        if channel.party is Party.SERVER:
            return
        state = RunState(quick_session(channel, operator.cost().ots), None, rows={name: pads})  # type: ignore[arg-type]
        for pad in used[:2]:
            pad.take()
        with pytest.raises(UsageError, match="layer0.down: its pad was used already"):
            operator.run([x], state)
        with pytest.raises(UsageError, match="1 prepared rows are left, 2 are needed; prepare"):
            operator.run([x], state)
        state.rows.clear()
        with pytest.raises(UsageError, match="0 prepared rows are left"):
            operator.run([x], state)

    run_both(role)
