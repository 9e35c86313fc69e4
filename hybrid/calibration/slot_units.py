"""Prices of exact slots modulo a prime: encryption, prepared rows, columns, integer products."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_mask_for_client,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import SlotParameters
from he_linear.kernels.ring_words import reduce_words, transform
from he_linear.kernels.row_products import IntegerMatrix
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.column_products import ColumnProductsPacking
from he_linear.packings.evaluation_work import unit
from he_linear.packings.exact_rows import ExactRowsPacking, shared_galois_steps
from he_linear.packings.row_blocks import HOISTED, Room
from hybrid.calibration.timing import fitted, forget_caches, seconds_of
from mpc_nonlinear.blocks.prime_arithmetic import matrix_product, multiply_add
from transport.computing import Units, add_units
from transport.randomness import SecureRandom

Prices = Iterator[tuple[str, float]]

_COUNT = 4
_ROWS = (
    # (tokens, in, out): baby steps, giant steps, divisions, diagonals of long and of short periods.
    (64, 1, 1),
    (64, 512, 2),
    (64, 2, 1024),
    (256, 2, 320),
    (256, 256, 256),
    (64, 384, 768),
)
_COLUMNS = ((128, 64, 64), (24, 64, 64))
"""(columns, inner, outputs)."""
_FITTED = ("extended_rotation", "horner_extended", "extended_division")
_LEAST_LEFT = 0.1
"""Of an evaluation's seconds, however much its known parts take."""
_SHORT_PRODUCTS = ((1, 64, 256), (1, 576, 3072), (4, 576, 1536), (16, 576, 1536))
"""(rows, in, out) of a server's integer products: weights are read once, whatever the rows."""
_PRODUCTS = 1 << 16


class SlotTimer:
    """Times the operations of one parameter set of exact slots."""

    def __init__(self, parameters: SlotParameters) -> None:
        self._parameters, self._rng = parameters, SecureRandom(domain="calibration")
        self._rows = [ExactRowsPacking(parameters, *sizes) for sizes in _ROWS]
        self._columns = [ColumnProductsPacking(parameters, *sizes) for sizes in _COLUMNS]
        steps = tuple(sorted({*shared_galois_steps(self._rows), HOISTED}))
        self._client = ClientKeys.generate(parameters, steps, False, self._rng)
        self._server = ServerKeys.parse(parameters, self._client.public_bytes(), steps, False)
        self._room = Room()

    def prices(self) -> Prices:
        """Every unit with its seconds."""
        yield from self._there_and_back()
        known = dict(self._turning())
        yield from known.items()
        yield from self._evaluations(known)

    def _unit(self, operation: str) -> str:
        return unit(operation, self._parameters.poly_degree, len(self._parameters.primes))

    def _parsed(self, count: int) -> Floats:
        data, _ = slot_encrypt(count, self._client, self._rng)
        return slot_parse(data, count, self._parameters)

    def _there_and_back(self) -> Prices:
        """Into ciphertexts and back to shares; plaintext factors."""
        p, client, server, rng = self._parameters, self._client, self._server, self._rng
        data, _ = slot_encrypt(_COUNT, client, rng)
        ciphertexts = slot_parse(data, _COUNT, p)
        answer, share = slot_mask_for_client([ciphertexts], server, rng)
        words = share.view(np.int64)
        calls: dict[str, Callable[[], object]] = {
            "slot_encrypt": lambda: slot_encrypt(_COUNT, client, rng),
            "slot_parse": lambda: slot_parse(data, _COUNT, p),
            "slot_mask": lambda: slot_mask_for_client([ciphertexts], server, rng),
            "slot_unmask": lambda: slot_unmask(answer, _COUNT, client),
            "slot_encode": lambda: transform(reduce_words(words, p.primes), p.primes),
        }
        for name, call in calls.items():
            yield self._unit(name), seconds_of(call) / _COUNT

    def _turning(self) -> Prices:
        """What a group of baby steps begins with, and the step from one group to the next."""
        switcher, key = self._server.switcher, self._server.rotation_key(HOISTED)
        body, second = self._parsed(1)[0]
        value = np.stack([body, second])
        begun = seconds_of(lambda: (switcher.decompose(second), switcher.extended(body)))
        yield self._unit("hoist"), begun
        yield self._unit("rotation"), seconds_of(lambda: switcher.rotations(value, [key]))

    def _evaluations(self, known: dict[str, float]) -> Prices:
        """Units that only whole evaluations have, from several of different proportions."""
        cases: list[tuple[Units, float]] = []
        for rows in self._rows:
            done = rows.work
            counted = add_units(done.arriving, done.between, done.leaving)
            cases.append((counted, self._rows_seconds(rows)))
        for columns in self._columns:
            cases.append((columns.work.leaving, self._columns_seconds(columns)))
        names = (*map(self._unit, _FITTED), "fused_multiply_add", "diagonal_residue")
        left = []
        for counted, seconds in cases:
            counts = dict(counted)
            own = seconds - sum(known.get(name, 0.0) * n for name, n in counts.items())
            left.append(
                ([counts.get(name, 0.0) for name in names], max(own, _LEAST_LEFT * seconds))
            )
        yield from fitted(names, left).items()

    def _rows_seconds(self, packing: ExactRowsPacking) -> float:
        ciphertexts = self._parsed(packing.input_ciphertexts)
        shape = packing.d_in, packing.d_out
        weights = IntegerMatrix.from_integers(np.full(shape, 12345, np.int64))
        return seconds_of(lambda: [*packing.stream(ciphertexts, weights, self._server, self._room)])

    def _columns_seconds(self, packing: ColumnProductsPacking) -> float:
        ciphertexts = self._parsed(packing.input_ciphertexts)
        shape = packing.inner, packing.output_ciphertexts
        matrices = [np.full(shape, 12345, np.uint64)] * packing.columns
        return seconds_of(
            lambda: [*packing.stream(ciphertexts, matrices, self._server, self._room)]
        )


def short_product_prices(modulus: int) -> Prices:
    """Rows of residues times integers of 16 bits: products, weights that are read, calls."""
    rng, cases = SecureRandom(domain="calibration"), []
    for rows, d_in, d_out in _SHORT_PRODUCTS:
        weights = IntegerMatrix.from_integers(np.full((d_in, d_out), 12345, np.int64))
        x = rng.uint64((rows, d_in)) % np.uint64(modulus)

        def multiply(x: Residues = x, weights: IntegerMatrix = weights) -> None:
            # Other layers' weights have been read in between.
            forget_caches()
            weights.rows_times(x, modulus)

        seconds = max(seconds_of(multiply) - seconds_of(forget_caches), 1e-6)
        cases.append(([rows * d_in * d_out, float(d_in * d_out), 1.0], seconds))
    names = ("short_multiply_add", "short_weight", "call_short_product")
    yield from fitted(names, cases).items()


def prime_product_prices(modulus: int) -> Prices:
    """A product of residues, as elements and matrices take on average."""
    rng = SecureRandom(domain="calibration")
    x, y, z = rng.uint64((3, _PRODUCTS)) % np.uint64(modulus)
    left, right = x.reshape(4, 256, 64), y.reshape(4, 64, 256)
    elements = seconds_of(lambda: multiply_add(x, y, z, modulus)) / _PRODUCTS
    sums = seconds_of(lambda: matrix_product(left, right, modulus)) / (left.size * right.shape[2])
    yield "prime_multiply_add", (elements + sums) / 2
