"""Prepared randomness: same results at the same cost, single use, nothing of a closed source."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_nonlinear.blocks import oblivious_transfer as ot
from mpc_nonlinear.blocks.compare import (
    Width,
    carry_cost,
    less_than_constants,
    less_than_constants_cost,
)
from mpc_nonlinear.blocks.digits import digit_sizes
from mpc_nonlinear.blocks.opening import masked_sum, masked_sum_cost
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.select import (
    bit_to_arithmetic,
    bit_to_arithmetic_cost,
    select,
    select_cost,
)
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.blocks.truncate import (
    round_exactly,
    round_exactly_cost,
    truncate,
    truncate_cost,
    widen,
    widen_cost,
)
from mpc_nonlinear.correlations.preprocessing import (
    leaf_kind,
    product_kind,
    table_kind,
    triple_kind,
)
from mpc_nonlinear.cost import NO_COST, Cost, Demand, Form, Kind, OtCount
from tests.ot_sources import quick_session, source_factory, stocked
from tests.test_mpc_contract import FIXED, ring, signed
from tests.test_ot_sources import assert_uniform, recorded
from transport.errors import UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

N = 333
WIDTH = Width(25, 0)
BOUNDS = Bounds(4.0, 4.0, 16.0)
VALUES = ring(np.linspace(-(2**20), 2**20, N).astype(np.int64))
BITS = (np.arange(N) % 3 == 0).astype(np.uint8)
MASKS = SecureRandom().uint64(N), SecureRandom().bits(N)


def shares(session):
    """Of VALUES and BITS."""
    if session.party is Party.CLIENT:
        return MASKS
    return VALUES - MASKS[0], BITS ^ MASKS[1]


def tables(session):
    entries = (np.arange(16, dtype=np.uint8) + np.arange(N, dtype=np.uint8)[:, None]) & np.uint8(15)
    if session.party is Party.SERVER:
        ot.one_of_16_send(entries, 4, session)
        return np.zeros(N, np.uint8)
    return ot.one_of_16_receive(BITS * np.uint8(7), 4, session) - entries[np.arange(N), 7 * BITS]


def chosen_rows(session):
    x = shares(session)[0].reshape(-1, 3)
    mask = (BITS == 1)[: len(x)] if session.party is Party.CLIENT else None
    return masked_sum(x, session, mask)


# name: (role, cost, expected sum of both results)
BLOCKS = {
    "compare": (
        lambda s: less_than_constants(shares(s)[0], [0, 77], WIDTH, s),
        less_than_constants_cost(N, 2, WIDTH),
        None,
    ),
    "select": (lambda s: select(shares(s)[1], shares(s)[0], s), select_cost(N), VALUES * BITS),
    "convert": (
        lambda s: bit_to_arithmetic(shares(s)[1], s),
        bit_to_arithmetic_cost(N),
        BITS.astype(np.uint64),
    ),
    "round": (
        lambda s: round_exactly(shares(s)[0], 6, s),
        round_exactly_cost(N, 6),
        ((VALUES.view(np.int64) + 32) >> 6).view(np.uint64),
    ),
    "square": (
        lambda s: OtProducts(16).square(shares(s)[0][:20], s, BOUNDS),
        OtProducts(16).square_cost(20, BOUNDS),
        None,
    ),
    "table": (tables, ot.one_of_16_cost(N, 4, Party.SERVER), np.zeros(N, np.uint64)),
    "rows": (
        chosen_rows,
        masked_sum_cost(N // 3, 3),
        VALUES.reshape(-1, 3)[BITS[: N // 3] == 1].sum(0, dtype=np.uint64),
    ),
}


def run_block(name, prepared, times=1):
    """Results of `times` runs, of which the first `prepared` were prepared for."""
    role, cost, _ = BLOCKS[name]

    def party(channel):
        session = quick_session(channel, cost.ots * times)
        session.prepared.prepare(cost.demand * prepared)
        left = cost.ots * (times - prepared)
        assert session.correlations.stock() == left
        assert session.prepared.stock() == cost.demand * prepared
        results = []
        for index in range(times):
            with channel.step(f"run{index}"):
                results.append(role(session))
        assert session.correlations.stock() == OtCount()
        assert session.prepared.stock() == Demand()
        return results

    left, right, channel = run_both(party)
    for index in range(times):
        assert channel.traffic(f"run{index}") == cost.traffic
    return left, right


@pytest.mark.parametrize("name", list(BLOCKS))
@pytest.mark.parametrize("prepared", [0, 1, 3], ids=["none", "some", "all"])
def test_results_do_not_depend_on_what_was_prepared(name, prepared):
    role, cost, expected = BLOCKS[name]
    assert cost.demand.ots == cost.ots
    left, right = run_block(name, prepared, 3)
    for a, b in zip(left, right, strict=True):
        if name == "compare":
            assert np.array_equal(a ^ b, signed(VALUES) < np.array([[0], [77]]))
        elif name == "square":
            exact = FIXED.decode(VALUES[:20]) ** 2
            assert np.abs(FIXED.decode(a + b) - exact).max() <= FIXED.unit
        else:
            assert np.array_equal(a + b, expected)


@pytest.mark.parametrize("name", ["compare", "select", "square"])
def test_a_stock_that_is_too_small_is_used_up_first(name):
    role, cost, _ = BLOCKS[name]
    half = Demand(tuple((kind, count // 2) for kind, count in cost.demand.counts))

    def party(channel):
        session = quick_session(channel, cost.ots)
        session.prepared.prepare(half)
        result = role(session)
        assert session.correlations.stock() == OtCount()
        assert session.prepared.stock() == Demand()
        return result

    left, right, _ = run_both(party)
    if name == "compare":
        assert np.array_equal(left ^ right, signed(VALUES) < np.array([[0], [77]]))
    if name == "select":
        assert np.array_equal(left + right, VALUES * BITS)


KINDS = [
    product_kind(13, Party.CLIENT, 3),
    table_kind(3, 20, Party.SERVER),
    leaf_kind(4, 2, Party.SERVER, 3),
    leaf_kind(1, 1, Party.CLIENT, 1),
    leaf_kind(3, 2, Party.SERVER, 9),
    triple_kind(1),
    triple_kind(2),
]


def halves(kind, count):
    """Client's and server's halves of instances that were made in two parts."""

    def party(channel):
        session = quick_session(channel, kind.ots * count)
        session.prepared.prepare(Demand.of(kind, count - 5))
        session.prepared.prepare(Demand.of(kind, 5))
        return session.prepared._take(kind, count)

    return run_both(party)[:2]


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.form.name} {k.bits} {k.width}")
def test_halves_fit_together(kind):
    n = 1000
    client, server = halves(kind, n)
    if kind.form is Form.TRIPLE:
        (first,), (second,) = client, server
        both = first ^ second
        a, b = both & 1, both >> 1 & (2**kind.bits - 1)
        assert np.array_equal(both >> (1 + kind.bits), a * b)
        return
    sender, receiver = (client, server) if kind.sender is Party.CLIENT else (server, client)
    index, mask = receiver
    rows = np.arange(n)
    assert np.array_equal(np.unique(index), np.arange(2**kind.choice_bits))
    if kind.form is Form.PRODUCT:
        pad, difference = sender
        assert np.array_equal(np.where(index[:, None] == 0, pad, pad - difference), mask)
    elif kind.form is Form.TABLE:
        assert np.array_equal(sender[0][rows, index] % 2**kind.bits, mask % 2**kind.bits)
    else:
        words = sender[0].astype(np.uint64)
        shift = index.astype(np.uint64)[:, None] * np.uint64(kind.bits)
        assert np.array_equal(words >> shift & np.uint64(2**kind.bits - 1), mask)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{k.form.name} {k.bits} {k.width}")
def test_halves_are_uniform_and_masks_differ(kind):
    client, server = halves(kind, 4096)
    for part in (*client, *server):
        of_pads = kind.form is Form.PRODUCT and part.ndim == 2
        for bit in range(kind.bits if of_pads else 1):
            ones = part >> part.dtype.type(bit) & part.dtype.type(1)
            assert 0.45 < ones.mean() < 0.55
    if kind.form is Form.TABLE:
        masks = server[0] & np.uint32(2**kind.bits - 1)
        # 32768 masks of 20 bits: about 500 meet by chance.
        assert len(np.unique(masks)) > 0.95 * masks.size


def test_too_few_raw_ots_are_refused_and_nothing_is_lost():
    def party(channel):
        session = quick_session(channel, OtCount(100, 100))
        need = Demand.of(triple_kind(1), 60) + Demand.of(product_kind(8, Party.SERVER), 41)
        with pytest.raises(UsageError, match="1 from the server are missing"):
            session.prepared.prepare(need)
        assert session.correlations.stock() == OtCount(100, 100)
        assert session.prepared.stock() == Demand()

    run_both(party)


def test_what_was_made_of_a_closed_source_is_not_used():
    def party(channel):
        session = quick_session(channel, OtCount(100, 100))
        session.prepared.prepare(Demand.of(triple_kind(1), 100))
        session.correlations.close()
        with pytest.raises(UsageError, match="closed"):
            session.prepared.triples(triple_kind(1), 10)

    run_both(party)


@pytest.mark.parametrize("name", ["softspoken", "iknp", "dealer"])
def test_messages_of_a_comparison_are_uniform(name):
    """All inputs are zero, so whatever is not uniform on the wire is a missing mask."""
    n, width = 1 << 15, Width(25, 0)
    cost = less_than_constants_cost(n, 1, width) + bit_to_arithmetic_cost(n)

    def party(channel):
        source = stocked(make(channel), cost.ots, channel)
        session = Session(channel, Context(FIXED, None), source, SecureRandom())
        session.prepared.prepare(cost.demand)
        sent = recorded(channel)
        (bits,) = less_than_constants(np.zeros(n, np.uint64), [0], width, session)
        bit_to_arithmetic(bits, session)
        return sent, bits

    with source_factory(name) as make:
        (client, left), (server, right), _ = run_both(party)
    assert not (left ^ right).any()
    assert len(client) == len(server) == 1 + 3 + 1
    for frame in client + server:
        assert_uniform(frame)


@given(st.integers(1, 63))
def test_digits_are_even_and_as_few_levels_as_digits_of_four(bits):
    sizes = digit_sizes(bits)
    fours = -(-bits // 4)
    assert sum(sizes) == bits
    assert max(sizes) <= 4
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)
    assert len(sizes) == 1 << (fours - 1).bit_length()
    assert carry_cost(1, bits).traffic.rounds == 2 + (fours - 1).bit_length()


def test_comparisons_stay_narrow_on_the_wire():
    """Bits online, both ways, and raw OTs for one of many comparisons with one threshold."""
    limits = {13: (75, 18), 17: (135, 22), 25: (165, 38), 33: (293, 46), 61: (543, 90)}
    for bits, (most, raw) in limits.items():
        cost = less_than_constants_cost(1 << 10, 1, Width(bits, 0))
        payload = cost.traffic.client_payload_bytes + cost.traffic.server_payload_bytes
        assert 8 * payload <= most << 10
        assert cost.ots.total == raw << 10


kinds = st.sampled_from(KINDS)
demands = st.lists(st.tuples(kinds, st.integers(0, 9)), max_size=6).map(
    lambda items: sum((Demand.of(k, n) for k, n in items), Demand())
)


@given(demands, demands, st.integers(0, 3))
def test_demands_add_up(first, second, times):
    assert first + second == second + first
    assert hash(first + second) == hash(second + first)
    assert (first + second).ots == first.ots + second.ots
    assert (first * times).ots == first.ots * times
    assert sum((first for _ in range(times)), Demand()) == first * times


def test_costs_carry_their_demand():
    one, other = select_cost(3), truncate_cost(4, 5)
    assert (one + other).demand == one.demand + other.demand
    assert (one * 2).demand == one.demand * 2
    assert NO_COST == Cost() == one * 0
    assert Kind(Form.TRIPLE, 1).ots == OtCount(1, 1)


@pytest.mark.parametrize("bits", [2, 3, 16, 40, 63])
def test_widening_keeps_the_value(bits):
    largest = (1 << (bits - 2)) - 1
    values = np.unique([-largest, -1, 0, 1, largest])
    values = values[np.abs(values) <= largest]
    wanted = np.repeat(values, 50)
    low = np.uint64((1 << bits) - 1)
    first = SecureRandom().uint64(wanted.size)
    # Bits above the narrow ring are arbitrary.
    pair = first, (ring(wanted) - first) & low | (SecureRandom().uint64(wanted.size) & ~low)
    cost = widen_cost(wanted.size, bits)

    def party(channel):
        session = quick_session(channel, cost.ots)
        with channel.step("widen"):
            return widen(pair[channel.party], bits, session)

    left, right, channel = run_both(party)
    assert np.array_equal(signed(left + right), wanted)
    assert channel.traffic("widen") == cost.traffic
    assert cost.traffic.rounds == 1


@pytest.mark.parametrize("bits", [1, 64])
def test_widths_that_cannot_be_widened(bits):
    def party(channel):
        with pytest.raises(UsageError, match="widen"):
            widen(np.zeros(2, np.uint64), bits, quick_session(channel, OtCount()))

    run_both(party)


@pytest.mark.parametrize("bits", [2, 8, 24, 63])
def test_narrow_results_are_right_modulo_their_ring(bits):
    cost = select_cost(N, bits) + bit_to_arithmetic_cost(N, bits)
    low = np.uint64((1 << bits) - 1)

    def party(channel):
        session = quick_session(channel, cost.ots)
        x, bit = shares(session)
        with channel.step("narrow"):
            return select(bit, x, session, bits), bit_to_arithmetic(bit, session, bits)

    left, right, channel = run_both(party)
    assert np.array_equal((left[0] + right[0]) & low, VALUES * BITS & low)
    assert np.array_equal((left[1] + right[1]) & low, BITS.astype(np.uint64))
    assert max(part.max() for part in (*left, *right)) <= low
    assert channel.traffic("narrow") == cost.traffic
    assert cost.traffic.rounds == 2


def test_truncation_then_widening_of_narrow_selections():
    """A tournament step in a small ring: select, widen, truncate."""
    bits, shift = 24, 4
    cost = select_cost(N, bits) + widen_cost(N, bits) + truncate_cost(N, shift)

    def party(channel):
        session = quick_session(channel, cost.ots)
        session.prepared.prepare(cost.demand)
        x, bit = shares(session)
        return truncate(widen(select(bit, x, session, bits), bits, session), shift, session)

    left, right, _ = run_both(party)
    exact = (signed(VALUES) * BITS.astype(np.int64)) / 2**shift
    assert np.abs(signed(left + right) - exact).max() < 1
