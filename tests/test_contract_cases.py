"""The contract's own cases: padding of a softmax, breakpoints, bounds of a real config."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid.models.graph import Node
from hybrid.models.loading import load_model
from hybrid.models.ranges import Bound
from hybrid.operators.base import Choice
from hybrid.operators.nonlinear import NonlinearOperator
from hybrid.testing.cases import CASES, Case, Domain, cases_for
from hybrid.testing.contracts import (
    ContractError,
    InsecureLocalParties,
    MisuseError,
    check_protocol,
)
from mpc_nonlinear import PROTOCOLS
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols.gelu import EvenPolynomialGelu
from mpc_nonlinear.protocols.layernorm import OctavePolynomialLayerNorm
from mpc_nonlinear.protocols.relu import ExactRelu
from mpc_nonlinear.protocols.row_softmax import RowSoftmax
from mpc_nonlinear.protocols.softmax import SquaredPolynomialSoftmax
from mpc_nonlinear.protocols.visible_rows import VisibleRows
from tests.shaped_config import shaped_config
from transport.traffic import Party

FIXED = FixedPoint(16)
STEP = Bounds(1.1, 1.0, 1.1, largest=4.0)
OF_ROWS = Bound(2.0**-3, 2.0, 2.0**3)


@pytest.fixture(scope="module")
def parties() -> InsecureLocalParties:
    return InsecureLocalParties()


def made(cls, bound=8.0):
    bounds = {"input": Bound(2.0**-20, 2.0, bound), "variance": OF_ROWS, "square": OF_ROWS}
    return cls.for_operation(33, bounds, {"epsilon": 1e-12})


# -- what is built in ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "multiply"),
    [(cls, m) for cls in PROTOCOLS for m in cls.product_engines or ("ot", "ckks")],
    ids=lambda value: value if isinstance(value, str) else f"{value.op}-{value.name}",
)
def test_built_in_protocols_keep_their_contract_in_every_case(cls, multiply):
    check = check_protocol(made(cls), parties=InsecureLocalParties(multiply))
    assert check.remark == ""
    assert len({case.case for case in check.cases}) == len(check.cases) >= 3
    padded = [case for case in check.cases if "padding" in case.case]
    assert bool(padded) == ("softmax" in cls.op)


def test_every_operation_with_a_protocol_has_cases():
    assert set(CASES) == {cls.op for cls in PROTOCOLS}


def test_cases_lie_inside_the_bounds_and_reach_them():
    for op in CASES:
        domain = Domain(8.0, 33, 2.0**-3, 2.0**3, 1e-12, (-2.7, 2.7))
        every = list(cases_for(op, domain))
        assert all(np.abs(case.x).max() <= 8.0 for case in every)
        if "norm" not in op:
            assert max(np.abs(case.x).max() for case in every) == 8.0
            continue
        squares = [
            (case.x.var(-1) if op == "layernorm" else (case.x**2).mean(-1)) for case in every
        ]
        found = np.concatenate(squares)
        assert 2.0**-3 <= found.min() < 2.0**-2.9
        assert 2.0**2.9 < found.max() <= 2.0**3


def test_breakpoints_are_surrounded_unit_by_unit():
    for cls in PROTOCOLS:
        for point in cls.breakpoints:
            domain = Domain.of_protocol(made(cls, 16.0))
            (around,) = [c.x for c in cases_for(cls.op, domain) if c.name == "around breakpoints"]
            wanted = FIXED.encode(np.array([point])).view(np.int64) + np.arange(-3, 4)
            assert np.isin(wanted, FIXED.encode(around).view(np.int64)).all()


def test_scores_are_lowered_as_a_model_lowers_them():
    bounds = {"input": Bound(2.0**-20, 1.0, 8.0)}
    node = Node("s", 0, "softmax", ("x", "m"), ("y",), (2, 3, 4), bounds=bounds)
    context = InsecureLocalParties().plan_context()
    operator = NonlinearOperator(node, SquaredPolynomialSoftmax, Choice("", "ot"), context)
    x = np.random.default_rng(0).integers(-8, 8, (2, 3, 4)).astype(float)
    visible = np.array([1, 1, 0, 0], bool)
    client = SimpleNamespace(is_client=True, encode=FIXED.encode)
    mask = operator._mask(x, [visible.astype(np.uint64)[None]], client)
    got = FIXED.decode(operator._lowered(FIXED.encode(x), mask, client))
    assert np.array_equal(got, Case("", x, visible).lowered(8.0))
    assert got.min() >= -(3 * 8.0 + 16)


# -- softmaxes that do not bear padding ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unclipped(SquaredPolynomialSoftmax):
    """Right while all scores lie within 12 of the largest; a polynomial is anything below."""

    name = "unclipped"

    def reference(self, x):
        e = self.exponential(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def cost(self, shape, context):
        rows, fixed = VisibleRows.of(shape, False), context.fixed_point
        return (
            rows.maximum_cost(self._width(fixed.unit))
            + self.exponential_cost(rows.count, context)
            + self._reciprocal_cost(len(rows.lengths), rows.columns, context)
            + context.products.multiply_cost(rows.count, STEP)
        )

    def run(self, x, session):
        return self._softmax(x, session, lambda e: e)

    def _softmax(self, x, session, hide):
        rows = VisibleRows.of(x.shape, False)
        highest = rows.maximum(x, self._width(session.fixed_point.unit), session)
        e = hide(self.shared_exponential(rows.pack(x) - rows.spread(highest), session))
        inverse = self._reciprocal(rows.sums(e), rows.columns, session)
        result = session.products.multiply(e, rows.spread(inverse), session, STEP)
        return rows.unpack(result).reshape(x.shape)


@dataclass(frozen=True, slots=True)
class Honest(Unclipped):
    """The same mistake, but only in `run`."""

    name = "honest"

    def reference(self, x):
        return RowSoftmax.reference(self, x)


@dataclass(frozen=True, slots=True)
class TakesBits(Unclipped):
    """The same exponential; hidden scores count as the smallest, and their terms as zero."""

    name = "takes_bits"
    takes_mask = True

    def reference(self, x):
        seen = np.isfinite(x)
        low = np.where(seen, x, -self.bound)
        e = np.where(seen, self.exponential(low - low.max(-1, keepdims=True)), 0.0)
        return e / e.sum(-1, keepdims=True)

    def cost(self, shape, context):
        return Unclipped.cost(self, shape, context) + select_cost(int(np.prod(shape))) * 2

    def run_masked(self, x, mask, session):
        bits = np.ascontiguousarray(np.broadcast_to(mask, x.shape)).astype(np.uint8)
        up = session.fixed_point.encode(self.bound) * (session.party is Party.CLIENT)
        low = select(bits, x + up, session) - up
        return self._softmax(low, session, lambda e: select(bits.reshape(-1), e, session))


@dataclass(frozen=True, slots=True)
class ForgetsTheTerms(TakesBits):
    """Hidden scores are the smallest, and still count."""

    def cost(self, shape, context):
        return Unclipped.cost(self, shape, context) + select_cost(int(np.prod(shape)))

    def run_masked(self, x, mask, session):
        bits = np.ascontiguousarray(np.broadcast_to(mask, x.shape)).astype(np.uint8)
        up = session.fixed_point.encode(self.bound) * (session.party is Party.CLIENT)
        return self._softmax(select(bits, x + up, session) - up, session, lambda e: e)


@dataclass(frozen=True, slots=True)
class BitsOfOneParty(TakesBits):
    """Right only where the client's share of the mask is the mask."""

    def run_masked(self, x, mask, session):
        own = mask if session.party is Party.CLIENT else np.zeros_like(mask)
        return TakesBits.run_masked(self, x, own, session)


