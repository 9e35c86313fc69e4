"""Polynomials in slots: values, levels, scales, noise, and what SEAL decrypts."""

import numpy as np
import pytest

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.key_switching import KeySwitcher
from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import PARAMETER_SETS
from he_linear.packings.slot_polynomial import Circuit, SlotPolynomialPacking
from transport.errors import ParameterError
from transport.randomness import SecureRandom

DEEP = PARAMETER_SETS["n8192_q182"]
CIRCUITS = {
    "square": Circuit(((0.25, -0.5),)),
    "even quintic": Circuit(((-0.2, 0.4), (-0.9, 0.2)), even=True, with_input=True),
    "cubic": Circuit(((0.5, 0.1),), with_input=True),
    "squared quartic": Circuit(((0.3, 0.5), (0.8, 0.1)), squarings=1),
    "squared octic": Circuit(((0.1, 0.6), (0.5, 0.4), (0.7, 0.2), (0.9, 0.1)), squarings=1),
    "shared square": Circuit(
        ((-0.2, 0.4), (-0.6, 0.2)), even=True, with_input=True, multiples=((-1, 1), (-3, 1))
    ),
    "shared, squared": Circuit(
        ((0.2, 0.5), (0.4, 0.1), (0.6, 0.1)), squarings=1, multiples=((1, 2), (1, 1), (3, 2))
    ),
    "three leaves": Circuit(((0.1, 0.6), (0.5, 0.4), (0.7, 0.2))),
}


def values(circuit, x):
    y = x * x if circuit.even else x
    result = y if circuit.with_input else 1.0
    for shift, offset in circuit.factors:
        result = result * ((y + shift) ** 2 + offset)
    for _ in range(circuit.squarings):
        result = result * result
    return result


@pytest.fixture(scope="module")
def pair():
    client = ClientKeys.generate(DEEP, (), True, SecureRandom())
    return client, ServerKeys.parse(DEEP, client.public_bytes(), (), True)


def evaluate(packing, x, scale, pair):
    encoded = he.encode_integers(
        packing.pack(np.rint(x * 2**16).astype(np.int64)), None, scale / 2**16, packing.parameters
    )
    message = he.encrypt_seeded(encoded, pair[0], SecureRandom())
    count = packing.output_ciphertexts
    assert len(message) == he.encrypted_bytes(count, packing.parameters)
    return packing.evaluate(he.parse_seeded(message, count, packing.parameters), scale, pair[1])


@pytest.mark.parametrize("name", list(CIRCUITS))
@pytest.mark.parametrize("count", [1, 5000])
def test_values_come_back_as_shares(name, count, pair, monkeypatch):
    circuit = CIRCUITS[name]
    packing = SlotPolynomialPacking(DEEP, count, circuit)
    x = np.random.default_rng(count).uniform(-0.8, 0.8, count)
    scale = packing.input_scale_for(2.0**60)
    switches = []
    relinearise = KeySwitcher.relinearise
    monkeypatch.setattr(
        KeySwitcher, "relinearise", lambda *a, **k: switches.append(1) or relinearise(*a, **k)
    )
    result = evaluate(packing, x, scale, pair)
    assert len(switches) == circuit.products * packing.output_ciphertexts
    assert result.shape == (packing.output_ciphertexts, 2, 2, DEEP.poly_degree)
    message, mask = he.mask_for_client(result, pair[1], SecureRandom())
    share = he.unmask(message, packing.output_ciphertexts, pair[0])
    switched = he.switched_scale(packing.result_scale(scale), DEEP)
    halves = [he.decode_coefficients(c, switched, 16, DEEP)[0] for c in (share, mask)]
    got = packing.unpack(halves[0] + halves[1]).view(np.int64) / 2**16
    assert got.shape == (count,)
    exact = values(circuit, np.rint(x * 2**16) / 2**16)
    # Noise is 2^-13 of the largest value rms at most, with tails far beyond Gaussian ones.
    assert np.abs(got - exact).max() < 2.0**-9 * max(1.0, np.abs(exact).max())
    assert np.sqrt(np.mean((got - exact) ** 2)) < 2.0**-12 * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize("name", list(CIRCUITS))
def test_only_as_many_levels_as_needed_travel(name):
    circuit = CIRCUITS[name]
    packing = SlotPolynomialPacking(DEEP, 3, circuit)
    assert packing.parameters.levels == circuit.depth
    assert packing.upload_bytes == he.encrypted_bytes(1, DEEP.reduced(circuit.depth))
    assert packing.download_bytes == he.masked_bytes(1, DEEP)


def test_a_circuit_too_deep_is_refused():
    deep = Circuit(tuple((0.1 * i, 0.1) for i in range(9)), even=True)
    with pytest.raises(ParameterError, match="5 products one after the other"):
        SlotPolynomialPacking(
            DEEP.reduced(4), 1, Circuit(CIRCUITS["squared octic"].factors * 2, squarings=1)
        )
    with pytest.raises(ParameterError, match="room for 4"):
        SlotPolynomialPacking(DEEP, 1, deep)


def test_rescaling_divides_with_rounding(pair):
    switcher = pair[1].switcher
    primes = DEEP.primes[:3]
    rng = np.random.default_rng(0)
    numbers = [int(v) << 20 for v in rng.integers(-(2**50), 2**50, DEEP.poly_degree)]
    residues = np.array([[n % p for n in numbers] for p in primes], np.uint64)
    from he_linear.kernels.residues import from_centred, intt, ntt, to_centred

    rescaled = switcher.rescale(to_centred(ntt(residues, primes), primes))
    back = intt(from_centred(rescaled, primes[:2]), primes[:2])
    expected = [(2 * n + primes[2]) // (2 * primes[2]) for n in numbers]
    for row, p in zip(back, primes[:2], strict=True):
        assert [int(v) for v in row] == [e % p for e in expected]
