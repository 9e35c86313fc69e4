"""Cubes made in exact slots between two parties: values, traffic, noise, what each of them sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.exact.slot_encryption import slot_encrypt
from he_linear.packings.element_cubes import ElementCubesPacking
from hybrid.operators import slot_cubes, slot_triples
from hybrid.operators.slot_cubes import cube_question, cube_results, cube_shares
from hybrid.operators.slot_triples import make_triples, triples_cost
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.correlations.dealt import prime_cube_kind, prime_square_kind
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import Demand
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols.silu import CubicPiecesSilu
from tests.ot_sources import InsecureLocalSource, quick_session, run_misbehaving
from tests.rows_setup import N, P, T, made_keys, messages_and_noise, uniform_residues
from tests.test_hybrid_slot_triples import made, party
from transport.bitpack import pack_bits, unpack_bits
from transport.errors import FrameError, UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

made_keys(())
"""Here once, not by both parties' threads."""
CUBE, SQUARE = prime_cube_kind(T), prime_square_kind(T)


def require_cubes(client, server):
    a, square, cube = (
        x.astype(object) + y for x, y in zip(client[CUBE], server[CUBE], strict=True)
    )
    assert ((square - a**2) % T == 0).all()
    assert ((cube - a**3) % T == 0).all()


@pytest.mark.parametrize("cubes,squares", [(1, 0), (7, 3), (N, 1), (N + 1, 0)])
def test_cubes_are_true_for_any_amount(cubes, squares):
    client, server = made(Demand.of(CUBE, cubes) + Demand.of(SQUARE, squares))
    assert [len(part) for part in client[CUBE]] == [cubes] * 3
    require_cubes(client, server)


@pytest.mark.parametrize("spoilt", ["cube_question", "cube_results"])
def test_a_wrong_w_is_noticed(spoilt, monkeypatch):
    right = getattr(slot_cubes, spoilt)

    def wrong(packing, *rest):
        found = list(right(packing, *rest))
        if spoilt == "cube_question":
            w = unpack_bits(found[1], packing.count, 44)
            found[1] = pack_bits((w + np.uint64(1)) % np.uint64(T), 44)
        else:
            found[2] = (found[2] + np.uint64(1)) % np.uint64(T)
        return tuple(found)

    monkeypatch.setattr(slot_triples, spoilt, wrong)
    with pytest.raises(AssertionError):
        require_cubes(*made(Demand.of(CUBE, 5)))


def test_many_go_in_frames(monkeypatch):
    monkeypatch.setattr(slot_triples, "_BLOCKS", 1)
    demand = Demand.of(CUBE, 2 * N + 5)
    traffic = triples_cost(demand).traffic
    assert (traffic.client_frames, traffic.server_frames, traffic.rounds) == (3, 3, 2)
    require_cubes(*made(demand))


def test_declared_cost():
    one, full = triples_cost(Demand.of(CUBE, 1)), triples_cost(Demand.of(CUBE, N))
    assert one.traffic.client_payload_bytes == 32 + 2 * N * 103 // 8 + 6
    assert full.traffic.client_payload_bytes == 32 + 2 * N * 103 // 8 + N * 44 // 8
    assert full.traffic.server_payload_bytes == 32 + 2 * N * 56 // 8
    assert full.traffic.sent_bytes < 60 * N
    assert triples_cost(Demand.of(CUBE, 8 * N)).traffic.client_frames == 2
    assert 0 < one.failure_probability < 2.0**-35
    counted = dict(full.work.counted())
    assert counted["slot_encrypt/8192x3"] == counted["slot_mask/8192x3"] == 2
    assert counted["slot_encode/8192x3"] == 3
    assert counted["prime_multiply_add"] == 2 * 3 * N


# -- the packing ---------------------------------------------------------------------------


def answered(packing, given=None):
    """Cross terms before they are masked, with all that went into them."""
    client, _ = made_keys(())
    message, drawn = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
    own, clear = cube_question(packing, drawn)
    assert len(message + clear) == packing.upload_bytes
    if given is not None:
        packing.draw = lambda _rng: given
    results, theirs, w = cube_results(packing, message + clear, SecureRandom())
    values, noise = messages_and_noise(np.concatenate(list(results)), client)
    return own, theirs, w, values, noise


def require_shares(packing, own, theirs, w, values):
    mine = cube_shares(packing, own, np.zeros_like(values))
    other = cube_shares(packing, theirs, values, w)
    require_cubes({CUBE: mine}, {CUBE: other})


