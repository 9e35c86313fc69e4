"""Kernels of exact slots against plain integers, and ciphertexts against SEAL."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.ckks.keys import galois_element
from he_linear.exact.plain_slots import coefficients_of, slots_of
from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_parse,
)
from he_linear.kernels import fused_sums, integer_tiles, row_products, sampling
from he_linear.kernels.fused_sums import (
    PANEL,
    multiply_blocks,
    panel_shape,
    panel_width,
    spread,
    stored_bias,
)
from he_linear.kernels.key_products import DIGITS, PanelOrders, key_products, spread_products
from he_linear.kernels.ntt import automorphism_order
from he_linear.kernels.residues import add, from_centred, intt, ntt, to_centred
from he_linear.kernels.row_products import MAX_EXPONENT, IntegerMatrix
from he_linear.kernels.wide_words import (
    add_wide,
    raised,
    rounded_multiple,
    subtract_wide,
)
from tests.rows_setup import N, P, T, combined, made_keys, messages_and_noise, phase, product, rng
from transport.errors import UsageError
from transport.randomness import SecureRandom

SMALLER = replace(P, prime_bits=(48, 49, 50)).all_primes[0]

# -- kernels -----------------------------------------------------------------------------------

wide = st.integers(0, 2**128 - 1)


def halves(values):
    return (np.array([v >> 64 for v in values], np.uint64),
            np.array([v & (2**64 - 1) for v in values], np.uint64))  # fmt: skip


def joined(pair):
    return [int(h) << 64 | int(low) for h, low in zip(*pair, strict=True)]


@given(st.lists(st.tuples(wide, wide), min_size=1, max_size=8), st.integers(0, 127))
@settings(deadline=None)
def test_wide_words(pairs, bits):
    a, b = zip(*pairs, strict=True)
    one, two, full = halves(a), halves(b), 1 << 128
    assert joined(add_wide(one, two)) == [(x + y) % full for x, y in pairs]
    assert joined(subtract_wide(one, two)) == [(x - y) % full for x, y in pairs]
    assert joined(raised(one, bits)) == [(x << bits) % full for x in a]
    # Products are taken to 2^-64 before they are rounded.
    for x, got in zip(a, rounded_multiple(one, T), strict=True):
        near = (T * x + (full >> 1) + far for far in (-(1 << 65), 0, 1 << 65))
        assert int(got) in {m // full % T for m in near}


def test_multiples_near_a_half():
    for k in (0, 1, 77, T - 1):
        half = (2 * k + 1) * (1 << 127) // T
        # One unit of the word is t / 2^128 of the product.
        below, above = rounded_multiple(halves([half - (1 << 25), half + (1 << 25)]), T)
        assert (int(below), int(above)) == (k, (k + 1) % T)


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_row_products(data):
    d_in, d_out = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 7))
    values = st.sampled_from([-(2**15), 2**15 - 1, 0, 1, -77])
    w = np.array([[data.draw(values) for _ in range(d_out)] for _ in range(d_in)])
    row = [data.draw(st.sampled_from([0, 1, T - 1, T // 2, T // 2 + 1])) for _ in range(d_in)]
    exponents = [data.draw(st.sampled_from([0, 1, 7, MAX_EXPONENT])) for _ in range(d_in)]
    matrix = IntegerMatrix.from_integers(w, np.array(exponents, np.uint64))
    got = matrix.rows_times(np.array([row], np.uint64), T)[0]
    whole = w.astype(object) * np.array([[1 << e] for e in exponents], object)
    assert [int(y) for y in got] == [int(y) % T for y in np.array(row, object) @ whole]
    assert (matrix.part(0, d_in, 0, d_out) == whole.astype(float)).all()


def test_rows_beyond_their_exponents_are_refused():
    words = np.ones((2, 3), np.int64)
    for exponents in (np.array([0, MAX_EXPONENT + 1], np.uint64), np.zeros(3, np.uint64)):
        with pytest.raises(UsageError, match="one exponent a row"):
            IntegerMatrix.from_integers(words, exponents)
    assert IntegerMatrix.rounded(np.zeros((2, 3)), 24).exponents.tolist() == [0, 0]
    assert IntegerMatrix.rounded(np.full((1, 1), 2.0**17), 16).exponents.tolist() == [MAX_EXPONENT]


@pytest.mark.parametrize(("value", "weight"), [(T // 2, -(2**15)), (T // 2 + 1, 2**15 - 1)])
def test_row_products_of_a_vocabulary(value, weight):
    matrix = IntegerMatrix.from_integers(np.full((49152, 2), weight, np.int64))
    (got,) = matrix.rows_times(np.full((1, 49152), value, np.uint64), T)
    assert (got == value * weight * 49152 % T).all()


def test_more_rows_than_sums_hold_are_refused():
    # Limbs of |x| <= t / 2 are at most 2^21, weights 2^15.
    assert row_products.MAX_ROWS * 2 ** (21 + 15) < 2**63
    tall = np.broadcast_to(np.int16(1), (row_products.MAX_ROWS + 1, 1))
    with pytest.raises(UsageError, match="67108865 rows; a sum of products fits a word for up to"):
        IntegerMatrix.from_integers(tall)


def test_matrices_in_chunks():
    w = rng.integers(-(2**15), 2**15, (40, 2500))
    matrix = IntegerMatrix.from_integers(w)
    assert matrix.nbytes == 2 * 40 * 3 * 1024
    assert matrix.shape == w.shape
    for start, stop in ((0, 2500), (1000, 1100), (1024, 2048), (2400, 2600), (2499, 2500)):
        for top, bottom in ((0, 40), (7, 9), (38, 45)):
            part = matrix.part(top, bottom, start, stop)
            assert part.shape == (bottom - top, stop - start)
            assert (part[: 40 - top, : 2500 - start] == w[top:bottom, start:stop]).all()
            assert not part[40 - top :].any()
            assert not part[:, 2500 - start :].any()
    row = SecureRandom().uint64(40) % np.uint64(T)
    assert (matrix.rows_times(row[None], T)[0].astype(np.int64) == product(row[None], w)[0]).all()


def whole(values):
    """Floats as Python integers."""
    return values.astype(np.int64).astype(object)


@pytest.fixture(params=["integers", "floats"])
def tiles(request, monkeypatch):
    """Both kinds of tiles, where the processor has them."""
    if request.param == "integers" and not integer_tiles.AVAILABLE:
        pytest.skip("no AVX-512 IFMA")
    monkeypatch.setattr(fused_sums, "_INTEGERS", request.param == "integers")


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("p", [P.all_primes[0], P.all_primes[-1], SMALLER])
@pytest.mark.parametrize("blocks", [8, 16])
@pytest.mark.parametrize("inner", [1, 4, 31, 128, 960])
def test_fused_sums_are_exact_at_the_extremes(inner, blocks, p):
    n = 512
    # Residues are centred up to as much.
    half = float(p * 3 // 5)
    for sign in (1.0, -1.0, 0.0):
        x = np.full(panel_shape(blocks, inner, n), half)
        w = np.full((blocks, 4, inner), sign * half)
        if not sign:
            x = np.rint(rng.uniform(-half, half, x.shape))
            w = np.rint(rng.uniform(-half, half, w.shape))
        out = np.zeros((4, 2, 5, n))
        bias = stored_bias(p)
        multiply_blocks(x + bias, w + bias, 3, p, 4, out)
        panel = whole(x[5].transpose(1, 0, 2).reshape(inner, -1))
        expected = whole(w[5, :3]) @ panel
        run = n // (2 * blocks)
        first = out[:3, :, 4, 5 * run : 6 * run]
        mirrored = out[:3, :, 4, (2 * blocks - 6) * run : (2 * blocks - 5) * run]
        got = np.concatenate([first, mirrored], axis=1).reshape(3, -1)
        # Blocks of fewer columns have narrow tiles.
        assert x.shape[-1] == panel_width(blocks, n) == PANEL * 8 // blocks
        assert ((whole(got) - expected) % p == 0).all()
        assert np.abs(got).max() <= 0.51 * p
        # Again on top of that, as another block of inputs.
        multiply_blocks(x + bias, w + bias, 3, p, 4, out, add=True)
        twice = np.concatenate([first, mirrored], axis=1).reshape(3, -1)
        assert ((whole(twice) - 2 * expected) % p == 0).all()
        assert np.abs(twice).max() <= 0.51 * p


def test_key_products_are_exact():
    for k, p in enumerate(P.all_primes):
        random = np.rint(rng.uniform(-p / 2, p / 2, (DIGITS, 4, 64)))
        ends = np.full((DIGITS, 2, 4, 64), float(p // 2))
        keys = (ends, -ends, np.rint(rng.uniform(-p / 2, p / 2, ends.shape)))
        bodies = np.rint(rng.uniform(-p, p, 64)), np.full(64, float(p)), np.full(64, -float(p))
        for digits, body in itertools.product((random, ends[:, 0] * 1.02 // 1), bodies):
            out = np.empty((2, 3, 64))
            both = np.stack([digits, -digits]), np.stack([body, -body])
            key_products(both[0], keys, (1, k), both[1], p, out)
            for digit, added, rows in zip(*both, out, strict=True):
                for key, row in zip(keys, rows, strict=True):
                    expected = (whole(digit[:, k]) * whole(key[:, 1, k])).sum(axis=0)
                    assert ((whole(row) - expected - whole(added)) % p == 0).all()
                    assert np.abs(row).max() < 0.51 * p


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("blocks", [2, 8, 16])
def test_products_are_spread_in_their_keys_orders(blocks):
    n, count, inner, p = 512, 2, 7, P.all_primes[1]
    sizes = (count, DIGITS, 4, n), (count, n)
    digits, bodies = (np.rint(rng.uniform(-p / 2, p / 2, size)) for size in sizes)
    keys = tuple(np.rint(rng.uniform(-p / 2, p / 2, (DIGITS, 2, 4, n))) for _ in range(2))
    orders = [automorphism_order(galois_element(step, n), n) for step in (3, -5)]
    rows, panels = np.empty((count, 2, n)), PanelOrders.of(orders, panel_width(blocks, n))
    expected, got = np.zeros((2, *panel_shape(blocks, inner, n)))
    for half in range(2):
        key_products(digits, keys, (half, 1), bodies, p, rows)
        for c in range(count):
            spread(rows[c], np.stack(orders), expected, half, 1 + 4 * c, stored_bias(p))
        at = 1, 4
        spread_products(digits, keys, panels, (half, 1), bodies, p, got, at)
    assert (got == expected).all()
    assert np.count_nonzero(got.any(axis=(0, 1, 3))) == 4


def test_slots_and_coefficients():
    x = SecureRandom().uint64((2, N)) % np.uint64(T)
    assert (coefficients_of(slots_of(x, T), T) == x).all()


# -- SEAL --------------------------------------------------------------------------------------


def test_slots_are_seals():
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    literal.set_poly_modulus_degree(N)
    literal.set_coeff_modulus([seal.Modulus(p) for p in P.all_primes])
    literal.set_plain_modulus(seal.Modulus(T))
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set()
    values = SecureRandom().uint64(N) % np.uint64(T)
    plain = seal.Plaintext()
    seal.BatchEncoder(context).encode(values.tolist(), plain)
    ours = coefficients_of(values.reshape(1, 2, -1), T)[0]
    assert [plain.__getitem__(i) if hasattr(plain, "__getitem__") else plain.data(i)
            for i in range(0, N, 97)] == ours[::97].tolist()  # fmt: skip


def test_seal_decrypts_rows():
    client, _ = made_keys(())
    message, drawn = slot_encrypt(1, client, SecureRandom())
    ciphertexts = slot_parse(message, 1, P)
    plain = seal.Plaintext()
    loaded = client.seal.to_ciphertext(from_centred(ciphertexts, P.primes)[0])
    seal.Decryptor(client.seal.context, client.seal_secret_key).decrypt(loaded, plain)
    values = combined(intt(client.seal.from_plaintext(plain)[None], P.primes))
    assert (values == phase(ciphertexts, client)).all()
    q = P.modulus
    assert ((2 * T * values + q) // (2 * q) % T == drawn.astype(object)).all()


def test_seal_rotates_rows():
    step = 5
    client, server = made_keys((step,))
    message, drawn = slot_encrypt(1, client, SecureRandom())
    loaded = server.seal.to_ciphertext(from_centred(slot_parse(message, 1, P), P.primes)[0])
    element = galois_element(step, N)
    server.seal.evaluator.apply_galois_inplace(loaded, element, server.seal_galois_keys())
    turned = to_centred(server.seal.from_ciphertext(loaded)[None], P.primes)
    values, _ = messages_and_noise(turned, client)
    assert (slots_of(values, T) == np.roll(slots_of(drawn, T), -step, axis=2)).all()


def test_we_decrypt_what_seal_encrypts():
    client, _ = made_keys(())
    context, public = client.seal, seal.PublicKey()
    seal.KeyGenerator(context.context, client.seal_secret_key).create_public_key(public)
    plain, ciphertext = seal.Plaintext(), seal.Ciphertext()
    seal.CKKSEncoder(context.context).encode(0.0, 2.0**20, plain)
    seal.Encryptor(context.context, public).encrypt(plain, ciphertext)
    message = SecureRandom().uint64((1, N)) % np.uint64(T)
    scaled = (2 * P.modulus * message.astype(object) + T) // (2 * T)
    residues = np.stack([(scaled % p).astype(np.uint64) for p in P.primes], axis=1)
    encrypted = context.from_ciphertext(ciphertext)[None]
    encrypted[:, 0] = add(encrypted[:, 0], ntt(residues, P.primes), P.primes)
    values, noise = messages_and_noise(to_centred(encrypted, P.primes), client)
    assert (values == message).all()
    assert noise.std() < 2 * (sampling.NOISE_VARIANCE * 4 * N / 3) ** 0.5