@dataclass(frozen=True, slots=True)
class DeclaresBitsAlone(SquaredPolynomialSoftmax):
    takes_mask = True


SCORES = np.random.default_rng(1).uniform(-4, 4, (6, 9))


@pytest.mark.parametrize("cls", [Unclipped, Honest])
def test_a_softmax_that_is_right_without_padding_is_refused(cls, parties):
    check = check_protocol(cls(bound=4.0), SCORES, parties)
    assert check.error < 2**-9
    with pytest.raises(ContractError, match="padding.*columns of padding, which must be zero"):
        check_protocol(cls(bound=4.0), parties=parties)


def test_lowered_scores_may_be_given(parties):
    lowered = np.array([[1.0, 2.0, -(3 * 4.0 + 16)], [4.0, -(4.0 + 16), -25.0]])
    assert check_protocol(SquaredPolynomialSoftmax(bound=4.0), lowered, parties).error < 2**-9
    with pytest.raises(ContractError):
        check_protocol(Unclipped(bound=4.0), lowered, parties)


@pytest.mark.long
@pytest.mark.parametrize("multiply", ["ot", "ckks"])
def test_a_softmax_that_takes_bits_of_the_mask_passes(multiply):
    check = check_protocol(TakesBits(bound=4.0), parties=InsecureLocalParties(multiply))
    assert check.error < 2**-9
    assert check_protocol(TakesBits(bound=4.0), SCORES).shape == SCORES.shape


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (ForgetsTheTerms, "columns of padding, which must be zero"),
        (BitsOfOneParty, "columns of padding, which must be zero|distance from reference"),
        (DeclaresBitsAlone, "declares takes_mask without run_masked"),
    ],
)
def test_a_wrong_use_of_the_bits_is_named(cls, words, parties):
    with pytest.raises(ContractError, match=words):
        check_protocol(cls(bound=4.0), parties=parties)


