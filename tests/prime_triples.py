"""Products by triples modulo a prime, with triples made in the clear: quick, and not secret."""

import numpy as np

from he_linear.exact.slot_parameters import SLOT_SETS
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Form, OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from tests.ot_sources import InsecureLocalSource, stocked
from transport.local import run_both
from transport.randomness import SEED_BYTES, SecureRandom
from transport.traffic import Party

T = SLOT_SETS["n8192_t44"].plain_prime


def store_clear(prepared, demand, party, seed):
    """True triples from a seed that both parties know."""
    stream = SecureRandom(seed, domain="clear triples")
    for kind, count in demand.counts:
        if not kind.form.is_stored:
            continue
        t = kind.shape[0]
        if kind.form is Form.PRIME_CUBE:
            prepared.store(kind, clear_cubes(stream, count, party, t))
            continue
        size = 1 if kind.form is Form.PRIME_SQUARE else 2
        draw = (stream.uint64((size + 1, 2, count)) % np.uint64(t)).astype(object)
        first, second = draw[0].sum(0), draw[size - 1].sum(0)
        client = [*draw[:size, 0], draw[size, 0]]
        server = [*draw[:size, 1], (first * second - draw[size, 0]) % t]
        own = client if party is Party.CLIENT else server
        prepared.store(kind, tuple(part.astype(np.uint64) for part in own))


def clear_cubes(stream, count, party, t):
    draw = (stream.uint64((3, 2, count)) % np.uint64(t)).astype(object)
    for power in (1, 2):
        draw[power, 1] = (draw[0].sum(0) ** (power + 1) - draw[power, 0]) % t
    return tuple(part.astype(np.uint64) for part in draw[:, party])


def run_products(function, cost, *values, fraction_bits=16, products=None, shares=None):
    """Both results of function(session, *shares), with exactly what `cost` declares."""
    seed = SecureRandom().bytes(SEED_BYTES)
    pairs = []
    for index, value in enumerate(values):
        first = SecureRandom().uint64(value.shape) if shares is None else shares[index]
        pairs.append((first, value - first))

    def role(channel):
        source = stocked(InsecureLocalSource(channel.party, seed), cost.ots, channel)
        engine = products or PrimeProducts(fraction_bits, T)
        context = Context(FixedPoint(fraction_bits), engine)
        session = Session(channel, context, source, SecureRandom())
        store_clear(session.prepared, cost.demand, channel.party, seed)
        session.prepared.prepare(cost.demand)
        with channel.step("run"):
            result = function(session, *(pair[channel.party] for pair in pairs))
        assert source.stock() == OtCount()
        assert not session.prepared.stock().counts
        return result

    client, server, channel = run_both(role)
    assert channel.traffic("run") == cost.traffic
    return client, server
