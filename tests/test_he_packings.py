"""One contract for all packings: right values at odd shapes, within declared sizes and error."""

import numpy as np
import pytest

import he_linear
from he_linear.ckks import ciphertexts as he
from he_linear.packings.base import LinearPacking, Packing, ProductPacking
from he_linear.packings.halevi_shoup import HaleviShoupPacking
from he_linear.packings.ring_base import RingPacking
from he_linear.packings.rotated_slots import RotatedSlotsPacking
from he_linear.packings.slot_product import SlotProductPacking
from he_linear.packings.token_periodic import TokenPeriodicPacking
from tests.he_setup import FRACTION_BITS, PARAMETERS, UNIT, Operand, decode, encode, keys, trip
from transport.errors import HybridError

# The packing for single vectors has tests of its own, in test_he_packings_compared.
LINEAR = [
    p for p in he_linear.PACKINGS if issubclass(p, LinearPacking) and p is not HaleviShoupPacking
]
PRODUCTS = [p for p in he_linear.PACKINGS if issubclass(p, ProductPacking)]
BABIES = 8


def test_every_packing_declares_what_a_plan_needs():
    names = [(p.op, p.name) for p in he_linear.PACKINGS]
    assert len(set(names)) == len(names)
    for packing in he_linear.PACKINGS:
        assert issubclass(packing, Packing | RingPacking)
        assert packing.source
        assert packing.op in {"linear", "attention", "elementwise", "polynomial"}


def linear_trip(packing, x, encoded):
    operand = Operand(*packing.pack(encode(x)), packing.input_scale(FRACTION_BITS))
    assert len(operand.real) == packing.input_ciphertexts
    pair = keys(packing.galois_steps)
    real, imag = trip(
        [operand], lambda ct: packing.evaluate(ct, encoded, pair[1]), packing.output_scale, pair
    )
    assert len(real) == packing.output_ciphertexts
    return [decode(y) for y in packing.unpack(real, imag)]


@pytest.mark.parametrize("cls", LINEAR)
@pytest.mark.parametrize(
    ("tokens", "d_in", "d_out", "diagonal"),
    [
        (1, 1, 1, False),
        (1, 3, 5, True),
        (3, 5, 7, False),
        (3, 24, 72, True),
        (33, 100, 1, False),
        (32, 300, 270, True),
        (8192, 1, 1, False),
    ],
)
def test_linear(cls, tokens, d_in, d_out, diagonal):
    rng = np.random.default_rng(tokens + d_in)
    packing = cls(PARAMETERS, tokens, d_in, d_out, diagonal=diagonal, baby_steps=BABIES)
    x = rng.normal(0, 2, (tokens, d_in))
    weights = rng.normal(0, d_in**-0.5, (d_in, d_out))
    factors = rng.normal(size=d_in) if diagonal else None
    got = linear_trip(packing, x, packing.encode_weights(weights, factors))
    assert got[0].shape == (tokens, d_out)
    assert np.abs(got[0] - x @ weights).max() < 24 * UNIT
    if factors is not None:
        assert np.abs(got[1] - x * factors).max() < 24 * UNIT


@pytest.mark.parametrize("cls", LINEAR)
def test_linear_splits_of_the_rotations_agree(cls):
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(200, 40)), rng.normal(0, 0.1, (40, 40))
    for babies in (2, 64):
        packing = cls(PARAMETERS, 200, 40, 40, baby_steps=babies)
        got = linear_trip(packing, x, packing.encode_weights(weights))
        assert np.abs(got[0] - x @ weights).max() < 24 * UNIT


@pytest.mark.parametrize("cls", LINEAR)
def test_layers_of_one_run_share_their_rotation_keys(cls):
    shapes = [(384, 1152), (384, 384), (384, 1536), (1536, 384)]
    steps = {cls(PARAMETERS, 32, *shape, baby_steps=16).galois_steps for shape in shapes}
    assert len(steps) == 1
    assert len(steps.pop()) <= 17


def test_token_periodic_weights_take_less_than_130_bytes_each():
    packing = TokenPeriodicPacking(PARAMETERS, 32, 512, 512)
    encoded = packing.encode_weights(np.zeros((512, 512)))
    assert encoded.nbytes < 130 * 512 * 512


