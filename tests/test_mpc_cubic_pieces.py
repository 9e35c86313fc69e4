"""Activations as cubic pieces: powers of one opening, messages that ride, errors at every knot."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.models.graph import Node
from hybrid.models.ranges import Bound
from hybrid.operators.base import Choice
from hybrid.operators.nonlinear import NonlinearOperator
from hybrid.testing.contracts import InsecureLocalParties, MisuseError, check_protocol
from mpc_nonlinear.blocks import prime_cubes
from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.prime_arithmetic import combinations
from mpc_nonlinear.blocks.prime_cubes import PrimePowers, powers_cost
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.prime_shares import from_prime_limit
from mpc_nonlinear.blocks.riding import riding, riding_cost
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import NO_COST, Demand
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols.cubic_pieces import SCALE_BITS, CubicPiece
from mpc_nonlinear.protocols.gelu_tanh import CubicPiecesGeluTanh
from mpc_nonlinear.protocols.silu import CubicPiecesSilu, MagnitudePolynomialSilu
from tests.he_setup import looks_uniform
from tests.ot_sources import quick_session, run_misbehaving
from tests.prime_triples import T, run_products, store_clear
from transport.bitpack import pack_bits, unpack_bits
from transport.errors import ConfigError, FrameError, UsageError
from transport.local import run_both
from transport.randomness import SEED_BYTES, SecureRandom
from transport.traffic import Party, Traffic

FIXED = FixedPoint(16)
CONTEXT = Context(FIXED, PrimeProducts(16, T))
BOTH = (CubicPiecesSilu, CubicPiecesGeluTanh)
every_activation = pytest.mark.parametrize("cls", BOTH, ids=lambda cls: cls.op)
residues = st.lists(
    st.one_of(st.integers(0, T - 1), st.sampled_from([0, 1, T // 2, T - 1])), min_size=1, max_size=9
)


def alone(cost):
    """Where what rides travels alone."""
    size = cost.traffic.client_payload_bytes
    return replace(cost, traffic=Traffic.exchange(size, size))


def shared_residues(numbers):
    """Shares modulo t, client's first."""
    whole = np.array(numbers, np.uint64)
    first = SecureRandom().uint64(whole.shape) % np.uint64(T)
    return first, (whole + np.uint64(T) - first) % np.uint64(T)


# -- powers ----------------------------------------------------------------------------------


def powers_of(numbers):
    pairs = shared_residues(numbers)

    def role(session):
        powers = PrimePowers(pairs[session.party], T, session)
        session.channel.next_round()
        return powers.shares(session.channel.exchange(powers.message))

    client, server = run_products(role, alone(powers_cost(len(numbers), T)))
    return [
        [int(a) + int(b) for a, b in zip(*two, strict=True)]
        for two in zip(client, server, strict=True)
    ]


@given(residues)
@settings(max_examples=25, deadline=None)
def test_powers_are_exact(numbers):
    square, cube = powers_of(numbers)
    assert all((s - n**2) % T == 0 for n, s in zip(numbers, square, strict=True))
    assert all((c - n**3) % T == 0 for n, c in zip(numbers, cube, strict=True))


def test_powers_that_forget_a_term_are_noticed(monkeypatch):
    monkeypatch.setattr(prime_cubes, "Party", type("Nobody", (), {"SERVER": None}))
    with pytest.raises(AssertionError):
        test_powers_are_exact()


@pytest.mark.parametrize("modulus", [T, 3, (1 << 50) - 27])
def test_combinations_are_those_of_integers(modulus):
    rng = np.random.default_rng(2)
    sizes = ((4, 700), (3, 4), (3,))
    operands, factors, constants = (rng.integers(0, modulus, s).astype(np.uint64) for s in sizes)
    operands[:, :2], factors[0], constants[0] = modulus - 1, modulus - 1, modulus - 1
    got = combinations(operands, factors, constants, modulus)
    exact = factors.astype(object) @ operands.astype(object) + constants.astype(object)[:, None]
    assert (got.astype(object) == exact % modulus).all()
    with pytest.raises(UsageError, match="at most 50 bits"):
        combinations(operands, factors, constants, (1 << 50) + 1)


def session_with(channel, count):
    session = quick_session(channel, NO_COST.ots, products=CONTEXT.products)
    demand = Demand.of(prime_cubes.prime_cube_kind(T), count)
    store_clear(session.prepared, demand, channel.party, bytes(SEED_BYTES))
    return session


