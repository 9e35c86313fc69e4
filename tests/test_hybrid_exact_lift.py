"""Exact lifts: right for any shares, also where the centred lift is certainly wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.canonical_embedding import WRAP_BITS, coefficients_to_slots
from hybrid.operators.conversion import Conversion
from hybrid.operators.exact_lift import WideShare, decode_exactly, lift_exactly
from mpc_nonlinear.blocks.oblivious_transfer import correlated_ot_cost
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.correlations import SoftSpokenSource
from mpc_nonlinear.cost import OtCount
from tests.he_setup import PARAMETERS, N, Operand, encode, keys, looks_uniform, upload
from tests.ot_sources import quick_session
from tests.parties import FIXED_POINT
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

MODULUS = 1 << (64 + WRAP_BITS)
SCALE_BITS = 26
CONVERSION = Conversion(PARAMETERS, (1,), 1, 2.0**SCALE_BITS * PARAMETERS.modulus / 2**64, 16)
EXTREMES = [0, 1, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 2**63 + 1, 3 * 2**62, 2**64 - 1]
VALUES = [-(2**62), -(2**62) + 1, -1, 0, 1, 2**40, 2**62 - 1]


def run(function, client, server):
    """Both parties' results and the client's channel; exactly the declared OTs are consumed."""
    cost = correlated_ot_cost(client.size, WRAP_BITS, Party.SERVER)
    pair = (client, server)

    def role(channel):
        session = quick_session(channel, cost.ots)
        with channel.step("run"):
            result = function(pair[channel.party], session)
        assert session.correlations.stock() == OtCount()
        return result

    left, right, channel = run_both(role)
    assert channel.traffic("run") == cost.traffic
    return left, right


def integers(share: WideShare):
    return share.tops.astype(object) * 2**64 + share.words.astype(object)


def total_modulo(left: WideShare, right: WideShare):
    total = (integers(left) + integers(right)) % MODULUS
    return np.where(total >= MODULUS // 2, total - MODULUS, total)


def shared(values, client):
    client = np.array(client, np.uint64)
    return client, np.array(values, np.int64).view(np.uint64) - client


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from(VALUES), st.integers(-(2**62), 2**62 - 1)),
            st.one_of(st.sampled_from(EXTREMES), st.integers(0, 2**64 - 1)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_shares_add_up_modulo_2_96(drawn):
    values, client = zip(*drawn, strict=True)
    left, right = run(lift_exactly, *shared(values, client))
    assert total_modulo(left, right).tolist() == list(values)


def test_all_edges_at_once():
    values, client = (x.reshape(-1) for x in np.meshgrid(VALUES, np.array(EXTREMES, np.uint64)))
    left, right = run(lift_exactly, *shared(values, client))
    assert total_modulo(left, right).tolist() == values.tolist()
    for share in (left, right):
        assert np.abs(share.tops).max() <= 2 ** (WRAP_BITS - 1)


def certain_failures(rng):
    """Coefficients (1, N) and client shares of which every centred lift is wrong."""
    values = rng.integers(1, 2**40, (1, N))
    values[rng.random(values.shape) < 0.5] *= -1
    inside = (rng.random(values.shape) * (np.abs(values) - 1)).astype(np.int64)
    # x > 0 wraps for a share in [-2^63, x - 2^63), x < 0 for one in [2^63 + x, 2^63).
    low, high = np.int64(-(2**63)), np.int64(2**63 - 1)
    return values, np.where(values > 0, low + inside, high - inside).view(np.uint64)


def test_decoding_is_right_where_every_plain_lift_fails():
    values, client = certain_failures(np.random.default_rng(1))
    pair = shared(values, client)
    lifts = [part.view(np.int64).astype(object) for part in pair]
    assert (np.abs(lifts[0] + lifts[1] - values) == 2**64).all()
    expected = coefficients_to_slots(values.astype(float)) * 2.0 ** (16 - SCALE_BITS)
    scale = 2.0**SCALE_BITS
    plain = [he.decode_coefficients(part, scale, 16, PARAMETERS) for part in pair]
    exact = run(lambda x, s: decode_exactly(lift_exactly(x, s), CONVERSION), *pair)
    for part, reference in enumerate((expected.real, expected.imag)):
        wrong = (plain[0][part] + plain[1][part]).view(np.int64) - reference
        right = (exact[0][part] + exact[1][part]).view(np.int64) - reference
        assert np.median(np.abs(wrong)) > 2.0**54
        assert np.abs(right).max() < 1.6


@pytest.mark.parametrize("rms_bits", [10, 30, 50, 60])
def test_uniform_shares_of_any_magnitude_decode_to_a_unit(rms_bits):
    rng = np.random.default_rng(rms_bits)
    values = np.rint(np.clip(rng.normal(0, 2.0**rms_bits, (2, N)), -(2.0**61), 2.0**61))
    values = values.astype(np.int64)
    pair = shared(values, SecureRandom().uint64(values.shape))
    exact = run(lambda x, s: decode_exactly(lift_exactly(x, s), CONVERSION), *pair)
    reference = he.decode_coefficients(values.view(np.uint64), 2.0**SCALE_BITS, 16, PARAMETERS)
    for part in range(2):
        error = (exact[0][part] + exact[1][part] - reference[part]).view(np.int64)
        assert np.abs(error).max() <= 1


def test_shares_are_uniform_and_nothing_else_is_sent():
    """With real oblivious transfers: each party's share alone says nothing."""
    values = np.full((1, N), 12345)
    client, server = shared(values, SecureRandom().uint64(values.shape))
    cost = CONVERSION.exact_lift_cost(1.0)
    frames = {}

    def role(channel):
        source = SoftSpokenSource(channel.party, SecureRandom())
        source.setup(channel)
        source.produce(cost.ots, channel)
        session = Session(channel, Context(FIXED_POINT, OtProducts(16)), source, SecureRandom())
        send = channel.send

        def recorded(data):
            frames.setdefault(channel.party, []).append(bytes(data))
            send(data)

        channel.send = recorded
        with channel.step("lift"):
            result = lift_exactly((client, server)[channel.party], session)
        assert source.stock() == OtCount()
        return result

    left, right, channel = run_both(role)
    assert (total_modulo(left, right) == 12345).all()
    assert channel.traffic("lift") == cost.traffic
    sent = cost.traffic.client_payload_bytes, cost.traffic.server_payload_bytes
    assert sent == (N // 8, N * WRAP_BITS // 8)
    for share in (left, right):
        assert looks_uniform(share.words.reshape(-1))
        pairs = share.tops.reshape(-1, 2).astype(np.uint32)
        assert looks_uniform(pairs.view(np.uint64))
    (flips,), (corrections,) = frames[Party.CLIENT], frames[Party.SERVER]
    ones = int.from_bytes(flips, "little").bit_count()
    assert abs(ones - N / 2) < 6 * (N / 4) ** 0.5
    assert looks_uniform(np.frombuffer(corrections, np.uint64))


def test_a_ciphertext_returns_through_an_exact_lift():
    pair = keys()
    values = np.random.default_rng(7).normal(0, 4, (2, 1, N // 2))
    ciphertexts = upload(Operand(*encode(values), 2.0**34), pair[0])
    conversion = Conversion(PARAMETERS, (1,), 1, 2.0 ** (34 + 16), 16, parts=2)
    message, mask = he.mask_for_client(ciphertexts, pair[1], SecureRandom())
    share = he.unmask(message, 1, pair[0])
    results = run(lambda x, s: decode_exactly(lift_exactly(x, s), conversion), share, mask)
    for part in range(2):
        got = (results[0][part] + results[1][part]).view(np.int64) * 2.0**-16
        assert np.abs(got - values[part]).max() < 6 * 2.0**-16


def test_declared_failures_are_2_32_times_rarer():
    conversion = Conversion(PARAMETERS, (3,), 5, 2.0**50, 16, parts=2)
    cost = conversion.exact_lift_cost(2.0)
    plain = conversion.cost((), 2.0)
    assert cost.failure_probability == plain.failure_probability * 2.0**-WRAP_BITS > 0
    assert cost.ots == OtCount(0, 5 * N)
    assert cost.traffic == correlated_ot_cost(5 * N, WRAP_BITS, Party.SERVER).traffic