@pytest.mark.parametrize("cls", PRODUCTS)
@pytest.mark.parametrize(
    ("batch", "rows", "inner", "columns"),
    [(1, 1, 1, 1), (1, 1, 2, 3), (3, 5, 7, 2), (12, 32, 32, 32), (5, 33, 4, 33), (2, 3, 9, 64)],
)
def test_batched_products(cls, batch, rows, inner, columns):
    rng = np.random.default_rng(batch)
    packing = cls(PARAMETERS, batch, rows, inner, columns)
    a, b = rng.normal(size=(batch, rows, inner)), rng.normal(size=(batch, inner, columns))
    operands = [
        Operand(*packing.pack_left(encode(a)), packing.input_scale(FRACTION_BITS)),
        Operand(*packing.pack_right(encode(b)), packing.right_scale(FRACTION_BITS)),
    ]
    assert [len(o.real) for o in operands] == [packing.left_ciphertexts, packing.right_ciphertexts]
    pair = keys(packing.galois_steps)
    real, _ = trip(
        operands, lambda x, y: packing.evaluate(x, y, pair[1]), packing.output_scale, pair
    )
    assert len(real) == packing.output_ciphertexts
    got = decode(packing.unpack(real))
    assert got.shape == (batch, rows, columns)
    assert np.abs(got - a @ b).max() < 128 * UNIT
    assert (got - a @ b).std() < 16 * UNIT


def test_attention_of_minilm_takes_24_ciphertexts():
    packing = RotatedSlotsPacking(PARAMETERS, 12, 32, 32, 32)
    count = packing.left_ciphertexts + packing.right_ciphertexts + packing.output_ciphertexts
    assert count <= 24
    assert packing.upload_bytes == he.encrypted_bytes(8, PARAMETERS) * 2
    assert packing.download_bytes == he.masked_bytes(8, PARAMETERS)


@pytest.mark.parametrize("count", [1, 4096, 4097])
def test_slot_products_and_squares(count):
    rng = np.random.default_rng(count)
    packing = SlotProductPacking(PARAMETERS, count)
    x, y = rng.normal(0, 2, (2, count))
    scale = packing.input_scale(FRACTION_BITS)
    left, right = (Operand(packing.pack(encode(v)), None, scale) for v in (x, y))
    pair = keys(packing.galois_steps)
    product, _ = trip(
        [left, right], lambda a, b: packing.evaluate(a, b, pair[1]), packing.output_scale, pair
    )
    square, _ = trip([left], lambda a: packing.evaluate(a, a, pair[1]), packing.output_scale, pair)
    for got, expected in ((product, x * y), (square, x * x)):
        values = decode(packing.unpack(got))
        assert values.shape == (count,)
        assert np.abs(values - expected).max() < 32 * UNIT


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: TokenPeriodicPacking(PARAMETERS, 0, 1, 1), "tokens"),
        (lambda: TokenPeriodicPacking(PARAMETERS, 8193, 1, 1), "tokens"),
        (lambda: TokenPeriodicPacking(PARAMETERS, 1, 0, 1), "d_in"),
        (lambda: TokenPeriodicPacking(PARAMETERS, 1, 1, 1, baby_steps=12), "baby_steps"),
        (lambda: RotatedSlotsPacking(PARAMETERS, 1, 4097, 1, 1), "4097"),
        (lambda: RotatedSlotsPacking(PARAMETERS, 1, 1, 0, 1), "at least"),
        (lambda: SlotProductPacking(PARAMETERS, 0), "count"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make, word):
    with pytest.raises(HybridError, match=word):
        make()


def test_wrong_weights_are_refused():
    packing = TokenPeriodicPacking(PARAMETERS, 1, 3, 5, diagonal=True)
    with pytest.raises(HybridError, match="weights"):
        packing.encode_weights(np.zeros((5, 3)), np.zeros(3))
    with pytest.raises(HybridError, match="diagonal"):
        packing.encode_weights(np.zeros((3, 5)))
    with pytest.raises(HybridError, match="range"):
        packing.encode_weights(np.full((3, 5), 2.0**30), np.zeros(3))