def test_cubes_serve_once():
    def role(channel):
        session, x = session_with(channel, 2), np.zeros(2, np.uint64)
        PrimePowers(x, T, session)
        # Gone before anything is sent.
        assert not session.prepared.stock().counts
        with pytest.raises(UsageError, match="2 prime_cube modulo 17592186028033 are missing"):
            PrimePowers(x, T, session)
        assert channel.total == Traffic()

    run_both(role)


def test_cubes_that_serve_twice_are_noticed(monkeypatch):
    def peek(prepared, kind, count):
        return tuple(part[:count] for part in prepared._stock[kind][0])

    monkeypatch.setattr(Prepared, "dealt", peek)
    with pytest.raises(AssertionError):
        test_cubes_serve_once()


@pytest.mark.parametrize("party", list(Party))
def test_what_is_opened_is_uniform(party):
    def opened(channel):
        seed = SecureRandom().bytes(SEED_BYTES) if channel.party is Party.CLIENT else None
        if seed is None:
            seed = channel.recv(SEED_BYTES)
        else:
            channel.send(seed)
        session = quick_session(channel, NO_COST.ots, products=CONTEXT.products)
        demand = Demand.of(prime_cubes.prime_cube_kind(T), 3000)
        store_clear(session.prepared, demand, channel.party, seed)
        return PrimePowers(np.full(3000, 7, np.uint64), T, session).message

    first, second = (unpack_bits(run_both(opened)[party], 3000, 44) for _ in range(2))
    for words in (first, second, (first + np.uint64(T) - second) % np.uint64(T)):
        assert looks_uniform(words << np.uint64(20) | words & np.uint64(2**20 - 1))


def test_corrupt_words_are_refused():
    def role(channel):
        powers = PrimePowers(np.zeros(1, np.uint64), T, session_with(channel, 1))
        with pytest.raises(FrameError, match="exceeds the prime"):
            powers.shares(pack_bits(np.array([T], np.uint64), 44))

    run_both(role)


# -- messages that ride ------------------------------------------------------------------------


def test_a_message_that_rides_takes_no_frame_and_no_round():
    x, width = FIXED.encode(np.array([-1.0, 2.0, 3.0])), Width(20, 0)
    cost = less_than_zero_cost(3, width)

    def role(session, v):
        rode, channel = riding(session, bytes([session.party]) * 5)
        return less_than_zero(v, width, rode), channel.theirs

    client, server = run_products(role, cost + riding_cost(5, Demand()), x)
    assert (client[0] ^ server[0]).tolist() == [1, 0, 0]
    assert (client[1], server[1]) == (bytes([1]) * 5, bytes([0]) * 5)


def test_a_message_that_found_nothing_to_ride_on_is_no_message():
    def role(channel):
        session = session_with(channel, 0)
        _, ride = riding(session, b"12345")
        with pytest.raises(UsageError, match="riding: the block sent or received nothing"):
            _ = ride.theirs
        if channel.party is Party.CLIENT:
            channel.send(b"1234")
        else:
            with pytest.raises(FrameError, match="shorter than the message"):
                ride.recv()

    run_misbehaving(role)


# -- activations -------------------------------------------------------------------------------


def points(protocol):
    """Units around every knot, the slack and beyond it, both bounds, what lies between."""
    b, unit = protocol.bound, FIXED.unit
    largest = max(piece.slack for piece in protocol.pieces)
    around = np.concatenate([unit * np.arange(-3, 4), np.linspace(-1.5, 1.5, 99) * largest])
    near = np.add.outer(protocol.breakpoints, around).reshape(-1)
    ends = [b, -b, b - unit, unit - b, b / 3, 0.0, unit, -unit]
    x = np.concatenate([near, ends, np.linspace(-10, 10, 401), np.linspace(-b, b, 101)])
    return FIXED.decode(FIXED.encode(np.clip(x, -b, b)))


def private(protocol, x):
    cost = protocol.cost(x.shape, CONTEXT)
    client, server = run_products(lambda s, v: protocol.run(v, s), cost, FIXED.encode(x))
    return FIXED.decode(client + server)


@every_activation
@pytest.mark.parametrize("bound", [2.0**-10, 0.5, 8.0, 32.0, 64.0, 100.0, 512.0, 2.0**18, 2.0**30])
def test_errors_are_what_is_declared_for_any_bound(cls, bound):
    protocol = cls(bound=bound)
    x = points(protocol)
    found = private(protocol, x)
    assert np.abs(found - protocol.true_function(x)).max() <= protocol.true_error
    assert np.abs(found - protocol.reference(x)).max() <= protocol.max_error
    assert protocol.true_error < 2.0**-9


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 1, 7), (2, 3, 5)])
def test_any_shape(shape):
    protocol = CubicPiecesSilu(bound=16.0)
    x = np.random.default_rng(len(shape)).normal(0, 4, shape)
    away = np.abs(private(protocol, x) - protocol.true_function(x))
    assert away.shape == shape
    assert away.max() <= protocol.true_error


