"""Every packing for plain weights on odd shapes: results, sizes, rotations, memory, errors."""

import numpy as np
import pytest

from he_linear.ckks.key_switching import KeySwitcher
from he_linear.packings.column_bsgs import ColumnBsgsPacking
from he_linear.packings.halevi_shoup import HaleviShoupPacking
from he_linear.packings.token_periodic import TokenPeriodicPacking
from tests.he_setup import FRACTION_BITS, PARAMETERS, Operand, decode, encode, keys, trip
from transport.errors import UsageError

PACKINGS = (TokenPeriodicPacking, ColumnBsgsPacking, HaleviShoupPacking)
SHAPES = [(1, 1, 1), (1, 5, 7), (3, 17, 9), (2, 130, 33), (5, 40, 100), (1, 300, 200), (33, 20, 6)]


def product(packing, x, weights, diagonal=None):
    pair = keys(packing.galois_steps)
    real, imag = packing.pack(encode(x))
    assert real.shape == imag.shape == (packing.input_ciphertexts, PARAMETERS.slots)
    encoded = packing.encode_weights(weights, diagonal)
    assert encoded.nbytes == packing.encoded_bytes
    operand = Operand(real, imag, packing.input_scale(FRACTION_BITS))
    out = trip(
        [operand], lambda ct: packing.evaluate(ct, encoded, pair[1]), packing.output_scale, pair
    )
    assert out[0].shape == (packing.output_ciphertexts, PARAMETERS.slots)
    return [decode(part) for part in packing.unpack(*out)]


def numbers(tokens, d_in, d_out):
    rng = np.random.default_rng(tokens + d_in)
    return rng.normal(0, 2, (tokens, d_in)), rng.normal(0, d_in**-0.5, (d_in, d_out))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cls", PACKINGS)
def test_products(cls, shape, monkeypatch):
    packing = cls(PARAMETERS, *shape)
    x, weights = numbers(*shape)
    switches = []
    switch = KeySwitcher.switch
    monkeypatch.setattr(KeySwitcher, "switch", lambda *a: switches.append(1) or switch(*a))
    (got,) = product(packing, x, weights)
    assert got.shape == (shape[0], shape[2])
    expected = x @ weights
    assert np.sqrt(((got - expected) ** 2).mean()) < 2**-12 * max(1, np.abs(expected).max())
    # The first baby step of a cyclic packing and the middle one of a shifted one rotate nothing.
    assert packing.rotations - 2 <= len(switches) <= packing.rotations


@pytest.mark.parametrize(
    "shape", [(1, 768, 3072), (1, 3072, 768), (1, 3, 5000), (1, 5000, 3), (2, 8200, 3)]
)
def test_long_and_wide_vectors(shape):
    packing = HaleviShoupPacking(PARAMETERS, *shape)
    x, weights = numbers(*shape)
    (got,) = product(packing, x, weights)
    assert np.abs(got - x @ weights).max() < 2**-9


@pytest.mark.parametrize("cls", PACKINGS)
@pytest.mark.parametrize("babies", [1, 4])
def test_any_split_gives_the_same(cls, babies):
    packing = cls(PARAMETERS, 2, 70, 50, baby_steps=babies)
    x, weights = numbers(2, 70, 50)
    (got,) = product(packing, x, weights)
    assert np.abs(got - x @ weights).max() < 2**-9


def test_column_factors():
    packing = ColumnBsgsPacking(PARAMETERS, 3, 20, 9, diagonal=True)
    x, weights = numbers(3, 20, 9)
    factors = np.linspace(-2, 2, 20)
    got, scaled = product(packing, x, weights, factors)
    assert np.abs(got - x @ weights).max() < 2**-9
    assert np.abs(scaled - x * factors).max() < 2**-9


def test_one_token_takes_few_rotations():
    vector = HaleviShoupPacking(PARAMETERS, 1, 768, 768)
    periodic = TokenPeriodicPacking(PARAMETERS, 1, 768, 768)
    assert vector.rotations <= periodic.rotations / 5


@pytest.mark.parametrize(("d_in", "d_out"), [(768, 768), (768, 3072), (3072, 768), (384, 1536)])
def test_layers_on_one_token_take_one_ciphertext_each_way(d_in, d_out):
    vector = HaleviShoupPacking(PARAMETERS, 1, d_in, d_out)
    assert vector.operand_ciphertexts == (1,)
    assert vector.output_ciphertexts == 1
    assert vector.upload_bytes + vector.download_bytes < 250_000
    assert vector.encoded_bytes < 30 * d_in * d_out


@pytest.mark.parametrize("cls", PACKINGS)
def test_wrong_shapes_are_refused(cls):
    packing = cls(PARAMETERS, 2, 5, 7)
    with pytest.raises(UsageError, match=r"shape \(7, 5\), expected \(5, 7\)"):
        packing.encode_weights(np.zeros((7, 5)))
    with pytest.raises(UsageError, match="factors if and only if"):
        packing.encode_weights(np.zeros((5, 7)), np.zeros(5))
    with pytest.raises(UsageError, match="out of range"):
        packing.encode_weights(np.full((5, 7), 1e9))
    for sizes in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(UsageError, match="at least 1"):
            cls(PARAMETERS, *sizes)
    with pytest.raises(UsageError, match="power of two"):
        cls(PARAMETERS, 1, 1, 1, baby_steps=3)


def test_what_a_packing_cannot_do_is_refused():
    with pytest.raises(UsageError, match="cannot scale them apart"):
        HaleviShoupPacking(PARAMETERS, 1, 5, 7, diagonal=True)
    with pytest.raises(UsageError, match="no evaluation on plaintexts"):
        ColumnBsgsPacking(PARAMETERS, 1, 5, 7).evaluate_plain(np.zeros(1, np.uint64), None)
    with pytest.raises(UsageError, match="exceed"):
        ColumnBsgsPacking(PARAMETERS, 10_000, 5, 7)
