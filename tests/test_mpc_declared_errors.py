"""Declared errors hold at the ranges a protocol is bound to, narrow and wide, by every engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, inf, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.operators.slot_products import CheapestProducts
from hybrid.testing.contracts import ContractError, InsecureLocalParties, check_protocol, share_out
from hybrid.testing.local_parties import FIXED_POINT
from hybrid.testing.protocol_run import declared_cost, run_protocol
from mpc_nonlinear import PROTOCOLS
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.protocols.bolt import BoltSoftmax
from mpc_nonlinear.protocols.gelu import EvenPolynomialGelu
from mpc_nonlinear.protocols.layernorm import OctavePolynomialLayerNorm
from mpc_nonlinear.protocols.pieces import PiecesLayerNorm, PiecesRmsNorm
from mpc_nonlinear.protocols.relu import ExactRelu
from mpc_nonlinear.protocols.rmsnorm import OctavePolynomialRmsNorm
from transport.errors import UsageError

ENGINES = ("ot", "ckks", "slot_triples", "dealer")
NORMS = (OctavePolynomialLayerNorm, OctavePolynomialRmsNorm)
BY_PIECES = (PiecesLayerNorm, PiecesRmsNorm)
OTHERS = tuple(p for p in PROTOCOLS if p not in NORMS + BY_PIECES)
SOFTMAXES = tuple(p for p in PROTOCOLS if p.op in ("softmax", "causal_softmax"))


@lru_cache
def parties(engine):
    return InsecureLocalParties(engine)


def named(cls):
    return f"{cls.op}-{cls.name}"


def measured(protocol, x, engine):
    """Of a real run of two parties: distance from reference and from the true function."""
    both = parties(engine)
    x = FIXED_POINT.decode(FIXED_POINT.encode(x))
    cost = declared_cost(protocol, x.shape, both, "x")
    shares = share_out(FIXED_POINT.encode(x))
    got = run_protocol(protocol, shares, None, cost, both, "x", prepare=False).output
    wanted = protocol.reference(x), protocol.true_function(x)
    return [float(protocol.distance(got, function).max()) for function in wanted]


def holds(protocol, x, engine):
    length, context = x.shape[-1], parties(engine).context
    own, whole = measured(protocol, x, engine)
    assert own <= protocol.protocol_error(length, context)
    assert whole <= protocol.error(length, context)
    return whole


def rows(cls, high, spread, width, seed):
    """Half of the smallest mean square, the others up to the largest; normal ones and spikes."""
    rng, low = np.random.default_rng(seed), high / 2.0**spread
    x = rng.normal(size=(8, width))
    x[::2] /= 64
    x[::2, seed % width] = 1
    if cls.op == "layernorm":
        x -= x.mean(-1, keepdims=True)
    wanted = np.concatenate([np.full(4, low), np.geomspace(low, high, 4)])
    wanted = wanted.clip(low * 1.02, high / 1.02 if spread else None)
    return x * np.sqrt(wanted / (x**2).mean(-1))[:, None]


def norm(cls, high, spread, x):
    bound = 2.0 ** ceil(log2(np.abs(x).max()))
    return cls(x.shape[-1], 1e-12, high / 2.0**spread, high, high, bound, high**0.5)


# -- norms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cls", NORMS, ids=named)
@settings(max_examples=4, deadline=None)
@given(
    high=st.integers(-2, 13),
    spread=st.integers(0, 23),
    width=st.sampled_from([16, 64, 300]),
    seed=st.integers(0, 99),
)
def test_normalised_rows_are_within_what_is_declared_for_their_range(
    cls, engine, high, spread, width, seed
):
    spread = min(spread, 12) if cls.op == "rmsnorm" else spread
    x = rows(cls, 2.0**high, spread, width, seed)
    holds(norm(cls, 2.0**high, spread, x), x, engine)


@pytest.mark.parametrize("cls", BY_PIECES, ids=named)
@settings(max_examples=12, deadline=None)
@given(
    high=st.integers(-6, 13),
    spread=st.integers(0, 12),
    width=st.sampled_from([1, 2, 37, 300, 576]),
    seed=st.integers(0, 99),
)
def test_rows_by_pieces_are_within_what_is_declared_for_their_range(cls, high, spread, width, seed):
    width = max(width, 2) if cls.op == "layernorm" else width
    x = rows(cls, 2.0**high, spread, width, seed)
    protocol = norm(cls, 2.0**high, spread, x)
    holds(protocol, x, "slot_triples")
    # Rows of means of squares that 16 bits can tell have few errors.
    if high - spread >= -4:
        assert protocol.error(width, parties("slot_triples").context) < 2.0**-6


def test_a_layernorm_of_variances_far_apart_is_lost_in_slots_and_right_by_transfers():
    x = rows(OctavePolynomialLayerNorm, 2.0**13, 23, 256, 1)
    protocol = norm(OctavePolynomialLayerNorm, 2.0**13, 23, x)
    of_class = protocol.max_error + protocol.approximation_error
    in_slots = measured(protocol, x, "ckks")[1]
    # What the class alone says is wrong there by far; what is declared for these ranges says so.
    assert in_slots > 0.5 > 16 * of_class
    assert protocol.error(256, parties("ckks").context) == inf
    for engine in ("ot", "dealer", "slot_triples"):
        assert holds(protocol, x, engine) <= protocol.error(256, parties(engine).context) < 0.125


def test_errors_in_slots_are_no_more_than_ten_times_what_is_measured():
    # An estimate that is far too large would refuse what is right.
    for spread in (8, 12):
        x = rows(OctavePolynomialLayerNorm, 512.0, spread, 384, 2)
        protocol = norm(OctavePolynomialLayerNorm, 512.0, spread, x)
        own = max(measured(protocol, x, "ckks")[0] for _ in range(3))
        assert protocol.protocol_error(384, parties("ckks").context) < 10 * own


def test_variances_below_every_octave_run_and_say_what_they_miss():
    x = rows(OctavePolynomialLayerNorm, 2.0**-2, 24, 64, 3)
    protocol = norm(OctavePolynomialLayerNorm, 2.0**-2, 24, x)
    assert protocol.approximation_error_within(64) > 0.1
    holds(protocol, x, "ot")
    with pytest.raises(UsageError, match=r"rmsnorm: smallest mean square .* it must be at least"):
        OctavePolynomialRmsNorm(64, 1e-12, 2.0**-30, 2.0**-20, 2.0**-20, 1.0)


# -- softmax and activations ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "engine"),
    [(cls, engine) for cls in OTHERS for engine in cls.product_engines or ENGINES],
    ids=lambda value: value if isinstance(value, str) else named(value),
)
@settings(max_examples=2, deadline=None)
@given(exponent=st.sampled_from([0, 3, 9, 18]), length=st.sampled_from([2, 33, 512]))
def test_others_are_within_what_they_declare_whatever_the_bound(cls, engine, exponent, length):
    bound = 2.0**exponent
    if cls in SOFTMAXES:
        # Powers leave room for a range of their own, and refuse larger ones.
        bound = min(bound, 2.0**9 if cls.name == "own_powers" else 2.0**14)
        place = np.arange(length)
        x = np.stack([
            np.where(place == length - 1, bound, -bound),
            np.where(place % 8 == 0, bound, -bound),
            np.linspace(-min(bound, 12.0), min(bound, 12.0), length),
        ])[:, None]  # fmt: skip
    else:
        near = [t + np.linspace(-1 / 32, 1 / 32, length) for t in (0.0, *cls.breakpoints)]
        x = np.concatenate([*near, np.linspace(-bound, bound, length)])
        x = x[np.abs(x) <= bound]
    holds(cls(bound=bound), x, engine)


def test_sums_of_long_rows_add_up_what_products_modulo_a_prime_lose():
    place = np.arange(2048)
    x = np.where(place == 0, 32.0, -32.0)[None]
    protocol = BoltSoftmax(bound=32.0)
    assert measured(protocol, x, "slot_triples")[0] > 2 * protocol.max_error
    holds(protocol, x, "slot_triples")


# -- what authors declare ------------------------------------------------------------------


def test_constants_alone_still_declare_an_error():
    @dataclass(frozen=True, slots=True)
    class Old(ExactRelu):
        max_error = 2.0**-7
        approximation_error = 2.0**-6

    for engine in ENGINES:
        context = parties(engine).context
        assert Old(bound=8.0).error(5, context) == 2.0**-7 + 2.0**-6
    check_protocol(Old(bound=8.0), parties=parties("ot"))


def test_the_error_of_any_engine_is_that_of_the_worst():
    x = rows(OctavePolynomialLayerNorm, 512.0, 12, 64, 4)
    protocol = norm(OctavePolynomialLayerNorm, 512.0, 12, x)
    contexts = [parties(engine).context for engine in ("ot", "ckks")]
    either = CheapestProducts([context.products for context in contexts], 1.0)
    errors = [protocol.error(64, context) for context in contexts]
    assert protocol.error(64, Context(FIXED_POINT, either)) == max(errors) > min(errors)


@dataclass(frozen=True, slots=True)
class TooSureOfItself(OctavePolynomialLayerNorm):
    def protocol_error(self, length, context):  # noqa: ARG002
        return 1e-9


@dataclass(frozen=True, slots=True)
class TooSureOfTheWhole(EvenPolynomialGelu):
    true_error = 1e-4


@dataclass(frozen=True, slots=True)
class SaysNothing(OctavePolynomialLayerNorm):
    def protocol_error(self, length, context):  # noqa: ARG002
        return None


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (TooSureOfItself, r"distance from reference\(\) is .*, protocol_error\(\) declares 1e-09"),
        (TooSureOfTheWhole, r"distance from true_function\(\) is .*, error\(\) declares 0.0001"),
        (SaysNothing, r"protocol_error\(\) returned None"),
    ],
)
def test_the_contract_names_an_error_that_is_declared_too_small(cls, words):
    protocol = cls(bound=8.0) if cls.op == "gelu" else cls(16, 1e-12, 0.5, 8.0, 4.0, 32.0)
    with pytest.raises(ContractError, match=words):
        check_protocol(protocol, parties=parties("ot"))


def test_the_contract_holds_a_protocol_at_wide_ranges_too():
    wide = OctavePolynomialLayerNorm(64, 1e-12, 2.0**-6, 2.0**8, 2.0**8, 256.0)
    for engine in ENGINES:
        check_protocol(wide, parties=parties(engine))
    narrow = replace(wide, variance_min=2.0**7)
    context = parties("ckks").context
    assert narrow.error(64, context) < wide.error(64, context) / 4