def test_nothing_costs_nothing():
    protocol = CubicPiecesSilu(bound=16.0)
    assert protocol.cost((0, 3), CONTEXT) == NO_COST
    assert private(protocol, np.zeros((0, 3))).shape == (0, 3)


def test_far_numbers_keep_their_last_digit():
    # The selection multiplies garbage modulo t by zero, exactly.
    protocol = CubicPiecesSilu(bound=2.0**30)
    x = np.concatenate([2.0 ** np.arange(5, 31), -(2.0 ** np.arange(5, 31)), [9.0, -9.0, 777.77]])
    x = FIXED.decode(FIXED.encode(x))
    away = private(protocol, x) - (np.maximum(x, 0) + protocol.outside)
    assert np.abs(away).max() <= 1.125 * FIXED.unit


def ends_of(cls):
    """Knots from zero on, and how far off their comparisons may be."""
    return [(0.0, cls.zero_slack), *((piece.end, piece.slack) for piece in cls.pieces)]


def held(cls, count=40_001):
    """Each piece, and where it must hold."""
    ends = ends_of(cls)
    return [
        (piece, np.linspace(low - below, high + above, count))
        for piece, (low, below), (high, above) in zip(cls.pieces, ends, ends[1:], strict=False)
    ]


@every_activation
def test_pieces_fit_the_prime_and_their_steps(cls):
    for (piece, a), lowest in zip(held(cls, 4001), cls.lowest(), strict=True):
        assert a[0] == lowest
        largest = np.abs(piece(a) - cls.outside).max() * 2.0**SCALE_BITS
        # Rounding of operands moves a value by less than a hundredth.
        assert 1.01 * largest < from_prime_limit(T, SCALE_BITS - 16)
        units = piece.coefficients[3] * 2.0**SCALE_BITS / cls.steps**3
        assert abs(units - round(units)) < 1e-6
        middle, half = piece.steepest(lowest)
        slope = 2 * piece.coefficients[2] * a + 3 * piece.coefficients[3] * a**2
        assert np.isclose(np.abs(slope - middle).max(), half, rtol=1e-3)
    ends = [piece.end for piece in cls.pieces]
    assert cls.breakpoints == (*(-end for end in ends[::-1]), 0.0, *ends)


@every_activation
def test_declared_errors_cover_the_worst_that_can_add_up(cls):
    true, last = cls(bound=16.0).true_function, cls.pieces[-1]
    fits, totals = [], []
    for (piece, a), lowest in zip(held(cls), cls.lowest(), strict=True):
        fits.append(np.abs(piece(a) - true(-a)).max())
        # Both shares of an operand round by half a step; 1.01 units of the way back and `outside`.
        totals.append(fits[-1] + piece.steepest(lowest)[1] / cls.steps + 1.01 * FIXED.unit)
    tail = last.end - last.slack + np.linspace(0, 20, 4001)
    fits.append(np.abs(cls.outside - true(-tail)).max())
    assert max(*totals, fits[-1] + FIXED.unit) <= cls.true_error
    assert max(fits) <= cls.approximation_error
    others = [*cls.pieces, lambda a: np.full_like(a, cls.outside)]
    added = max(total - fit for total, fit in zip(totals, fits, strict=False))
    zero, *ends = ends_of(cls)
    away = [
        np.abs(one(a) - other(a)).max()
        for one, other, (end, slack) in zip(others, others[1:], ends, strict=False)
        for a in [end + slack * np.linspace(-1, 1, 4001)]
    ]
    a = zero[1] * np.linspace(-1, 1, 4001)
    away.append(np.abs(np.minimum(a, 0) + cls.pieces[0](a) - cls.pieces[0](np.abs(a))).max())
    assert max(away) + added <= cls.max_error


@every_activation
@pytest.mark.parametrize("bound", [2.0**-10, 3.0, 16.0, 32.0, 64.0, 128.0, 300.0, 1000.0])
def test_steps_are_no_coarser_than_pieces_allow(cls, bound):
    steps = cls(bound=bound)._steps()
    if bound == 1000.0:
        assert steps is None
        return
    ends = ends_of(cls)
    knots = [k for k in steps.compared.thresholds if k >= 0]
    assert steps.compared.thresholds == (*(-k for k in knots[:0:-1]), *knots)
    for knot, (end, slack) in zip(knots, ends, strict=True):
        assert abs(knot * steps.step - end) + steps.step * (0.5 + 2.0**-8) <= slack
    # Two floors and a rounding: fewer steps than three away from x in any direction.
    assert bound / steps.step + knots[-1] + 2 <= 1 << (steps.compared.low + steps.compared.high)


