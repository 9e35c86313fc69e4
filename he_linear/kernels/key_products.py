"""Digits of ciphertexts times switching keys, modulo primes of up to 51 bits.

As in `fused_sums`, in float64: h = fma(v, w, s) with s near 1.5 * 2^103 is a multiple of 2^51, and
the rest at most 2^50. Of factors within 0.51 p both sums are exact over 3 products, with room for a
body: multiples stay within 3 * 0.27 * 2^102 < 2^102, rests within 3 * 2^50.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from he_linear.kernels.fused_sums import PANEL, stored_bias
from he_linear.kernels.ntt_butterflies import ModularCode
from he_linear.kernels.scalars import Floats, centred
from he_linear.kernels.vectors import LANES, data_of

DIGITS = 3
"""Data primes of the parameter sets that key products serve."""
_NEAR = 1024
"""Numbers of a key that several ciphertexts meet while they are in the cache."""
_SHIFT = 51
_BIG, _SHRINK = 1.5 * 2.0 ** (52 + _SHIFT), 2.0**-_SHIFT


def _key_vector_maker() -> Any:
    """Out, 8 numbers from `to` on = sum over digits times key, plus body, modulo p, from `at` on.

    Arguments: digits and key as one row each, the index of number 0 of the first digit and the
    step between digits, for both; body (N), out, to, at, p, 1 / p, 2^51 mod p, that over p.
    """

    def vector(  # noqa: PLR0913
        _typing: Any,
        digits: Any,
        _digits_at: Any,
        _digits_step: Any,
        key: Any,
        _key_at: Any,
        _key_step: Any,
        body: Any,
        out: Any,
        _to: Any,
        _at: Any,
        _p: Any,
        _inverse: Any,
        _factor: Any,
        _factor_over_p: Any,
    ) -> Any:
        i64, f64 = types.int64, types.float64
        index, numbers = [i64] * 2, [f64] * 4
        signature = types.void(digits, *index, key, *index, body, out, *index, *numbers)

        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            ds, ks, bodies, outs = (data_of(context, b, signature, args, k) for k in (0, 3, 6, 7))
            code, at = ModularCode(b, args[10], args[11]), args[9]
            big, shrink, low = (code.splat(ir.DoubleType()(c)) for c in (_BIG, _SHRINK, 0.0))
            place, start, high = b.add(args[1], at), b.add(args[4], at), big
            for _ in range(DIGITS):
                x, y = code.load(ds, place), code.load(ks, start)
                after = code.fma(x, y, high)
                low = b.fadd(low, code.fma(x, y, b.fsub(high, after)))
                high, place, start = after, b.add(place, args[2]), b.add(start, args[5])
            factor = code.splat(args[12]), code.splat(args[13])
            value = code.times(b.fmul(b.fsub(high, big), shrink), factor)
            # Below 2^52.7: rests of three products are up to 3 * 2^50, a body up to 2^51.
            value = b.fadd(value, b.fadd(low, code.load(bodies, at)))
            code.store(code.centre(value), outs, args[8])
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(vector)


_key_vector = _key_vector_maker()


@njit(cache=True, nogil=True)
def _key_products(digits, keys, half, k, bodies, constants, out):  # type: ignore[no-untyped-def]
    p, f = constants
    count, terms, primes, n = digits.shape
    flat, inv = digits.reshape(-1), 1.0 / p
    steps = primes * n, 2 * primes * n
    of_key = (half * primes + k) * n
    for i in range(len(keys)):
        key = keys[i].reshape(-1)
        for start in range(0, n, _NEAR):
            for c in range(count):
                body, row, args = bodies[c], out[c, i], (p, inv, f, f / p)
                first = (c * terms * primes + k) * n
                for j in range(start, min(start + _NEAR, n), LANES):
                    _key_vector(
                        flat, first, steps[0], key, of_key, steps[1], body, row, j, j, *args
                    )


def key_products(
    digits: Floats, keys: tuple[Floats, ...], place: tuple[int, int], bodies: Floats, p: int,
    out: Floats,
) -> None:  # fmt: skip
    """Out (count, keys, N) = sums of each one's digits times each key, plus its body, modulo p.

    digits (count, DIGITS, primes, N), keys (DIGITS, 2, primes, N); place: which polynomial of the
    keys, and the prime p's number; bodies (count, N): centred residues, or twice as large.
    """
    _key_products(digits, keys, *place, bodies, (float(p), centred(1 << _SHIFT, p)), out)


@dataclass(frozen=True, slots=True)
class PanelOrders:
    """Of some keys, the orders of NTT values, panel by panel.

    Values of a panel have exponents that agree modulo 2N / width, and so have them times an odd
    number: a panel comes from one panel.
    """

    targets: NDArray[np.int64]
    """(keys, panels): where each panel goes."""
    places: NDArray[np.uint8]
    """(keys, panels, width): which of its numbers each number there is."""

    @classmethod
    def of(cls, orders: Sequence[NDArray[np.int64]], width: int = PANEL) -> PanelOrders:
        """Of automorphisms' orders (N,); width: of a panel, see `panel_width`."""
        cells = np.stack(orders).reshape(len(orders), -1, width)
        targets = np.argsort(cells[..., 0], axis=1)
        places = np.take_along_axis(cells % width, targets[..., None], axis=1)
        return cls(targets, places.astype(np.uint8))


@njit(cache=True, nogil=True)
def _spread_products(digits, keys, orders, which, bodies, constants, x, at):  # type: ignore[no-untyped-def]
    (p, f, bias), (targets, places), (half, k), (first, step) = constants, orders, which, at
    count, terms, primes, n = digits.shape
    blocks, _, _, width = x.shape
    run, flat, inv = n // (2 * blocks), digits.reshape(-1), 1.0 / p
    steps, of_key = (primes * n, 2 * primes * n), (half * primes + k) * n
    near, args = np.empty(width), (p, inv, f, f / p)
    for i in range(len(keys)):
        key = keys[i].reshape(-1)
        for source in range(n // width):
            column, order = targets[i, source] * width, places[i, source]
            block = column // run
            mirror = block >= blocks
            place = 2 * blocks - 1 - block if mirror else block
            panel = (((2 if mirror else 0) + half) * run + column % run) // width
            for c in range(count):
                body, of_digit = bodies[c], (c * terms * primes + k) * n
                for to in range(0, width, LANES):
                    j = source * width + to
                    _key_vector(
                        flat, of_digit, steps[0], key, of_key, steps[1], body, near, to, j, *args
                    )
                cell = x[place, panel, first + c * step + i]
                for e in range(width):
                    cell[e] = near[order[e]] + bias


def spread_products(
    digits: Floats, keys: tuple[Floats, ...], orders: PanelOrders, place: tuple[int, int],
    bodies: Floats, p: int, x: Floats, at: tuple[int, int],
) -> None:  # fmt: skip
    """`key_products`, each in its key's order, laid out for matrix products as `spread` does.

    at: inner index of the first ciphertext's first key, and step from one ciphertext to the next.
    """
    constants = float(p), centred(1 << _SHIFT, p), stored_bias(p)
    panels = orders.targets, orders.places
    _spread_products(digits, keys, panels, place, bodies, constants, x, at)
