"""Sums of ciphertexts times plaintexts of full size, the plaintexts streamed once from memory.

NTT values i and N - 1 - i of a polynomial belong to conjugate roots. Where slots are real they are
equal, and one half of the values stands for both: half the memory, half the traffic from it.
Weights lie in the order of their use: for every output and prime, for every 8 values, all inputs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from he_linear.kernels.ntt_butterflies import ModularCode, moved, moved_backwards
from he_linear.kernels.scalars import Floats
from he_linear.kernels.vectors import LANES, VECTOR, data_of

_COLUMNS = 8
"""Groups of 8 values whose inputs are copied together."""


def in_order_of_use(values: Floats) -> Floats:
    """(..., inner, primes, M) values to weights (..., primes, M / 8, inner, 8)."""
    *outer, inner, primes, m = values.shape
    parts = values.reshape(*outer, inner, primes, m // LANES, LANES)
    return np.moveaxis(parts, -4, -2)


def mirrored(coefficients: Floats) -> Floats:
    """Rounded coefficients (..., N) of real slots, made exactly those of a real polynomial.

    a(X) = a(1 / X) modulo X^N + 1; rounding alone may break a tie differently on both sides.
    """
    n = coefficients.shape[-1]
    out = coefficients.copy()
    out[..., n // 2] = 0.0
    out[..., n // 2 + 1 :] = -out[..., n // 2 - 1 : 0 : -1]
    return out


def _made(parts: int) -> Any:
    """The intrinsic for `parts` times 8 numbers of an input to each 8 weights."""

    def add_products(
        _typing: Any,
        inputs: Any,
        _at: Any,
        weights: Any,
        _to: Any,
        _count: Any,
        sums: Any,
        _p: Any,
        _inverse: Any,
    ) -> Any:
        """Sums (parts, 8) += over i < count of inputs (i, parts, 8) * weights (i, 8), centred."""
        whole, real = types.int64, types.float64
        signature = types.void(inputs, whole, weights, whole, whole, sums, real, real)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, w, total = (data_of(context, builder, signature, args, k) for k in (0, 2, 5))
            code = ModularCode(builder, args[6], args[7])
            inverse, zero = code.splat(args[7]), ir.Constant(ir.IntType(64), 0)
            kept = [cgutils.alloca_once(builder, VECTOR) for _ in range(parts)]
            for part, place in enumerate(kept):
                builder.store(code.load(total, zero, part * LANES), place)
            with cgutils.for_range(builder, args[4]) as loop:
                step = builder.mul(loop.index, ir.Constant(ir.IntType(64), LANES))
                weight = code.load(w, builder.add(args[3], step))
                twiddle = weight, builder.fmul(weight, inverse)
                first = builder.mul(step, ir.Constant(ir.IntType(64), parts))
                first = builder.add(args[1], first)
                for part, place in enumerate(kept):
                    product = code.times(code.load(x, first, part * LANES), twiddle)
                    builder.store(builder.fadd(builder.load(place), product), place)
            for part, place in enumerate(kept):
                code.store(code.centre(builder.load(place)), total, zero, part * LANES)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(add_products)


_add_two, _add_four = _made(2), _made(4)


@njit(cache=True, nogil=True)
def _bring_near(inputs, k, parts, start, count, near):  # type: ignore[no-untyped-def]
    """Near (count, inner, parts, 8) = 8 values of all inputs for each of `count` groups."""
    inner, _, _, n = inputs.shape
    for i in range(inner):
        for half in range(2):
            row = inputs[i, half, k]
            for g in range(count):
                at, to = (start + g) * LANES, ((g * inner + i) * parts + half) * LANES
                moved(row, at, near, to)
                if parts == 4:
                    moved_backwards(row, n - LANES - at, near, to + 2 * LANES)


@njit(cache=True, nogil=True)
def accumulate_diagonals(inputs, weights, moduli, out):  # type: ignore[no-untyped-def]
    """Out (rows, 2, primes, N) = sum over i of weights (rows, primes, M / 8, inner, 8) * inputs[i].

    inputs (inner, 2, primes, N); M is N, or N / 2 for weights of real slots.
    """
    rows, primes, groups, inner, lanes = weights.shape
    n = inputs.shape[3]
    parts = 2 * n // (groups * lanes)
    width = parts * lanes
    near, sums = np.empty(_COLUMNS * inner * width), np.empty(width)
    for k in range(primes):
        p = moduli[k]
        inv = 1.0 / p
        # So many products, each up to about p / 2, add up to less than 2^51.
        most = max(1, int(2.0**51 / p))
        for start in range(0, groups, _COLUMNS):
            count = min(_COLUMNS, groups - start)
            _bring_near(inputs, k, parts, start, count, near)
            for r in range(rows):
                w, first, second = weights[r, k].reshape(-1), out[r, 0, k], out[r, 1, k]
                for g in range(count):
                    sums[:] = 0.0
                    for i in range(0, inner, most):
                        x, to = (g * inner + i) * width, ((start + g) * inner + i) * lanes
                        terms = min(most, inner - i)
                        if parts == 4:
                            _add_four(near, x, w, to, terms, sums, p, inv)
                        else:
                            _add_two(near, x, w, to, terms, sums, p, inv)
                    at = (start + g) * lanes
                    moved(sums, 0, first, at)
                    moved(sums, lanes, second, at)
                    if parts == 4:
                        moved_backwards(sums, 2 * lanes, first, n - lanes - at)
                        moved_backwards(sums, 3 * lanes, second, n - lanes - at)


def empty_weights(rows: int, primes: int, m: int, inner: int) -> NDArray[np.float64]:
    """Room for weights in the order of their use."""
    return np.empty((rows, primes, m // LANES, inner, LANES))
