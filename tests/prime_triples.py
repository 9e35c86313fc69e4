"""Products by triples modulo a prime, with triples made in the clear: quick, and not secret."""

from he_linear.exact.slot_parameters import SLOT_SETS
from hybrid.testing.local_parties import clear_products
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from tests.ot_sources import InsecureLocalSource, stocked
from transport.local import run_both
from transport.randomness import SEED_BYTES, SecureRandom

T = SLOT_SETS["n8192_t44"].plain_prime


def store_clear(prepared, demand, party, seed):
    """True triples from a seed that both parties know."""
    stream = SecureRandom(seed, domain="clear triples")
    for kind, count in demand.counts:
        if kind.form.is_stored:
            prepared.store(kind, clear_products(stream, kind, count, party))


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