def test_noise_is_what_is_declared():
    packing = ElementCubesPacking(P, N + 1)
    own, theirs, w, values, noise = answered(packing)
    cubes = noise[packing.blocks :]
    assert 0.9 < cubes.std() / packing.noise_std < 1.1
    assert noise[: packing.blocks].std() < cubes.std()
    # Bits between the noise and half of Q / t, beyond which a result is wrong.
    assert np.log2(float(P.modulus) / (2 * T) / np.abs(noise).max()) > 49
    require_shares(packing, own, theirs, w, values)


@pytest.mark.parametrize("value", [0, 1, T // 2, T // 2 + 1, T - 1])
def test_extreme_operands_are_exact(value):
    packing = ElementCubesPacking(P, N)
    own, theirs, w, values, _ = answered(packing, np.full((1, N), value, np.uint64))
    require_shares(packing, own, theirs, w, values)


@given(st.lists(st.integers(0, T - 1), min_size=1, max_size=20))
@settings(max_examples=5, deadline=None)
def test_numbers_come_back_from_their_polynomials(numbers):
    packing = ElementCubesPacking(P, len(numbers))
    words = np.array(numbers, np.uint64)
    assert np.array_equal(packing.numbers(packing.polynomials(words)), words)


def test_declared_probability_covers_every_ciphertext():
    small, large = ElementCubesPacking(P, N), ElementCubesPacking(P, 3 * N + 1)
    assert large.wrong_probability == 4 * small.wrong_probability
    assert (large.input_ciphertexts, large.output_ciphertexts) == (8, 8)
    with pytest.raises(UsageError):
        ElementCubesPacking(P, 0)


# -- what the parties hold and see -----------------------------------------------------------


def test_every_share_is_uniform_and_fresh():
    demand = Demand.of(CUBE, N)
    first, second = made(demand), made(demand)
    for role in Party:
        for part, again in zip(first[role][CUBE], second[role][CUBE], strict=True):
            assert uniform_residues(part)
            assert uniform_residues((part + np.uint64(T) - again) % np.uint64(T))


def test_w_is_uniform_and_independent_of_the_masked_number():
    packing, (client, _) = ElementCubesPacking(P, N), made_keys(())
    found = []
    for _ in range(2):
        _, drawn = slot_encrypt(2, client, SecureRandom())
        # The client's number is the same both times: what hides it is rho.
        drawn[0] = 5
        own, clear = cube_question(packing, drawn)
        found.append(unpack_bits(clear, N, 44))
    assert all(uniform_residues(w) for w in found)
    assert uniform_residues((found[0] + np.uint64(T) - found[1]) % np.uint64(T))


@pytest.mark.parametrize("size", [5, None])
def test_wrong_frames_are_refused_and_nothing_is_stored(size):

    def role(channel):
        if channel.party is Party.CLIENT:
            channel.next_round()
            message, _ = slot_encrypt(2, made_keys(())[0], SecureRandom())
            channel.send((message + pack_bits(np.array([T], np.uint64), 44))[:size])
            return
        prepared = Prepared(InsecureLocalSource(channel.party))
        with pytest.raises(FrameError, match="were expected" if size else "exceeds the prime"):
            make_triples(Demand.of(CUBE, 1), party(channel), channel, prepared)
        assert not prepared.stock().counts

    run_misbehaving(role)


# -- an activation on them -------------------------------------------------------------------


def test_silu_on_cubes_from_slots():
    engine, fixed = PrimeProducts(16, T), FixedPoint(16)
    protocol = CubicPiecesSilu(bound=64.0)
    x = fixed.encode(np.random.default_rng(1).normal(0, 4, 301))
    cost = protocol.cost(x.shape, Context(fixed, engine))
    first = SecureRandom().uint64(x.shape)
    pairs = first, x - first

    def role(channel):
        session = quick_session(channel, cost.ots, products=engine)
        make_triples(cost.demand, party(channel), channel, session.prepared)
        with channel.step("online"):
            result = protocol.run(pairs[channel.party], session)
        assert not session.prepared.stock().counts
        return result

    client, server, channel = run_both(role)
    assert channel.traffic("online") == cost.traffic
    real = fixed.decode(x)
    away = np.abs(fixed.decode(client + server) - protocol.true_function(real))
    assert away.max() <= protocol.true_error
