"""Polynomials of encrypted numbers, one real number a slot, in one trip.

A polynomial is written as a product of shifted squares, so that its only constants are added:
    P(x) = prod_i ((y + shift_i)^2 + offset_i) * (y if with_input), y = x^2 if even else x,
squared `squarings` times. The factor in front, which no multiplication needs, belongs to the
decoding. Every product but the last is rescaled by one prime.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from he_linear.ckks.key_switching import KeySwitcher
from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.residues import from_centred, to_centred
from he_linear.kernels.scalars import Floats, Integers, Residues, centred
from he_linear.packings.base import Packing, check_sizes
from he_linear.packings.evaluation_work import EvaluationWork
from transport.computing import scale_units, units
from transport.errors import ParameterError


@dataclass(frozen=True, slots=True)
class Circuit:
    """The polynomial of the module's docstring."""

    factors: tuple[tuple[float, float], ...]
    """(shift, offset) of each shifted square."""
    even: bool = False
    with_input: bool = False
    squarings: int = 0
    multiples: tuple[tuple[int, int], ...] = ()
    """(m, k) of each factor, 2 shift = r m / k for one r: one square serves all factors, taken as
    k y^2 + m r y + k (shift^2 + offset). The scale that turns r into integers is then fixed."""

    @property
    def depth(self) -> int:
        """Products one after the other."""
        heights = self._leaf_heights()
        while len(heights) > 1:
            heights = sorted([max(heights[:2]) + 1, *heights[2:]])
        return heights[0] + self.squarings

    @property
    def degree(self) -> int:
        """Of the whole polynomial in x."""
        inner = 2 * len(self.factors) + self.with_input
        return (2 * inner if self.even else inner) << self.squarings

    @property
    def products(self) -> int:
        """Relinearisations a ciphertext."""
        leaves = len(self.factors) + self.with_input
        squares = 1 if self.multiples else len(self.factors)
        return self.even + squares + leaves - 1 + self.squarings

    def _leaf_heights(self) -> list[int]:
        low = int(self.even)
        return [low] * self.with_input + [low + 1] * len(self.factors)


@dataclass(frozen=True, slots=True)
class _Value:
    """One centred ciphertext (2, level, N) and its scale."""

    data: Floats
    scale: float

    @property
    def level(self) -> int:
        return int(self.data.shape[1])