# -- other operations ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WrongOnFew(EvenPolynomialGelu):
    """Right on large inputs alone."""

    def run(self, x, session):
        result = EvenPolynomialGelu.run(self, x, session)
        return result if x.size > 500 or x.ndim > 1 else result + np.uint64(2**13)


@dataclass(frozen=True, slots=True)
class WrongForOneSpike(OctavePolynomialLayerNorm):
    def true_function(self, x):
        true = OctavePolynomialLayerNorm.true_function(self, x)
        return np.minimum(true, 4.5)


def test_the_case_that_breaks_a_protocol_is_named(parties):
    with pytest.raises(ContractError, match=r"^gelu/even_polynomial, zero and one unit: "):
        check_protocol(WrongOnFew(bound=64.0), parties=parties)
    with pytest.raises(ContractError, match=r"^layernorm/octave_polynomial, one spike: "):
        check_protocol(made(WrongForOneSpike, 64.0), parties=parties)


@dataclass(frozen=True, slots=True)
class Doubled(ExactRelu):
    op = "double"
    name = "local"

    def reference(self, x):
        return 2 * x

    true_function = reference

    def cost(self, shape, context):
        return type(ExactRelu.cost(self, shape, context))()

    def run(self, x, session):  # noqa: ARG002
        return x + x


def test_an_unknown_operation_gets_generic_cases_and_is_told(parties):
    check = check_protocol(Doubled(bound=8.0), parties=parties)
    assert "no cases are known for the operation 'double'" in check.remark
    assert len(check.cases) == 3
    assert check_protocol(Doubled(bound=8.0), np.ones(3), parties).remark == ""


# -- the bounds of a config ----------------------------------------------------------------


def test_a_class_is_made_for_every_step_of_a_config(parties):
    config = shaped_config()
    nodes = [n for n in load_model(config).public.graph.nodes if n.op == "layernorm"]
    check = check_protocol(OctavePolynomialLayerNorm, None, parties, config=config)
    found = list(dict.fromkeys(case.protocol for case in check.cases))
    wanted = [
        OctavePolynomialLayerNorm.for_operation(n.shape[-1], n.bounds, n.constants) for n in nodes
    ]
    assert found == list(dict.fromkeys(wanted))
    assert {case.shape[-1] for case in check.cases} == {24}


def test_padding_comes_with_a_config_too(parties):
    check = check_protocol(SquaredPolynomialSoftmax, None, parties, config=shaped_config())
    assert {case.shape[-1] for case in check.cases} == {8}
    assert any("padding" in case.case for case in check.cases)
    with pytest.raises(ContractError, match="rows of 8"):
        check_protocol(Unclipped, None, parties, config=shaped_config())


def test_a_config_without_the_operation_is_misuse(parties):
    with pytest.raises(MisuseError, match=r"has no relu; it has linear, attention, softmax"):
        check_protocol(ExactRelu, None, parties, config=shaped_config())
