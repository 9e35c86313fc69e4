"""Prices of the homomorphic engine's units: its own functions, timed on one core."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.diagonal_sums import accumulate_diagonals, empty_weights
from he_linear.kernels.modular_matmul import LimbMatrices, modular_matmul
from he_linear.kernels.residues import Floats, Residues, intt, multiply, to_centred
from he_linear.packings.evaluation_work import unit
from he_linear.packings.token_periodic import permuted_sum
from hybrid.calibration.timing import fitted, seconds_of
from transport.randomness import SecureRandom

_COUNT = 8
"""Ciphertexts of a call: more than the caches near a core hold."""
_STEPS = tuple(range(1, 10))
Prices = Iterator[tuple[str, float]]


class HomomorphicTimer:
    """Times the operations of one parameter set at all of its levels."""

    def __init__(self, parameters: CkksParameters, *, rotations: bool) -> None:
        self._parameters = parameters
        self._rotations = rotations
        self._rng = SecureRandom(domain="calibration")
        steps = _STEPS if rotations else ()
        self._client = ClientKeys.generate(parameters, steps, True, self._rng)
        data = self._client.public_bytes()
        self._server = ServerKeys.parse(parameters, data, steps, True)

    def prices(self) -> Prices:
        """Every unit with its seconds."""
        base = len(self._parameters.base.primes)
        for level in range(base, len(self._parameters.primes) + 1):
            yield from self._question(level)
            yield from self._products(level)
        yield from self._answer(base)
        if self._rotations:
            yield from self._turning(base)

    def _unit(self, operation: str, level: int) -> str:
        return unit(operation, self._parameters.poly_degree, level)

    def _level(self, level: int) -> CkksParameters:
        base = len(self._parameters.base.primes)
        return self._parameters.reduced(level - base + 1)

    def _random(self, *shape: int) -> Residues:
        """Residues below every prime."""
        return self._rng.uint64(shape) >> np.uint64(64 - 27)

    def _question(self, level: int) -> Prices:
        """Into ciphertexts: encode, encrypt, parse and add."""
        p = self._level(level)
        integers = self._rng.uint64((_COUNT, p.slots)).view(np.int64)
        # The polynomials' sets carry real numbers only.
        imag = integers if self._rotations else None
        encoded = he.encode_integers(integers, imag, 2.0**10, p)
        yield (
            self._unit("encode", level),
            seconds_of(lambda: he.encode_integers(integers, imag, 2.0**10, p)) / _COUNT,
        )
        data = he.encrypt_seeded(encoded, self._client, self._rng)
        yield (
            self._unit("encrypt", level),
            seconds_of(lambda: he.encrypt_seeded(encoded, self._client, self._rng)) / _COUNT,
        )
        yield (
            self._unit("parse", level),
            seconds_of(lambda: he.add_plain(he.parse_seeded(data, _COUNT, p), encoded, p)) / _COUNT,
        )

    def _answer(self, level: int) -> Prices:
        """Out of ciphertexts: re-randomise, switch and mask; unmask; decode."""
        p = self._parameters.base
        ciphertexts = self._random(_COUNT, 2, level, p.poly_degree)
        message, mask = he.mask_for_client(ciphertexts, self._server, self._rng)
        calls = {
            "mask": lambda: he.mask_for_client(ciphertexts, self._server, self._rng),
            "unmask": lambda: he.unmask(message, _COUNT, self._client),
            "decode": lambda: he.decode_coefficients(mask, 2.0**27, 16, p),
            "switch": lambda: he.switch_modulus(intt(ciphertexts[:, 0], p.primes), p),
            "plain_multiply": lambda: multiply(ciphertexts[0], ciphertexts[0, 1][None], p.primes),
        }
        for name, call in calls.items():
            # A ciphertext has two polynomials.
            yield self._unit(name, level), seconds_of(call) / _COUNT

    def _products(self, level: int) -> Prices:
        """Products of ciphertexts, relinearised, rescaled or not."""
        p, switcher = self._level(level), self._server.switcher
        value = self._centred(2, p)
        product = switcher.square(value)
        key = self._server.relinearisation_key()
        yield self._unit("square", level), seconds_of(lambda: switcher.square(value))
        yield (
            self._unit("tensor", level),
            seconds_of(lambda: switcher.tensor(value[None], value[None])),
        )
        yield (
            self._unit("relinearise", level),
            seconds_of(lambda: switcher.relinearise(product, key)),
        )
        if level > len(self._parameters.base.primes):
            yield (
                self._unit("rescale", level),
                seconds_of(lambda: switcher.relinearise(product, key, rescaled=True)),
            )

    def _centred(self, rows: int, p: CkksParameters) -> Floats:
        return to_centred(self._random(rows, len(p.primes), p.poly_degree), p.primes)

    def _turning(self, level: int) -> Prices:
        """Rotations that share their digits, and Horner's rule."""
        p, switcher = self._parameters, self._server.switcher
        # Different keys, as in a packing: they come from memory.
        keys = [self._server.rotation_key(step) for step in _STEPS]
        key, value = keys[0], self._centred(2, p)
        one = seconds_of(lambda: switcher.rotations(value, keys[:1]))
        all_ = seconds_of(lambda: switcher.rotations(value, keys))
        rotation = max(0.0, (all_ - one) / (len(keys) - 1))
        yield self._unit("rotation", level), rotation
        yield self._unit("hoist", level), max(0.0, one - rotation)
        rows = np.stack([value] * 9)
        short = seconds_of(lambda: switcher.horner(rows[:2], key))
        long = seconds_of(lambda: switcher.horner(rows, key))
        step = max(0.0, (long - short) / 7)
        yield self._unit("horner_step", level), step
        yield self._unit("horner_end", level), max(0.0, short - step)


