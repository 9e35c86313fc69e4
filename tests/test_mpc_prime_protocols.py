"""Protocols of decoders with products by triples modulo a prime: error, traffic, exact rows."""

from dataclasses import replace

import numpy as np
import pytest

from mpc_nonlinear.blocks.beaver import DealerProducts
from mpc_nonlinear.blocks.ot_products import OtProducts, exact_products
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols.causal_softmax import SquaredPolynomialCausalSoftmax
from mpc_nonlinear.protocols.gelu_tanh import EvenPolynomialGeluTanh
from mpc_nonlinear.protocols.layernorm import OctavePolynomialLayerNorm
from mpc_nonlinear.protocols.rmsnorm import OctavePolynomialRmsNorm
from mpc_nonlinear.protocols.silu import MagnitudePolynomialSilu
from tests.prime_triples import T, run_products

FIXED = FixedPoint(16)
CONTEXT = Context(FIXED, PrimeProducts(16, T))


def normal_rows(count, width, squares):
    """Of mean squares spread over this range, both ends included."""
    rng = np.random.default_rng(width)
    rows = rng.normal(0, 1, (count, width))
    rows /= np.sqrt((rows**2).mean(-1, keepdims=True))
    return rows * np.sqrt(np.geomspace(*squares, count))[:, None]


def residual_rows():
    """Of a decoder: one place holds 654, the others are small."""
    rows = np.random.default_rng(3).normal(0, 0.5, (3, 576))
    rows[:2, 7] = 654, -654
    rows[2] *= 4
    return rows


def points(threshold):
    edges = np.array([0.0, threshold, -threshold, 64.0, -64.0, 2.0**-16, -(2.0**-16)])
    return np.concatenate([edges, edges * 0.999, np.linspace(-threshold - 1, threshold + 1, 600)])


def layernorm_rows():
    return normal_rows(9, 48, (2.0**-5, 8.0)) + np.random.default_rng(4).normal(0, 2, (9, 1))


CASES = {
    "silu": (MagnitudePolynomialSilu(bound=64.0), points(10.0)),
    "gelu_tanh": (EvenPolynomialGeluTanh(bound=64.0), points(3.3)),
    "causal_softmax": (
        SquaredPolynomialCausalSoftmax(bound=32.0),
        np.random.default_rng(1).normal(0, 6, (2, 3, 9)),
    ),
    "rmsnorm": (
        OctavePolynomialRmsNorm(96, 1e-5, 2.0**-6, 2.0**6, 16.0, 64.0),
        normal_rows(9, 96, (2.0**-6, 2.0**6)),
    ),
    "rmsnorm of residuals": (
        OctavePolynomialRmsNorm(576, 1e-5, 0.5, 1024.0, 512.0, 820.0),
        residual_rows(),
    ),
    "layernorm": (
        OctavePolynomialLayerNorm(48, 1e-12, 2.0**-5, 8.0, 4.0, 64.0),
        layernorm_rows(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_protocols_keep_their_error(name):
    protocol, x = CASES[name]
    cost = protocol.cost(x.shape, CONTEXT)
    client, server = run_products(lambda s, v: protocol.run(v, s), cost, FIXED.encode(x))
    got = FIXED.decode(client + server)
    assert np.abs(got - protocol.reference(x)).max() <= protocol.max_error
    assert np.abs(got - protocol.true_function(x)).max() <= (
        protocol.max_error + protocol.approximation_error
    )


def test_norms_make_all_products_by_an_exact_engine():
    for name in ("rmsnorm", "rmsnorm of residuals", "layernorm"):
        protocol, x = CASES[name]
        forms = {kind.form.name for kind, _ in protocol.cost(x.shape, CONTEXT).demand.counts}
        assert {"PRIME_TRIPLE", "PRIME_SQUARE"} <= forms
    for engine in (OtProducts(16), DealerProducts(16), CONTEXT.products):
        assert engine.is_exact
        assert exact_products(Context(FIXED, engine)) is engine


def test_norms_by_other_engines_cost_what_they_did():
    # A close bound is for those that need it: others would change the plans of encoders.
    protocol, x = CASES["layernorm"]
    products = OtProducts(16)
    assert not products.needs_largest
    assert protocol._square(products).largest == protocol._last(products).largest == 2.0**28


@pytest.mark.parametrize("name,rms,most", [
    # Units of 2^-48: elements' lifts once, and the row's own numbers.
    ("rmsnorm", 2.0, 96 * 2.0 + 4 * 1.5 * 32 + 70),
    ("layernorm", 2.0, 48 * 2.0 + 48 * (2.0 + 4.0 * 32) + 300),
    ("silu", 1.0, 614 * 1.0),
    ("gelu_tanh", 1.0, 614 * 2.0),
])  # fmt: skip
def test_failures_go_by_what_is_known_of_the_input(name, rms, most):
    protocol, x = CASES[name]
    shape = (1, x.shape[-1]) if x.ndim > 1 else x.shape
    known = replace(protocol, rms=rms).cost(shape, CONTEXT)
    assert known.failure_probability <= most * 2.0**-48 * (1 + 1e-9)
    assert known.failure_probability < protocol.cost(shape, CONTEXT).failure_probability
    assert known.traffic == protocol.cost(shape, CONTEXT).traffic


def test_a_token_of_gpt2_hardly_fails_in_its_norms():
    norm = OctavePolynomialLayerNorm(768, 1e-5, 2.0**-4, 2.0**6, 1.0, 64.0, 4.0)
    assert norm.cost((1, 768), CONTEXT).failure_probability * 25 < 1e-9