@every_activation
def test_pieces_that_hold_less_far_than_steps_reach_are_noticed(cls, monkeypatch):
    wide = tuple(replace(piece, slack=4 * piece.slack) for piece in cls.pieces)
    monkeypatch.setattr(cls, "pieces", wide)
    monkeypatch.setattr(cls, "zero_slack", 4 * cls.zero_slack)
    protocol = cls(bound=16.0)
    x = points(protocol)
    away = np.abs(private(protocol, x) - protocol.true_function(x))
    assert away.max() > protocol.true_error


def test_the_slope_of_a_straight_middle():
    assert CubicPiece(2.0, (0.0, 1.0, 0.5, 1.0), 0.1).steepest(1.0)[1] > 5


@every_activation
def test_a_wrong_piece_is_noticed(cls, monkeypatch):
    first, *others = cls.pieces
    constant, *rest = first.coefficients
    bent = replace(first, coefficients=(constant + 2.0**-9, *rest))
    monkeypatch.setattr(cls, "pieces", (bent, *others))
    protocol = cls(bound=16.0)
    x = np.linspace(-1, 1, 50)
    away = np.abs(private(protocol, x) - protocol.true_function(x))
    assert away.max() > protocol.true_error


# -- what it costs -----------------------------------------------------------------------------


def test_a_token_of_smollm2_costs_half_of_what_it_did():
    new, old = (cls(bound=50.0).cost((1, 1536), CONTEXT) for cls in
                (CubicPiecesSilu, MagnitudePolynomialSilu))  # fmt: skip
    assert new.traffic.rounds <= 5 < old.traffic.rounds
    assert new.traffic.sent_bytes <= 94 * 1536 < old.traffic.sent_bytes / 2
    assert new.ots.total <= 30 * 1536
    assert [(k.form.name, n) for k, n in new.demand.counts if k.form.is_stored] == [
        ("PRIME_CUBE", 1536)
    ]


def test_failures_go_by_the_root_mean_square():
    known = CubicPiecesSilu(bound=50.0, rms=1.0).cost((614,), CONTEXT)
    assert known.failures == (("lift of operands modulo a prime", known.failure_probability),)
    assert known.failure_probability == 614 * 2.0**-48
    far = CubicPiecesSilu(bound=50.0, rms=50.0).cost((614,), CONTEXT)
    assert far.failure_probability == 50 * known.failure_probability
    made = CubicPiecesSilu.for_operation(3, {"input": Bound(0.0, 2.0, 8.0)}, {})
    assert (made.bound, made.rms) == (8.0, 2.0)


# -- only by one engine ------------------------------------------------------------------------


@every_activation
def test_other_products_are_refused_by_name(cls):
    with pytest.raises(UsageError, match=f"{cls.op}/cubic_pieces: products by ot; it works modulo"):
        cls(bound=8.0).cost((3,), Context(FIXED, OtProducts(16)))
    with pytest.raises(MisuseError, match=r"give parties=InsecureLocalParties\('slot_triples'\)"):
        check_protocol(cls(bound=8.0))


def test_plans_give_it_no_other_engine():
    node = Node("s", 0, "silu", ("x",), ("y",), (2, 3), bounds={"input": Bound(0.0, 1.0, 8.0)})
    context = InsecureLocalParties("slot_triples").plan_context()
    context = replace(context, products={**context.products, "ot": OtProducts(16)})
    engines = dict.fromkeys(("ot", "slot_triples"), CONTEXT.products)
    choices = list(NonlinearOperator.choices(CubicPiecesSilu, engines))
    assert [c.multiply for c in choices] == ["slot_triples"]
    assert len(list(NonlinearOperator.choices(MagnitudePolynomialSilu, engines))) == 2
    operator = NonlinearOperator(node, CubicPiecesSilu, choices[0], context)
    assert operator.cost() == CubicPiecesSilu(8.0, 1.0).cost((2, 3), context.mpc("slot_triples"))
    with pytest.raises(ConfigError, match="s: silu/cubic_pieces works with products by slot_tripl"):
        NonlinearOperator(node, CubicPiecesSilu, Choice("cubic_pieces", "ot"), context)