class SlotPolynomialPacking(Packing):
    """`count` numbers in ceil(count / slots) ciphertexts; the circuit acts on each slot."""

    op = "polynomial"
    name = "slot_polynomial"
    source = "[Cheon17] multiplication and rescaling in CKKS slots; factors of this project"
    input_scale_bits = 0
    needs_relinearisation = True

    def __init__(self, parameters: CkksParameters, count: int, circuit: Circuit) -> None:
        check_sizes(count=count)
        if circuit.depth > parameters.levels:
            raise ParameterError(
                f"polynomial: {circuit.depth} products one after the other, the parameters have "
                f"room for {parameters.levels}; choose a set with more rescaling primes"
            )
        self.parameters = parameters.reduced(circuit.depth)
        self.count = count
        self.circuit = circuit
        self.output_ciphertexts = -(-count // parameters.slots)
        self.operand_ciphertexts = (self.output_ciphertexts,)

    @property
    def output_scale(self) -> float:
        """For an input scale of one; it grows with the input's to the power of the degree."""
        return self.result_scale(1.0)

    def result_scale(self, input_scale: float) -> float:
        """Scale of the result modulo the base primes, each rescaling included."""
        return self._played(input_scale)[0]

    @property
    def work(self) -> EvaluationWork:
        """Products at the levels where the circuit has them, all but the last rescaled."""
        counts: dict[str, float] = {}
        *rescaled, last = self._played(1.0)[1]
        names = [self.unit(kind, level) for kind, level in (*rescaled, last)]
        names += [self.unit("rescale", level) for _, level in rescaled]
        names.append(self.unit("relinearise", last[1]))
        for name in names:
            counts[name] = counts.get(name, 0.0) + 1
        results = self.output_ciphertexts
        return EvaluationWork((), (), scale_units(units(counts), results), stages=results)

    def _played(self, input_scale: float) -> tuple[float, list[tuple[str, int]]]:
        """Scale of the result, and kind and level of every product in order."""
        primes = self.parameters.primes
        level, scale = len(primes), input_scale
        circuit = self.circuit
        products: list[tuple[str, int]] = []

        def multiply(a: tuple[int, float], b: tuple[int, float]) -> tuple[int, float]:
            low = min(a[0], b[0])
            products.append(("square" if a is b else "tensor", low))
            if len(products) == circuit.products:
                return low, a[1] * b[1]
            return low - 1, a[1] * b[1] / primes[low - 1]

        low = (level, scale)
        if circuit.even:
            low = multiply(low, low)
        leaves = [low] * circuit.with_input
        if circuit.multiples:
            shared = multiply(low, low)
            leaves += [(shared[0], k * shared[1]) for _, k in circuit.multiples]
        else:
            leaves += [multiply(low, low) for _ in circuit.factors]
        while len(leaves) > 1:
            leaves.append(multiply(leaves.pop(0), leaves.pop(0)))
            leaves.sort(key=lambda leaf: -leaf[0])
        for _ in range(circuit.squarings):
            leaves[0] = multiply(leaves[0], leaves[0])
        return leaves[0][1], products

    def input_scale_for(self, wanted: float) -> float:
        """Scale of x for a result near the wanted scale, or the one that shared squares need."""
        circuit, primes = self.circuit, self.parameters.primes
        if not circuit.multiples:
            return float((wanted / self.result_scale(1.0)) ** (1 / circuit.degree))
        # S_y / (S_y^2 / q) = 2 shift k / m
        (shift, _), (m, k) = circuit.factors[0], circuit.multiples[0]
        scale = primes[-2 if circuit.even else -1] * m / (2 * shift * k)
        return float((scale * primes[-1]) ** 0.5 if circuit.even else scale)

    def pack(self, x: Integers) -> Integers:
        """(count,) to (ciphertexts, slots)."""
        slots = np.zeros(self.output_ciphertexts * self.parameters.slots, x.dtype)
        slots[: self.count] = x
        return slots.reshape(self.output_ciphertexts, -1)

    def unpack(self, real: Residues) -> Residues:
        """(ciphertexts, slots) to (count,)."""
        return real.ravel()[: self.count]

    def evaluate(self, ciphertexts: Residues, input_scale: float, keys: ServerKeys) -> Residues:
        """(n, 2, primes, N) to (n, 2, base primes, N)."""
        primes = self.parameters.primes
        inputs = to_centred(ciphertexts, primes)
        results = [_Evaluation(self, keys).run(_Value(x, input_scale)) for x in inputs]
        return from_centred(np.stack(results), self.parameters.base.primes)


class _Evaluation:
    """The circuit on one ciphertext."""

    def __init__(self, packing: SlotPolynomialPacking, keys: ServerKeys) -> None:
        self._circuit = packing.circuit
        self._primes = packing.parameters.primes
        self._key = keys.relinearisation_key()
        self._switcher: KeySwitcher = keys.switcher
        self._remaining = packing.circuit.products

    def run(self, x: _Value) -> Floats:
        """The result at the base primes."""
        circuit = self._circuit
        y = self._multiply(x, x) if circuit.even else x
        leaves = [y] * circuit.with_input + list(self._factors(y))
        # The least deep factors first, as `Circuit.depth` counts them.
        while len(leaves) > 1:
            leaves.append(self._multiply(leaves.pop(0), leaves.pop(0)))
            leaves.sort(key=lambda leaf: -leaf.level)
        result = leaves[0]
        for _ in range(circuit.squarings):
            result = self._multiply(result, result)
        return result.data

    def _factors(self, y: _Value) -> Iterator[_Value]:
        circuit = self._circuit
        if not circuit.multiples:
            for shift, offset in circuit.factors:
                moved = self._shift(y, shift)
                yield self._shift(self._multiply(moved, moved), offset)
            return
        square = self._multiply(y, y)
        moduli = np.array(self._primes[: square.level], np.float64)[:, None]
        for (shift, offset), (m, k) in zip(circuit.factors, circuit.multiples, strict=True):
            data = k * square.data + m * y.data[:, : square.level]
            data -= moduli * np.rint(data / moduli)
            yield self._shift(_Value(data, k * square.scale), shift**2 + offset)

    def _shift(self, x: _Value, constant: float) -> _Value:
        """A constant in every slot is a constant polynomial, equal at every NTT point."""
        data = x.data.copy()
        units = round(constant * x.scale)
        for k in range(x.level):
            p = self._primes[k]
            row = data[0, k]
            row += centred(units, p)
            row -= p * np.rint(row / p)
        return _Value(data, x.scale)

    def _multiply(self, a: _Value, b: _Value) -> _Value:
        level = min(a.level, b.level)
        if a is b:
            product = self._switcher.square(a.data)
        else:
            left, right = (np.ascontiguousarray(v.data[None, :, :level]) for v in (a, b))
            product = self._switcher.tensor(left, right)
        scale = a.scale * b.scale
        self._remaining -= 1
        last = not self._remaining
        data = self._switcher.relinearise(product, self._key, rescaled=not last)
        return _Value(data, scale if last else scale / self._primes[level - 1])
