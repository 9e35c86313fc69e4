"""Both parties in one process, and what the contract checks share.

One process holds both shares and all keys, so nothing here is private.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import PARAMETER_SETS, CkksParameters, set_for_products
from hybrid.operators.base import PlanContext, RunState
from hybrid.operators.homomorphic import HomomorphicClient, HomomorphicParty, HomomorphicServer
from hybrid.operators.slot_products import POLYNOMIAL_PRODUCTS, CkksProducts
from hybrid.operators.slot_triples import TRIPLE_PARAMETERS
from mpc_nonlinear.blocks.beaver import DealerProducts
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Context, Products, Session
from mpc_nonlinear.correlations import SoftSpokenSource
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import Demand, Form, Kind, OtCount
from mpc_nonlinear.fixed_point import RING_BITS, FixedPoint, RingArray
from transport.channel import Channel
from transport.errors import HybridError, UsageError
from transport.foreign import shown
from transport.local import run_both
from transport.randomness import SEED_BYTES, SecureRandom
from transport.traffic import Party, Traffic

FIXED_POINT = FixedPoint(16)


class ContractError(HybridError):
    """A protocol or packing does something else than it declares."""


class MisuseError(ContractError):
    """A check was asked for what it cannot judge; nothing was found broken."""


class RecordingStock(Prepared):
    """Prepared randomness that counts what it is asked for.

    seed: of both parties alike; then products that a dealer gives, or that are made modulo a prime
    by a protocol of their own, are drawn from it in the clear.
    """

    def __init__(self, source: CorrelationSource, seed: bytes | None = None) -> None:
        super().__init__(source)
        self.asked = Demand()
        self._party = source.party
        self._clear = None if seed is None else SecureRandom(seed, domain="clear products")

    def _make(self, kind: Kind, count: int) -> tuple[NDArray[Any], ...]:
        if self._clear is None or kind.form not in _CLEAR:
            return super()._make(kind, count)
        return clear_products(self._clear, kind, count, self._party)

    def _take(self, kind: Kind, count: int) -> tuple[NDArray[Any], ...]:
        self.asked += Demand.of(kind, count)
        return super()._take(kind, count)


_CLEAR = (
    Form.ELEMENT_TRIPLE,
    Form.SQUARE_PAIR,
    Form.PRIME_TRIPLE,
    Form.PRIME_SQUARE,
    Form.PRIME_CROSS,
    Form.PRIME_SCALED_ROW,
    Form.PRIME_CUBE,
)


def clear_products(
    stream: SecureRandom, kind: Kind, count: int, party: Party
) -> tuple[NDArray[Any], ...]:
    """This party's shares of operands and their product: true, and known to both."""
    if kind.form is Form.PRIME_SCALED_ROW:
        return _clear_rows(stream, kind, count, party)
    modulus = kind.shape[0] if kind.shape else 1 << RING_BITS
    if kind.form is Form.PRIME_CROSS:
        own = stream.uint64((3, count)).astype(object) % modulus
        shares = own[2], (own[0] * own[1] - own[2]) % modulus
        return tuple(part.astype(np.uint64) for part in (own[int(party)], shares[int(party)]))
    if kind.form is Form.PRIME_CUBE:
        drawn = stream.uint64((3, 2, count)).astype(object) % modulus
        for power in (1, 2):
            drawn[power, 1] = (drawn[0].sum(0) ** (power + 1) - drawn[power, 0]) % modulus
        return tuple(part.astype(np.uint64) for part in drawn[:, int(party)])
    is_square = kind.form in (Form.SQUARE_PAIR, Form.PRIME_SQUARE)
    drawn = (stream.uint64((2 if is_square else 3, 2, count)).astype(object)) % modulus
    first, second = drawn[0].sum(0), drawn[-2].sum(0)
    drawn[-1, 1] = (first * second - drawn[-1, 0]) % modulus
    return tuple(part.astype(np.uint64) for part in drawn[:, int(party)])


def _clear_rows(
    stream: SecureRandom, kind: Kind, count: int, party: Party
) -> tuple[NDArray[Any], ...]:
    """The same of scaled rows: a, b, a b and the sums of a^2."""
    modulus = kind.shape[0]

    def drawn(*shape: int) -> NDArray[Any]:
        return stream.uint64((2, *shape)).astype(object) % modulus

    a, b = drawn(count, kind.width), drawn(count)
    product, squares = drawn(count, kind.width), drawn(count)
    product[1] = (a.sum(0) * b.sum(0)[:, None] - product[0]) % modulus
    squares[1] = ((a.sum(0) ** 2).sum(-1) - squares[0]) % modulus
    parts = a, b, product, squares
    return tuple(part[int(party)].astype(np.uint64) for part in parts)


