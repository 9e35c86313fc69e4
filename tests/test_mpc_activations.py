"""ReLU, SiLU, tanh, tanh-form GELU and RMSNorm on the hardest inputs their bounds allow."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
import pytest

from hybrid.testing.local_parties import InsecureLocalParties
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.protocols import silu, tanh
from mpc_nonlinear.protocols.gelu_tanh import EvenPolynomialGeluTanh
from mpc_nonlinear.protocols.relu import ExactRelu
from mpc_nonlinear.protocols.rmsnorm import OctavePolynomialRmsNorm
from mpc_nonlinear.protocols.silu import MagnitudePolynomialSilu
from mpc_nonlinear.protocols.tanh import MagnitudePolynomialTanh
from tests.test_mpc_contract import FIXED, private, run, slot_products
from tests.test_mpc_protocols import check
from transport.errors import UsageError

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
engines = pytest.mark.parametrize("in_slots", [False, True], ids=["ot", "ckks"])
ELEMENTWISE = {
    "relu": (ExactRelu, 0.0, 0.0),
    "silu": (MagnitudePolynomialSilu, silu.THRESHOLD, 2.0**-9),
    "tanh": (MagnitudePolynomialTanh, tanh.THRESHOLD, 2.0**-9),
    "gelu": (EvenPolynomialGeluTanh, 3.3, 2.0**-8),
}
every_activation = pytest.mark.parametrize("op", list(ELEMENTWISE))


def points(bound: float, threshold: float) -> np.ndarray:
    """Both ends, zero, its neighbours, both thresholds and everything between."""
    unit = FIXED.unit
    ends = [0.0, unit, -unit, 2 * unit, -2 * unit, bound, -bound, bound - unit, unit - bound]
    near = threshold + np.linspace(-0.05, 0.05, 201)
    zero = np.linspace(-0.05, 0.05, 101)
    inner = np.linspace(-1.5 * threshold - 1, 1.5 * threshold + 1, 801)
    found = np.concatenate([ends, near, -near, zero, inner, np.linspace(-bound, bound, 101)])
    return np.clip(found, -bound, bound)


@every_activation
@pytest.mark.parametrize("bound", [0.5, 16.0, 64.0, 1024.0])
@engines
def test_activations_at_bounds_and_segment_edges(op, bound, in_slots):
    kind, threshold, total = ELEMENTWISE[op]
    check(kind(bound=bound), points(bound, threshold), in_slots, total)


@every_activation
def test_references_over_the_whole_range(op):
    kind, _, _ = ELEMENTWISE[op]
    protocol = kind(bound=64.0)
    x = np.concatenate([np.linspace(-64, 64, 200_001), np.linspace(-0.02, 0.02, 1001)])
    error = np.abs(protocol.reference(x) - protocol.true_function(x)).max()
    assert protocol.approximation_error / 4 <= error <= protocol.approximation_error


def test_relu_is_exact_to_the_last_unit_at_any_bound():
    rng = np.random.default_rng(5)
    for bound in (2.0**-16, 0.25, 3.0, 1000.0, 2.0**30):
        x = np.concatenate([rng.uniform(-bound, bound, 300), [0, bound, -bound, FIXED.unit]])
        x = np.clip(FIXED.decode(FIXED.encode(x)), -bound, bound)
        assert np.array_equal(private(ExactRelu(bound), x, False), np.maximum(x, 0))


def test_odd_and_even_parts_survive():
    x = FIXED.decode(FIXED.encode(np.linspace(0, 12, 301)))
    both = private(MagnitudePolynomialTanh(16.0), np.concatenate([x, -x]), False)
    assert np.abs(both[:301] + both[301:]).max() < 2.0**-9
    both = private(MagnitudePolynomialSilu(16.0), np.concatenate([x, -x]), False)
    assert np.abs(both[:301] - both[301:] - x).max() < 2.0**-9
    far = np.array([10.5, 100.0, -10.5, -100.0])
    got = private(MagnitudePolynomialSilu(128.0), far, False)
    assert np.abs(got - np.maximum(far, 0)).max() <= 10 * FIXED.unit
    got = private(MagnitudePolynomialTanh(128.0), far, False)
    assert np.abs(got - np.sign(far)).max() <= 10 * FIXED.unit


# -- RMSNorm -------------------------------------------------------------------------------


def rows_between(low: float, high: float, width: int) -> np.ndarray:
    """Mean squares low, high and every half octave between; spikes, equal and shifted rows."""
    rng = np.random.default_rng(width)
    squares = np.exp2(np.arange(np.log2(low), np.log2(high) + 0.25, 0.5))
    rows = rng.normal(size=(len(squares), width)) + rng.normal(0, 2, (len(squares), 1))
    rows *= np.sqrt(squares / (rows**2).mean(-1))[:, None]
    spikes = np.zeros((2, width))
    spikes[:, 0] = np.sqrt(np.array([low * 1.01, high * 0.999]) * width)
    equal = np.sqrt([[low * 1.01], [high * 0.999]]) * np.ones((2, width))
    return np.concatenate([rows, spikes, -spikes, equal, -equal, rows[:, ::-1]])


def sends_fresh_bytes(protocol, x: np.ndarray, in_slots: bool) -> None:
    """Two runs on the same input share no message that is long enough to differ by chance."""
    products = slot_products() if in_slots else OtProducts(16)
    cost, runs = protocol.cost(x.shape, Context(FIXED, products)), []

    def recorded(session, v):
        payloads, send = [], session.channel.send
        session.channel.send = lambda payload: (payloads.append(bytes(payload)), send(payload))[1]
        protocol.run(v, session)
        return payloads

    for _ in range(2):
        runs.append(run(recorded, cost, FIXED.encode(x), in_slots=in_slots))
    for first, second in zip(*runs, strict=True):
        assert [len(p) for p in first] == [len(p) for p in second]
        long = [(a, b) for a, b in zip(first, second, strict=True) if len(a) >= 8]
        assert long
        assert all(a != b for a, b in long)


def norm_for(low: float, high: float, width: int, rows: np.ndarray) -> OctavePolynomialRmsNorm:
    bound = 2.0 ** np.ceil(np.log2(np.abs(rows).max()))
    return OctavePolynomialRmsNorm(width, 1e-6, low, high, high, bound)


@pytest.mark.parametrize(
    "low,high,width",
    [
        (2.0**-5, 2.0**7, 48), (2.0**-10, 4.0, 96), (2.0**-8, 2.0**-8, 8), (1.0, 2.0**12, 31),
        (0.5, 8.0, 1), (0.25, 2.0**10, 1024),
        pytest.param(2.0**4, 2.0**16, 4096, marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_rmsnorm_at_both_ends_of_its_squares(low, high, width):
    rows = rows_between(low, high, width)
    check(norm_for(low, high, width, rows), rows, False, 2.0**-8)


@pytest.mark.parametrize(
    "low,high,width",
    [(2.0**-5, 2.0, 48), (2.0**-8, 2.0**-3, 96), (1.0, 64.0, 384), (2.0**-4, 2.0**6, 48)],
)
def test_rmsnorm_with_products_in_slots(low, high, width):
    rows = rows_between(low, high, width)
    check(norm_for(low, high, width, rows), rows, True, 2.0**-8)


@engines
def test_rmsnorm_of_zero_rows_and_large_epsilon(in_slots):
    rows = np.zeros((3, 16))
    protocol = OctavePolynomialRmsNorm(16, 1e-6, 0.5, 2.0, 2.0, 8.0)
    assert np.abs(private(protocol, rows, in_slots)).max() < 2.0**-8
    rows = rows_between(1.0, 2.0, 16)
    check(OctavePolynomialRmsNorm(16, 0.5, 1.0, 4.0, 4.0, 8.0), rows, in_slots, 2.0**-8)


def test_rmsnorm_refuses_what_it_cannot_hold():
    with pytest.raises(UsageError, match="largest must be 1 to 4096 times"):
        OctavePolynomialRmsNorm(16, 1e-6, 2.0**-5, 2.0**8, 1.0, 64.0)
    with pytest.raises(UsageError, match="allows squares above"):
        OctavePolynomialRmsNorm(2**14, 1e-6, 2.0**12, 2.0**16, 1.0, 64.0)
    with pytest.raises(UsageError, match="both must be at most"):
        OctavePolynomialRmsNorm(16, 1e-6, 1.0, 2.0, 1.0, 2.0**17)


# -- what all declare ----------------------------------------------------------------------

SMALL = {op: kind(bound=8.0) for op, (kind, _, _) in ELEMENTWISE.items()}
SMALL["rmsnorm"] = OctavePolynomialRmsNorm(16, 1e-6, 0.25, 4.0, 4.0, 8.0)


@pytest.mark.parametrize("shape", [(1, 16), (3, 16), (2, 3, 16), (5, 1, 16)])
@pytest.mark.parametrize("op", list(SMALL))
@engines
def test_any_shape_costs_what_it_declares(op, shape, in_slots):
    x = np.random.default_rng(prod(shape)).normal(size=shape)
    check(SMALL[op], x / np.sqrt((x**2).mean(-1, keepdims=True)), in_slots)


@pytest.mark.parametrize("op", list(SMALL))
def test_declared_failures_are_improbable_and_rounds_do_not_grow_with_rows(op):
    for products in (slot_products(), OtProducts(16)):
        context = Context(FIXED, products)
        small, large = (SMALL[op].cost((rows, 16), context) for rows in (1, 1000))
        assert small.traffic.rounds == large.traffic.rounds
        assert large.failure_probability < 2.0**-20
        assert large.traffic.sent_bytes > small.traffic.sent_bytes


@pytest.mark.parametrize("op", list(SMALL))
@engines
def test_equal_inputs_send_different_bytes(op, in_slots):
    sends_fresh_bytes(SMALL[op], np.linspace(-1.5, 1.5, 16)[None], in_slots)


# -- experiments ---------------------------------------------------------------------------


@pytest.fixture
def experiments_on_path(monkeypatch):
    for folder in ("fits", "benchmarks"):
        monkeypatch.syspath_prepend(str(EXPERIMENTS / folder))


@pytest.mark.usefixtures("experiments_on_path")
@pytest.mark.parametrize("module,largest", [(silu, 5.3e-4), (tanh, 5.0e-4)], ids=["silu", "tanh"])
def test_constants_are_the_fitted_ones(module, largest):
    import fit_silu
    import fit_tanh

    script, true = {
        silu: (fit_silu, fit_silu.silu_below),
        tanh: (fit_tanh, lambda a: -np.tanh(a)),
    }[module]
    rows, leading, error = script.factors()
    assert np.allclose(module.POLYNOMIAL.factors, rows, rtol=2e-4)
    assert np.isclose(module.POLYNOMIAL.leading, leading, rtol=2e-4)
    assert script.THRESHOLD == module.THRESHOLD
    assert error < largest
    a = np.linspace(-script.SLACK, script.THRESHOLD + script.SLACK, 5001)
    assert np.abs(module.POLYNOMIAL(a) - true(a)).max() < largest


@pytest.mark.usefixtures("experiments_on_path")
def test_error_table_measures_what_is_declared():
    import error_table

    parties = InsecureLocalParties("ot")
    for kind in (MagnitudePolynomialTanh, OctavePolynomialRmsNorm):
        case = next(iter(error_table.CASES[kind.op](kind)))
        line = error_table.measured(parties, kind, case)
        assert line["op"] == kind.op
        assert 0 < line["reference"] <= line["declared_reference"]
        assert 0 < line["true"] <= line["declared_true"] < 2.0**-8
