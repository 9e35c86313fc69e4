"""Every protocol on the hardest inputs its bounds allow, over both product engines, and plugins."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod

import numpy as np
import pytest

from hybrid.planning.catalog import load_catalog
from mpc_nonlinear import PROTOCOLS
from mpc_nonlinear.blocks.functions import CLIP
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.gelu import THRESHOLD
from tests.test_mpc_contract import FIXED, private, run, slot_products
from transport.errors import ConfigError

GELU, SOFTMAX, LAYERNORM = PROTOCOLS[:3]
engines = pytest.mark.parametrize("in_slots", [False, True], ids=["ot", "ckks"])


def check(protocol, x, in_slots, total=None):
    """`private` also fails unless traffic and OTs are exactly as declared."""
    x = FIXED.decode(FIXED.encode(x))
    got = private(protocol, x, in_slots)
    assert got.shape == x.shape
    assert np.abs(got - protocol.reference(x)).max() <= protocol.max_error
    true = np.abs(got - protocol.true_function(x)).max()
    assert true <= (protocol.max_error + protocol.approximation_error if total is None else total)
    return got


# -- GELU ----------------------------------------------------------------------------------


@engines
@pytest.mark.parametrize("bound", [0.5, 4.0, 64.0, 1024.0])
def test_gelu_at_bounds_and_segment_edges(bound, in_slots):
    unit = FIXED.unit
    ends = [0.0, unit, -unit, bound, -bound, bound - unit, 1 / 3]
    near = THRESHOLD + np.linspace(-0.05, 0.05, 201)
    points = np.concatenate([ends, near, -near, np.linspace(-5, 5, 401)])
    # Within 2^-9 of the true GELU, ciphertext noise included.
    check(GELU(bound=bound), np.clip(points, -bound, bound), in_slots, 2.0**-9)


def test_gelu_reference_over_the_whole_range():
    x = np.linspace(-16, 16, 200_001)
    protocol = GELU(bound=16.0)
    error = np.abs(protocol.reference(x) - protocol.true_function(x)).max()
    assert error <= protocol.approximation_error
    assert error >= protocol.approximation_error / 4


def test_gelu_is_exact_far_outside():
    x = FIXED.decode(FIXED.encode(np.array([-64.0, -4.0, -3.5, 3.5, 17.125, 63.9])))
    got = private(GELU(bound=64.0), x, False)
    # Ten units: the products of a zero are zero up to their roundings.
    assert np.abs(got - np.maximum(x, 0)).max() <= 10 * FIXED.unit


# -- softmax -------------------------------------------------------------------------------


def adversarial_rows(bound: float, columns: int) -> np.ndarray:
    """Ties, equal rows, ends of the range, masked positions, a whole masked row."""
    rng = np.random.default_rng(columns)
    rows = rng.uniform(-bound, bound, (13, columns))
    rows[0], rows[1], rows[2] = 0.0, bound, -bound
    rows[3, ::2] = bound
    rows[4] = rng.integers(-1, 1, columns) * bound
    rows[5, 1:] -= 2 * bound
    rows[6, :-1] -= 2 * bound
    rows[7, 1:], rows[7, 0] = -3 * bound, bound
    rows[8] -= 2 * bound
    rows[9] = -3 * bound
    rows[10] = bound - min(CLIP, 2 * bound)
    rows[10, 0] = bound
    rows[11] = bound - FIXED.unit * np.arange(columns)
    rows[12] = rows[11, ::-1]
    return rows


@engines
@pytest.mark.parametrize("columns", [1, 2, 7, 32])
@pytest.mark.parametrize("bound", [0.25, 1.0, 32.0, 512.0])
def test_softmax_of_adversarial_rows(bound, columns, in_slots):
    got = check(SOFTMAX(bound=bound), adversarial_rows(bound, columns), in_slots, 2.0**-9)
    assert got.min() > -(2.0**-11)
    assert np.abs(got.sum(-1) - 1).max() < columns * 2.0**-11


def test_softmax_reference_on_rows_of_a_hundred():
    rows = np.concatenate([adversarial_rows(b, 100) for b in (0.25, 1.0, 32.0, 512.0)])
    protocol = SOFTMAX(bound=512.0)
    error = np.abs(protocol.reference(rows) - protocol.true_function(rows)).max()
    assert error <= protocol.approximation_error


# -- LayerNorm -----------------------------------------------------------------------------


def rows_between(low: float, high: float, width: int) -> np.ndarray:
    """Variances low, high and every half octave between, and one-spike rows of both ends."""
    rng = np.random.default_rng(width)
    variances = np.exp2(np.arange(np.log2(low), np.log2(high) + 0.25, 0.5))
    rows = rng.normal(size=(len(variances), width))
    rows -= rows.mean(-1, keepdims=True)
    rows *= np.sqrt(variances)[:, None] / rows.std(-1, keepdims=True)
    spikes = np.zeros((2, width))
    spikes[:, 0] = np.sqrt([low * 1.01, high]) * width / np.sqrt(width - 1)
    alternating = np.sqrt(high) * (1 - 2 * (np.arange(width) % 2))
    return np.concatenate([rows, spikes, -spikes, alternating[None] if width % 2 == 0 else rows])


@pytest.mark.parametrize(
    "low,high,width",
    [(2.0**-5, 2.0**7, 48), (2.0**-10, 1.0, 96), (2.0**-8, 2.0**-8, 8), (1.0, 2.0**10, 31)],
)
def test_layernorm_at_both_ends_of_its_variances(low, high, width):
    rows = rows_between(low, high, width)
    bound = 2.0 ** np.ceil(np.log2(np.abs(rows).max() + 0.25))
    check(LAYERNORM(width, 1e-12, low, high, high, bound), rows, False, 2.0**-8)


@pytest.mark.parametrize("low,high,width", [(2.0**-5, 2.0, 48), (2.0**-8, 2.0**-3, 96)])
def test_layernorm_in_slots_at_both_ends_of_its_variances(low, high, width):
    rows = rows_between(low, high, width)
    bound = 2.0 ** np.ceil(np.log2(np.abs(rows).max() + 0.25))
    check(LAYERNORM(width, 1e-12, low, high, high, bound), rows, True, 2.0**-8)


@engines
def test_layernorm_removes_any_mean_and_zero_rows_stay_bounded(in_slots):
    rows = rows_between(0.5, 2.0, 16)
    shifted = rows + np.linspace(-20, 20, len(rows))[:, None]
    check(LAYERNORM(16, 1e-12, 0.5, 2.0, 2.0, 32.0), shifted, in_slots, 2.0**-8)
    # A row without variance divides by at most the root of the smallest variance.
    flat = np.full((2, 16), 3.0)
    got = private(LAYERNORM(16, 1e-5, 0.5, 2.0, 2.0, 32.0), flat, in_slots)
    assert np.abs(got).max() < 2.0**-8


# -- what all declare ----------------------------------------------------------------------

SHAPES = [(1, 16), (3, 16), (2, 3, 16), (5, 1, 16)]
SMALL = {
    "gelu": GELU(bound=8.0),
    "softmax": SOFTMAX(bound=8.0),
    "layernorm": LAYERNORM(16, 1e-12, 0.25, 4.0, 4.0, 8.0),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op", list(SMALL))
def test_any_shape_costs_what_it_declares(op, shape):
    x = np.random.default_rng(prod(shape)).normal(size=shape)
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    check(SMALL[op], x, False)


@pytest.mark.parametrize("op", list(SMALL))
def test_declared_failures_are_improbable_and_rounds_do_not_grow_with_rows(op):
    for products in (slot_products(), OtProducts(16)):
        context = Context(FIXED, products)
        small, large = (SMALL[op].cost((rows, 16), context) for rows in (1, 1000))
        assert small.traffic.rounds == large.traffic.rounds
        assert large.failure_probability < 2.0**-20
        assert large.traffic.sent_bytes > small.traffic.sent_bytes


@engines
@pytest.mark.parametrize("op", list(SMALL))
def test_equal_inputs_send_different_bytes(op, in_slots):
    products = slot_products() if in_slots else OtProducts(16)
    x = FIXED.encode(np.linspace(-1.5, 1.5, 16)[None])
    cost, runs = SMALL[op].cost(x.shape, Context(FIXED, products)), []

    def recorded(session, v):
        payloads, send = [], session.channel.send
        session.channel.send = lambda payload: (payloads.append(bytes(payload)), send(payload))[1]
        SMALL[op].run(v, session)
        return payloads

    for _ in range(2):
        runs.append(run(recorded, cost, x, in_slots=in_slots))
    for first, second in zip(*runs, strict=True):
        assert [len(p) for p in first] == [len(p) for p in second]
        long = [(a, b) for a, b in zip(first, second, strict=True) if len(a) >= 8]
        assert long
        assert all(a != b for a, b in long)


# -- a protocol from outside ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SelectedIdentity(NonlinearProtocol):
    """x times a shared bit that is one: the smallest protocol that talks."""

    op = "gelu"
    name = "selected_identity"
    source = "tests"
    max_error = 0.0
    approximation_error = 0.0

    bound: float

    def reference(self, x: FloatArray) -> FloatArray:
        return x.copy()

    true_function = reference

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:  # noqa: ARG002
        return select_cost(prod(shape))

    def run(self, x: RingArray, session: Session) -> RingArray:
        return select(np.full(x.shape, session.party, np.uint8), x, session)


class SameNameAsBuiltIn(SelectedIdentity):
    name = GELU.name


@pytest.fixture
def plugin(monkeypatch):
    """Make a module importable that holds the given tuple of protocols."""

    def install(name, **members):
        module = type(sys)(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
        return name

    return install


def test_a_plugin_keeps_the_contract_and_is_found_by_name(plugin):
    catalog = load_catalog([plugin("outside_protocols", PROTOCOLS=(SelectedIdentity,))])
    assert catalog["gelu", "selected_identity"] is SelectedIdentity
    assert {GELU.name, "selected_identity"} <= set(catalog.names("gelu"))
    check(catalog["gelu", "selected_identity"](bound=2.0), np.linspace(-2, 2, 9), False)
    assert ("gelu", "selected_identity") not in load_catalog()


def test_built_in_protocols_are_found_by_name():
    catalog = load_catalog()
    for protocol in PROTOCOLS:
        assert catalog[protocol.op, protocol.name] is protocol
        assert protocol.source and protocol.__doc__


def test_plugins_that_collide_or_miss_are_explained(plugin):
    name = plugin("outside_protocols", PROTOCOLS=(SameNameAsBuiltIn,))
    with pytest.raises(ConfigError, match=f"two implementations are called gelu/{GELU.name}"):
        load_catalog([name])
    nothing = "'nothing_here' has no PROTOCOLS, PACKINGS, MODELS tuple"
    with pytest.raises(ConfigError, match=nothing):
        load_catalog([plugin("nothing_here")])
    with pytest.raises(ConfigError, match="'absent_module' cannot be imported"):
        load_catalog(["absent_module"])
    with pytest.raises(ConfigError, match=f"did you mean '{SOFTMAX.name}'"):
        load_catalog()["softmax", SOFTMAX.name[:-1]]
    with pytest.raises(ConfigError, match=f"no gelu is called 'zzz'; known: .*{GELU.name}"):
        load_catalog()["gelu", "zzz"]
