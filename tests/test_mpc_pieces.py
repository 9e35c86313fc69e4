"""Rows opened once, and the norms made of them: values, errors, cost, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hybrid.testing.contracts import InsecureLocalParties, check_protocol
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.prime_opening import opened, opened_cost
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.scaled_rows import ScaledRows, scaled_rows_cost
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.correlations.dealt import prime_cross_kind, prime_scaled_row_kind
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols.pieces import PiecesLayerNorm, PiecesRmsNorm
from tests.prime_triples import T, run_products
from transport.errors import FrameError, ParameterError, UsageError

FIXED = FixedPoint(16)
CONTEXT = Context(FIXED, PrimeProducts(16, T))


# -- rows opened once ----------------------------------------------------------------------


def residues(rng, *shape):
    return rng.integers(0, T, shape, dtype=np.uint64)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (2, 576)])
def test_sums_of_squares_and_products_are_exact_modulo_the_prime(shape):
    rng = np.random.default_rng(shape[1])
    x, r = residues(rng, *shape), residues(rng, shape[0])
    x[0, 0], r[0] = T - 1, T - 1

    def compute(session, x, r):
        rows = ScaledRows.open(x % np.uint64(T), T, session)
        (e,) = opened([(r % np.uint64(T), rows.factor_mask())], T, session)
        return np.concatenate([
            rows.sum_of_squares(session)[:, None],
            rows.times(e, session),
        ], axis=1)  # fmt: skip

    mine = [residues(rng, *shape), residues(rng, shape[0])]
    # Shares modulo t: the second party's is what is left.
    given = [x, r]
    whole = [(m, (v + np.uint64(T) - m) % np.uint64(T)) for m, v in zip(mine, given, strict=True)]

    def both(session, *_):
        return compute(session, *(pair[session.party] for pair in whole))

    client, server = run_products(both, scaled_rows_cost(*shape, T) + opened_cost(shape[0], T), x)
    got = (client.astype(object) + server) % T
    exact = x.astype(object)
    assert (got[:, 0] == (exact**2).sum(1) % T).all()
    assert (got[:, 1:] == exact * r.astype(object)[:, None] % T).all()


def test_every_mask_hides_one_number():
    sent = []

    def compute(session, x):
        channel, send = session.channel, session.channel.send
        channel.send = lambda payload: (sent.append(bytes(payload)), send(payload))[1]
        rows = ScaledRows.open(x % np.uint64(T), T, session)
        # A second use of the row's factor would need masks that are gone.
        assert not session.prepared.stock().counts
        (e,) = opened([(x[:, 0] % np.uint64(T), rows.factor_mask())], T, session)
        return rows.times(e, session)

    zeros = np.zeros((4, 9), np.uint64)
    for _ in range(2):
        cost = scaled_rows_cost(4, 9, T) + opened_cost(4, T)
        run_products(compute, cost, zeros, shares=[zeros])
    assert len(sent) == len(set(sent)) == 8


def test_a_word_above_the_prime_is_refused():
    def compute(session, x):
        channel = session.channel
        channel.exchange = lambda _, size: b"\xff" * size
        with pytest.raises(FrameError, match="a word exceeds the prime"):
            ScaledRows.open(x % np.uint64(T), T, session)
        raise UsageError("as expected")

    with pytest.raises(UsageError, match="as expected"):
        run_products(compute, scaled_rows_cost(2, 3, T), np.zeros((2, 3), np.uint64))


def test_rows_that_are_too_wide_are_refused():
    width = 2**64 // T + 1
    with pytest.raises(UsageError, match=f"scaled rows: {width} numbers"):
        ScaledRows.open(np.zeros((1, width), np.uint64), T, None)


def test_a_factor_is_hidden_once():
    empty = np.zeros((0, 3), np.uint64)
    rows = ScaledRows(T, empty, empty, empty[:, 0], empty, empty[:, 0])
    rows.factor_mask()
    with pytest.raises(UsageError, match="mask serves once"):
        rows.factor_mask()


# -- norms ---------------------------------------------------------------------------------


def residual(rng, rows, width, low, high):
    """Rows of mean squares from low to high; some of one spike, some of equal numbers."""
    x = rng.normal(size=(rows, width))
    x[1::3] = rng.normal(size=(1, width)) / 64
    x[1::3, width // 2] = 1
    x[2::3] = 1
    wanted = np.geomspace(low * 1.01, high / 1.01, rows)
    return x * np.sqrt(wanted / (x**2).mean(-1))[:, None]


@pytest.mark.parametrize("low,high", [(2.0**-9, 2.0**-4), (1.0, 2.0), (2.0, 4096.0), (128, 16384)])
@pytest.mark.parametrize("rows,width", [(1, 1), (1, 576), (7, 33), (30, 576)])
def test_rmsnorm_keeps_its_contract(rows, width, low, high):
    parties = InsecureLocalParties("slot_triples")
    protocol = PiecesRmsNorm(width, 1e-5, low, high, high, min(2.0**16, (high * width) ** 0.5 * 2))
    x = residual(np.random.default_rng(rows + width), rows, width, low, high)
    check = check_protocol(protocol, x, parties)
    assert check.error <= protocol.protocol_error(width, CONTEXT) < 2.0**-8


def test_layernorm_keeps_its_contract_beside_a_large_mean():
    parties = InsecureLocalParties("slot_triples")
    protocol = PiecesLayerNorm(384, 1e-12, 0.25, 64.0, 32.0, 64.0, 32.0)
    x = residual(np.random.default_rng(3), 6, 384, 0.25, 64.0)[::3]
    x = x - x.mean(-1, keepdims=True) + np.array([[20.0], [-20.0]])
    check = check_protocol(protocol, x[:, ::-1], parties)
    assert check.error < 2.0**-9


def test_zero_rows_give_zeros_and_small_ones_at_most_their_share():
    protocol = PiecesRmsNorm(33, 1e-5, 1.0, 64.0, 32.0, 64.0)
    x = np.zeros((3, 33))
    x[1], x[2] = 2.0**-6, -0.5
    cost = protocol.cost(x.shape, CONTEXT)
    client, server = run_products(lambda s, v: protocol.run(v, s), cost, FIXED.encode(x))
    got = FIXED.decode(client + server)
    assert np.abs(got - protocol.reference(x)).max() < 2.0**-9
    # Numbers are cut by two bits, of which any may be off by one unit.
    off = 2.2 * 4 * FIXED.unit + FIXED.unit
    assert (np.abs(got) <= 2.2 * np.abs(x) + off).all()


def test_twice_the_largest_mean_square_does_not_wrap_around():
    protocol = PiecesRmsNorm(576, 1e-5, 2.0, 4096.0, 256.0, 4096.0)
    x = np.random.default_rng(0).normal(size=(2, 576))
    x *= np.sqrt(np.array([[4096.0], [8191.0]]) / (x**2).mean(-1, keepdims=True))
    cost = protocol.cost(x.shape, CONTEXT)
    client, server = run_products(lambda s, v: protocol.run(v, s), cost, FIXED.encode(x))
    got = FIXED.decode(client + server)
    assert np.abs(got - protocol.reference(x)).max() < 2.0**-8


@pytest.mark.parametrize("epsilon", [0.2, 1.0])
def test_a_large_epsilon_is_what_is_divided_by(epsilon):
    protocol = PiecesRmsNorm(16, epsilon, 2.0**-8, 0.25, 0.125, 4.0)
    x = residual(np.random.default_rng(1), 6, 16, 2.0**-8, 0.25)
    check_protocol(protocol, x, InsecureLocalParties("slot_triples"))


def test_a_row_is_opened_once_and_comes_back_once():
    protocol = PiecesRmsNorm(576, 1e-5, 8.0, 256.0, 64.0, 256.0)
    cost = protocol.cost((1, 576), CONTEXT)
    demand = dict(cost.demand.counts)
    assert demand[prime_scaled_row_kind(T, 576)] == 1
    of_the_root = prime_cross_kind(T)
    assert {k for k in demand if k.form.is_stored} == {prime_scaled_row_kind(T, 576), of_the_root}
    assert demand[of_the_root] == 3 * len(
        protocol._scaling.powers(protocol._scaling.sizes(CONTEXT)).windows
    )
    assert cost.traffic.rounds == 5
    assert cost.traffic.sent_bytes < 16_000
    assert cost.failure_probability < 2.0**-34


def test_ranges_and_engines_that_do_not_fit_are_refused_by_name():
    fits = PiecesRmsNorm(576, 1e-5, 2.0, 4096.0, 256.0, 4096.0)
    with pytest.raises(UsageError, match="rmsnorm: mean square from 0.5 to 4096; by one opening"):
        replace(fits, square_min=0.5)
    with pytest.raises(UsageError, match="rmsnorm: bound 131072, largest mean square 4096"):
        replace(fits, bound=2.0**17)
    with pytest.raises(UsageError, match="allows sums of squares above"):
        replace(fits, width=2**17)
    with pytest.raises(ParameterError, match="products ot have no prime; set protocols.multiply"):
        fits.cost((1, 576), Context(FIXED, OtProducts(16)))
    fine = Context(FixedPoint(38), PrimeProducts(38, T))
    with pytest.raises(ParameterError, match="38 fraction bits do not fit a prime of 44 bits"):
        fits.cost((1, 576), fine)