def matrix_prices(parameters: CkksParameters) -> Prices:
    """Units of modular matrix products, and of sums that move residues."""
    p, n = parameters.primes[0], parameters.poly_degree
    rng = SecureRandom(domain="calibration")

    def taken(rows: int, inner: int, polys: int, blocks: int) -> tuple[list[float], float]:
        centre = 1 << 40
        values = rng.uint64((inner, polys, n)) % np.uint64(2 * centre)
        operand = values.astype(np.float64) - centre
        weights = np.ones((rows, inner, blocks)) * 12345.0
        matrices = LimbMatrices.from_values(weights, p)
        counts = [rows * inner * polys * n, inner * polys * n, rows * polys * n]
        seconds = seconds_of(lambda: modular_matmul(matrices, operand))
        return [*map(float, counts), 2.0 * rows * inner * blocks], seconds

    shapes = ((64, 64, 2), (8, 64, 2), (64, 8, 2), (96, 192, 2), (64, 64, 1))
    cases = [taken(*shape, 512) for shape in shapes]
    # Many tokens mean few blocks, and few limbs for as many products.
    cases += [taken(96, 192, 2, 128), taken(64, 32, 2, 1024)]
    names = ("multiply_add", "operand_residue", "product_residue", "weight_limb")
    yield from fitted(names, cases).items()
    rows_of = np.zeros((8, 2, n))
    order, moduli = np.arange(n)[::-1].copy(), np.array(parameters.primes, np.float64)
    total = np.empty((2, n))
    seconds = seconds_of(lambda: permuted_sum(rows_of, order, moduli, total))
    yield "permuted_residue", seconds / rows_of.size
    yield from _diagonal_prices(moduli, n)


def _diagonal_prices(moduli: Floats, n: int) -> Prices:
    """Products with full-size diagonals of real slots, and of complex ones."""
    # More weights than the caches hold: they come from memory in a run.
    inputs, out = np.zeros((64, 2, 2, n)), np.empty((16, 2, 2, n))
    for name, kept in (("real_diagonal", n // 2), ("complex_diagonal", n)):
        weights = empty_weights(16, 2, kept, 64)
        weights[...] = 0.0
        seconds = seconds_of(partial(accumulate_diagonals, inputs, weights, moduli, out))
        yield f"{name}_multiply_add", seconds / (16 * inputs.size)