class InsecureLocalParties:
    """Client and server as two threads of this process, which therefore sees everything.

    `multiply`: who carries elementwise products and polynomials: "ot", "ckks", "slot_triples" or
    "dealer", the last two by triples drawn in the clear, or an engine of your own. Keys are made
    when first needed and kept.
    """

    def __init__(self, multiply: str | Products = "ot", parameters: str = "n8192_q88") -> None:
        if parameters not in PARAMETER_SETS:
            raise UsageError(f"parameters {shown(parameters)}; known: {', '.join(PARAMETER_SETS)}")
        self.parameters = PARAMETER_SETS[parameters]
        self.deep = set_for_products(POLYNOMIAL_PRODUCTS)
        bits = FIXED_POINT.fraction_bits
        choices: dict[str, Products] = {
            "ot": OtProducts(bits),
            "ckks": CkksProducts(self.parameters, self.deep, bits),
            "slot_triples": PrimeProducts(bits, TRIPLE_PARAMETERS.plain_prime),
            "dealer": DealerProducts(bits),
        }
        if isinstance(multiply, str):
            if multiply not in choices:
                raise UsageError(f"multiply {shown(multiply)}; choose {' or '.join(choices)}")
            multiply = choices[multiply]
        self.context = Context(FIXED_POINT, multiply)
        self._keys: dict[tuple[str, tuple[int, ...]], tuple[ClientKeys, ServerKeys]] = {}
        self._sources: dict[Party, CorrelationSource] = {}
        """Set up and used up, both parties' or none: base OTs take longer than a short run."""

    def plan_context(self, baby_steps: int | None = None) -> PlanContext:
        """For operators that are made without a plan."""
        products = {self.context.products.name: self.context.products}
        return PlanContext(
            self.parameters, self.deep, FIXED_POINT, products, SoftSpokenSource, baby_steps
        )

    def keys(
        self, parameters: CkksParameters, steps: tuple[int, ...] = ()
    ) -> tuple[ClientKeys, ServerKeys]:
        """Both halves of the keys of one parameter set, for exactly these rotations."""
        place = (repr(parameters), steps)
        if place not in self._keys:
            client = ClientKeys.generate(parameters, steps, True, SecureRandom())
            server = ServerKeys.parse(parameters, client.public_bytes(), steps, True)
            self._keys[place] = client, server
        return self._keys[place]

    def product_keys(self) -> list[tuple[ClientKeys, ServerKeys]]:
        """Keys that products in slots take; none where they go by oblivious transfer."""
        if isinstance(self.context.products, CkksProducts):
            return [self.keys(self.parameters), self.keys(self.deep)]
        return []

    def state(
        self, channel: Channel, pairs: Sequence[tuple[ClientKeys, ServerKeys]], ots: OtCount
    ) -> RunState:
        """One party, with as many oblivious transfers in stock as asked for."""
        homomorphic: HomomorphicParty
        if channel.party is Party.CLIENT:
            homomorphic = HomomorphicClient([client for client, _ in pairs], SecureRandom())
        else:
            homomorphic = HomomorphicServer([server for _, server in pairs], SecureRandom())
        products = self.context.products
        if isinstance(products, CkksProducts):
            products = replace(products, party=homomorphic)
        source = self._sources.pop(channel.party, None)
        if source is None:
            source = SoftSpokenSource(channel.party, SecureRandom())
            source.setup(channel)
        source.produce(ots, channel)
        context = Context(FIXED_POINT, products)
        stock = RecordingStock(source, self._clear_seed(channel))
        session = Session(channel, context, source, SecureRandom(), stock)
        return RunState(session, homomorphic)

    def _clear_seed(self, channel: Channel) -> bytes | None:
        """A new one for every run, the client's, where triples are drawn in the clear."""
        if not isinstance(self.context.products, PrimeProducts | DealerProducts):
            return None
        if channel.party is Party.SERVER:
            return channel.recv(SEED_BYTES)
        seed = SecureRandom().bytes(SEED_BYTES)
        channel.send(seed)
        return seed

    def give_back(self, client: CorrelationSource, server: CorrelationSource) -> None:
        """Sources of a run that went well, for the next one."""
        self._sources = {Party.CLIENT: client, Party.SERVER: server}


def place_of(entry: Any, attributes: tuple[str, ...]) -> str:
    """How messages name an implementation; `ContractError` when it lacks a declaration."""
    for attribute in ("op", "name", *attributes):
        require(
            getattr(entry, attribute, None) not in (None, ""),
            f"{shown(entry)}: declares no {attribute}; set it on the class",
        )
    return f"{entry.op}/{entry.name}"


def share_out(x: RingArray) -> tuple[RingArray, RingArray]:
    """Uniform additive shares, client's first."""
    first = SecureRandom().uint64(x.shape)
    return first, x - first


def both(role: Callable[[Channel], Any], place: str) -> tuple[Any, Any, Channel]:
    """`run_both`; what goes wrong there is a broken contract."""
    try:
        return run_both(role)
    except ContractError:
        raise
    except HybridError as error:
        raise ContractError(f"{place}: the run ended with: {error}") from error
    except Exception as error:
        kind = type(error).__name__
        raise ContractError(f"{place}: the run ended with: {kind}: {error}") from error


def same_traffic(declared: Traffic, measured: Traffic, place: str) -> None:
    """Bytes, frames and rounds, each way."""
    require(declared == measured, f"{place}: declared {declared}, measured {measured}")


def within(value: float, allowed: float, what: str, declared: str) -> None:
    """`ContractError` unless value <= allowed."""
    # Written so that NaN fails.
    require(value <= allowed, f"{what} is {value:.3g}, {declared} declares {allowed:.3g}")


def magnitude(x: NDArray[np.float64]) -> float:
    """Magnitude; zero of nothing."""
    return float(np.abs(x).max(initial=0.0))


def require(kept: bool, message: str) -> None:
    """`ContractError` unless kept."""
    if not kept:
        raise ContractError(message)
