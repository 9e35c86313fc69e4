"""Causal softmax and the published protocols, BOLT's and BumbleBee's, on adversarial inputs."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks.compare import Width
from mpc_nonlinear.blocks.lookup import lookup, lookup_cost, split, split_cost
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.protocols import bolt, bumblebee
from mpc_nonlinear.protocols.bolt import BoltGelu, BoltSoftmax
from mpc_nonlinear.protocols.bumblebee import BumbleBeeGelu, BumbleBeeSoftmax
from mpc_nonlinear.protocols.causal_softmax import SquaredPolynomialCausalSoftmax
from mpc_nonlinear.protocols.goldschmidt import refine, refine_cost, refined
from mpc_nonlinear.protocols.softmax import SquaredPolynomialSoftmax
from mpc_nonlinear.protocols.visible_rows import VisibleRows
from tests.test_mpc_activations import sends_fresh_bytes
from tests.test_mpc_contract import FIXED, private, ring, run, signed, slot_products
from tests.test_mpc_protocols import adversarial_rows, check
from transport.errors import UsageError

engines = pytest.mark.parametrize("in_slots", [False, True], ids=["ot", "ckks"])
few_examples = settings(max_examples=12, deadline=None)
GELUS = {
    "bolt": (BoltGelu, (-bolt.THRESHOLD, 0.0, bolt.THRESHOLD), 2.0**-6),
    "bumblebee": (BumbleBeeGelu, bumblebee.THRESHOLDS, 2.0**-5),
}
SOFTMAXES = {
    "ours": (SquaredPolynomialCausalSoftmax, 2.0**-9),
    "bolt": (BoltSoftmax, 2.0**-7),
    "bumblebee": (BumbleBeeSoftmax, 2.0**-5),
}
every_gelu = pytest.mark.parametrize("name", list(GELUS))
every_softmax = pytest.mark.parametrize("name", list(SOFTMAXES))


# -- building blocks -----------------------------------------------------------------------


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=9), st.integers(5, 24))
@few_examples
def test_split_is_exact(numbers, low_bits):
    x = ring([*numbers, 0, -1, 1 << low_bits, (1 << low_bits) - 1])
    cost = split_cost(x.size, low_bits)
    client, server = run(lambda s, v: split(v, low_bits, s), cost, x)
    # The high part is shared modulo 2^(64 - low_bits).
    high = (client[0] + server[0]) << np.uint64(low_bits)
    low = signed(client[1] + server[1])
    assert np.array_equal(signed(high) + low, signed(x))
    assert ((low >= 0) & (low < 1 << low_bits)).all()


@given(st.integers(4, 40), st.data())
@few_examples
def test_lookup_reads_every_entry(bits, data):
    largest = (1 << (bits - 2)) - 1
    table = data.draw(st.lists(st.integers(-largest, largest), min_size=16, max_size=16))
    index = ring(np.arange(-16, 32).reshape(4, 12))
    cost = lookup_cost(index.size, bits)
    client, server = run(lambda s, v: lookup(v, table, bits, s), cost, index)
    assert np.array_equal(signed(client + server), np.array(table)[signed(index) % 16])


def test_goldschmidt_refines_any_guess():
    s = FIXED.decode(FIXED.encode(np.linspace(1, 2, 101)))
    for error in (-0.09, 0.0, 0.09):
        guess = FIXED.decode(FIXED.encode((1 - error) / s))
        expected = refined(guess, s)
        assert np.abs(expected * s - 1).max() < 0.09**4 + 1e-5
        cost = refine_cost(s.size, Context(FIXED, OtProducts(16)))
        client, server = run(
            lambda session, g, v: refine(g, v, session), cost, FIXED.encode(guess), FIXED.encode(s)
        )
        assert np.abs(FIXED.decode(client + server) - expected).max() <= 6 * FIXED.unit


@pytest.mark.parametrize(
    "shape,causal",
    [((1, 1), True), ((3, 1), False)]
    + [(shape, causal) for shape in ((2, 7, 7), (3, 4, 9), (5, 16)) for causal in (False, True)],
)
def test_maximum_of_visible_numbers(shape, causal):
    rng = np.random.default_rng(prod(shape))
    x = rng.integers(-1000, 1000, shape)
    x.reshape(-1)[:: max(1, x.size // 4)] = 7
    rows, width = VisibleRows.of(shape, causal), Width(13, 0)
    cost = rows.maximum_cost(width)
    client, server = run(lambda s, v: rows.maximum(v, width, s), cost, ring(x))
    seen = rows.masked(x.astype(float), -np.inf)
    assert np.array_equal(signed(client + server), seen.max(-1).astype(int))
    assert np.array_equal(
        rows.unpack(rows.pack(ring(x))), (ring(x) * mask(shape, causal)).reshape(-1, shape[-1])
    )


def mask(shape: tuple[int, ...], causal: bool) -> np.ndarray:
    visible = np.ones(shape, np.uint64)
    return np.tril(visible, shape[-1] - shape[-2]) if causal else visible


# -- GELU ----------------------------------------------------------------------------------


@every_gelu
@pytest.mark.parametrize("bound", [0.5, 4.0, 64.0, 1024.0])
@engines
def test_gelu_at_bounds_and_segment_edges(name, bound, in_slots):
    kind, thresholds, total = GELUS[name]
    unit = FIXED.unit
    ends = [0.0, unit, -unit, bound, -bound, bound - unit, 1 / 3]
    near = [t + np.linspace(-0.05, 0.05, 101) for t in thresholds]
    x = np.concatenate([ends, *near, np.linspace(-5, 5, 801), np.linspace(-bound, bound, 101)])
    check(kind(bound=bound), np.clip(x, -bound, bound), in_slots, total)


@every_gelu
def test_gelu_reference_is_the_published_one(name):
    kind, _, total = GELUS[name]
    protocol = kind(bound=16.0)
    x = np.linspace(-16, 16, 200_001)
    error = np.abs(protocol.reference(x) - protocol.true_function(x)).max()
    assert total / 4 <= error <= protocol.approximation_error
    values = np.polynomial.polynomial.polyval
    if name == "bolt":
        a = np.linspace(0, 2.699, 1001)
        assert np.allclose(protocol.reference(a), values(a, bolt.COEFFICIENTS) + a / 2, atol=1e-9)
        assert np.allclose(protocol.reference(-a), values(a, bolt.COEFFICIENTS) - a / 2, atol=1e-9)
        return
    for low, high, coefficients in (
        (-4.0, -1.951, bumblebee.LOWER),
        (-1.95, 2.999, bumblebee.MIDDLE),
    ):
        x = np.linspace(low, high, 1001)
        assert np.allclose(protocol.reference(x), values(x, coefficients), atol=1e-12)


@every_gelu
def test_gelu_is_exact_far_outside(name):
    x = FIXED.decode(FIXED.encode(np.array([-64.0, -4.5, 3.5, 17.125, 63.9])))
    got = private(GELUS[name][0](bound=64.0), x, False)
    assert np.abs(got - np.maximum(x, 0)).max() <= 10 * FIXED.unit


# -- softmax -------------------------------------------------------------------------------


@every_softmax
@pytest.mark.parametrize("columns", [1, 2, 7, 32])
@pytest.mark.parametrize("bound", [0.25, 1.0, 32.0, 512.0])
@engines
def test_softmax_of_adversarial_rows(name, bound, columns, in_slots):
    kind, total = SOFTMAXES[name]
    got = check(kind(bound, causal=False), adversarial_rows(bound, columns), in_slots, total)
    assert got.min() > -(2.0**-11)
    assert np.abs(got.sum(-1) - 1).max() < 2.0**-7 + columns * 2.0**-11


@every_softmax
@pytest.mark.parametrize("shape", [(1, 1), (2, 1, 9), (2, 6, 6), (33, 33), (2, 3, 4, 11)])
@engines
def test_causal_softmax_leaves_public_zeros(name, shape, in_slots):
    kind, total = SOFTMAXES[name]
    rng = np.random.default_rng(prod(shape))
    x = rng.normal(0, 4, shape).clip(-16, 16)
    # What lies above the diagonal must not count, however large.
    x[mask(shape, True) == 0] = 16.0
    got = check(kind(16.0, causal=True), x, in_slots, total)
    assert (got[mask(shape, True) == 0] == 0).all()
    first = got[..., 0, 0] if shape[-2] == shape[-1] else np.ones(1)
    assert np.abs(first - 1).max() < 2.0**-8


@every_softmax
def test_causal_softmax_costs_about_half(name):
    kind, _ = SOFTMAXES[name]
    context = Context(FIXED, OtProducts(16))
    full, causal = (kind(16.0, causal=c).cost((4, 64, 64), context) for c in (False, True))
    assert causal.ots.total < 0.55 * full.ots.total
    assert causal.traffic.sent_bytes < 0.55 * full.traffic.sent_bytes
    assert causal.traffic.rounds == full.traffic.rounds
    with pytest.raises(UsageError, match="8 queries for 4 keys"):
        kind(16.0, causal=True).cost((8, 4), context)


@every_softmax
def test_softmax_references_on_rows_of_a_hundred(name):
    protocol = SOFTMAXES[name][0](512.0, causal=False)
    rows = [adversarial_rows(b, 100) for b in (0.25, 1.0, 32.0, 512.0)]
    # One or two large scores among equal small ones.
    rows += [
        np.where(np.arange(100) < k, 0.0, np.linspace(-14, 0, 71)[:, None]) for k in (1, 2, 50)
    ]
    rows = np.concatenate(rows)
    error = np.abs(protocol.reference(rows) - protocol.true_function(rows)).max()
    assert protocol.approximation_error / 8 <= error <= protocol.approximation_error


@pytest.mark.parametrize("length", [1, 2, 3, 16, 100, 257, 512])
@every_softmax
def test_softmax_errors_grow_with_the_length_of_rows(name, length):
    protocol = SOFTMAXES[name][0](512.0, causal=False)
    declared = protocol.approximation_error_of_rows(length)
    low, places = np.linspace(-14, 0, 281)[:, None], np.arange(length)
    rows = [np.where(places < k, 0.0, low) for k in {1, 2, length // 2, length - 1}]
    rows += [np.random.default_rng(length).uniform(-s, 0, (500, length)) for s in (1, 4, 10)]
    if length > 1:
        rows += [adversarial_rows(b, length) for b in (0.25, 1.0, 32.0, 512.0)]
    rows = np.concatenate(rows)
    error = np.abs(protocol.reference(rows) - protocol.true_function(rows)).max()
    assert error <= declared
    if length > 1:
        assert declared / 8 <= error
    assert protocol.approximation_error_of_rows(100) <= protocol.approximation_error


def test_without_a_mask_the_causal_softmax_is_the_plain_one():
    rows = np.random.default_rng(8).normal(0, 3, (20, 12))
    plain = SquaredPolynomialSoftmax(bound=16.0).reference(rows)
    assert np.allclose(SquaredPolynomialCausalSoftmax(16.0, causal=False).reference(rows), plain)


def test_published_exponentials():
    z = np.linspace(-9.7, 0, 5001)
    assert np.abs(BoltSoftmax(8.0).exponential(z) - np.exp(z)).max() < 2.2e-3
    z = np.linspace(-14, 0, 5001)
    published = (1 + z / 64) ** 64
    assert np.allclose(BumbleBeeSoftmax(8.0).exponential(z), published, atol=1e-14)
    s = np.linspace(1, 2, 2001)
    for kind, largest in ((BoltSoftmax, 1.3e-5), (BumbleBeeSoftmax, 5.5e-5)):
        assert np.abs(kind(8.0).inverse(s) * s - 1).max() < largest


# -- what all declare ----------------------------------------------------------------------

SMALL = {
    **{f"gelu {name}": kind(bound=8.0) for name, (kind, _, _) in GELUS.items()},
    **{f"softmax {name}": kind(8.0, causal=False) for name, (kind, _) in SOFTMAXES.items()},
    **{f"causal {name}": kind(8.0, causal=True) for name, (kind, _) in SOFTMAXES.items()},
}


@pytest.mark.parametrize("shape", [(1, 16), (3, 16), (2, 3, 16), (5, 1, 16)])
@pytest.mark.parametrize("name", list(SMALL))
@engines
def test_any_shape_costs_what_it_declares(name, shape, in_slots):
    x = np.random.default_rng(prod(shape)).normal(size=shape)
    check(SMALL[name], x, in_slots)


@pytest.mark.parametrize("name", list(SMALL))
def test_declared_failures_are_improbable_and_rounds_do_not_grow_with_rows(name):
    for products in (slot_products(), OtProducts(16)):
        context = Context(FIXED, products)
        small, large = (SMALL[name].cost((rows, 1, 16), context) for rows in (1, 1000))
        assert small.traffic.rounds == large.traffic.rounds
        assert large.failure_probability < 2.0**-20
        assert large.traffic.sent_bytes > small.traffic.sent_bytes


@pytest.mark.parametrize("name", list(SMALL))
@engines
def test_equal_inputs_send_different_bytes(name, in_slots):
    sends_fresh_bytes(SMALL[name], np.linspace(-1.5, 1.5, 48).reshape(3, 16), in_slots)
