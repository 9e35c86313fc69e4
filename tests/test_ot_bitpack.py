"""Bit-packing against arbitrary-precision integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError, UsageError


@given(
    st.integers(1, 64).flatmap(
        lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**64 - 1), max_size=200))
    )
)
@settings(deadline=None)
def test_layout_is_one_little_endian_integer(case):
    bits, values = case
    array = np.array(values, np.uint64)
    data = pack_bits(array, bits)
    low = [value % 2**bits for value in values]
    number = sum(value << (bits * i) for i, value in enumerate(low))
    assert data == number.to_bytes(packed_bytes(len(values), bits), "little")
    np.testing.assert_array_equal(unpack_bits(data, len(values), bits), np.array(low, np.uint64))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_every_width_of_every_dtype(dtype):
    rng = np.random.default_rng(0)
    for bits in range(1, 8 * dtype().itemsize + 1):
        array = rng.integers(0, 2**bits - 1, (5, 13), dtype=np.uint64, endpoint=True).astype(dtype)
        data = pack_bits(array, bits)
        assert data == pack_bits(array.astype(np.uint64), bits)
        got = unpack_bits(data, array.size, bits, dtype)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, array.reshape(-1))


@given(st.integers(1, 64), st.integers(0, 50), st.integers(-3, 3).filter(bool))
@settings(deadline=None)
def test_wrong_lengths_are_refused(bits, count, excess):
    size = packed_bytes(count, bits) + excess
    if size >= 0:
        with pytest.raises(FrameError, match="same version"):
            unpack_bits(bytes(size), count, bits)


@pytest.mark.parametrize(
    "call",
    [
        lambda: pack_bits(np.zeros(3, np.uint64), 0),
        lambda: pack_bits(np.zeros(3, np.uint64), 65),
        lambda: pack_bits(np.zeros(3, np.uint8), 9),
        lambda: pack_bits(np.zeros(3, np.int64), 9),
        lambda: unpack_bits(bytes(2), 2, 8, np.int8),
        lambda: unpack_bits(bytes(4), 2, 16, np.uint8),
    ],
)
def test_impossible_widths_are_refused(call):
    with pytest.raises(UsageError):
        call()
