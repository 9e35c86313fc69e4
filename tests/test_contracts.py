"""The contract checks pass what is built in and name what a broken extension breaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import he_linear
from he_linear.packings.base import LinearPacking
from he_linear.packings.column_bsgs import ColumnBsgsPacking
from he_linear.packings.halevi_shoup import HaleviShoupPacking
from hybrid.testing.contracts import (
    ContractError,
    InsecureLocalParties,
    check_packing,
    check_protocol,
)
from mpc_nonlinear import PROTOCOLS
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.select import select_cost
from mpc_nonlinear.protocols.relu import ExactRelu
from transport.errors import UsageError
from transport.traffic import Party, Traffic

LINEAR = [p for p in he_linear.PACKINGS if issubclass(p, LinearPacking)]
X = np.linspace(-8, 8, 65)


@pytest.fixture(scope="module")
def parties() -> InsecureLocalParties:
    return InsecureLocalParties()


@pytest.mark.parametrize("multiply", ["ot", "ckks"])
def test_gelu_keeps_its_contract(multiply):
    check = check_protocol(PROTOCOLS[0](bound=8.0), X, InsecureLocalParties(multiply))
    assert check.traffic.rounds > 0
    assert check.ots.total > 0
    assert check.error <= 2**-8
    assert np.abs(check.output - np.maximum(X, 0)).max() < 0.2


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 24, 72), (1, 300, 200)])
@pytest.mark.parametrize("cls", LINEAR)
def test_built_in_packings_keep_their_contract(cls, shape, parties):
    check = check_packing(cls, *shape, parties=parties)
    assert check.unused_steps == ()
    assert (check.prepared_seconds is not None) == cls.evaluates_plaintexts
    assert check.max_error < 2**-9


def test_a_packing_with_column_factors_keeps_its_contract(parties):
    check = check_packing(ColumnBsgsPacking, 3, 20, 9, diagonal=True, parties=parties)
    assert check.ciphertexts == (1, 2)


@pytest.mark.parametrize("shape", [(1, 768, 768), (1, 384, 1536), (2, 40, 5000)])
def test_the_packing_for_one_token_asks_for_the_keys_it_uses(shape, parties):
    assert check_packing(HaleviShoupPacking, *shape, parties=parties).unused_steps == ()


# -- broken protocols ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unnamed(ExactRelu):
    name = ""


@dataclass(frozen=True, slots=True)
class ForgetsTheSelection(ExactRelu):
    def cost(self, shape, context):
        whole = ExactRelu.cost(self, shape, context)
        return type(whole)(whole.traffic, whole.ots - select_cost(1).ots, 0.0, whole.demand)


@dataclass(frozen=True, slots=True)
class DeclaresTooMany(ExactRelu):
    def cost(self, shape, context):
        whole = ExactRelu.cost(self, shape, context)
        return type(whole)(whole.traffic, whole.ots + select_cost(1).ots, 0.0, whole.demand)


@dataclass(frozen=True, slots=True)
class DeclaresNoMessages(ExactRelu):
    def cost(self, shape, context):
        whole = ExactRelu.cost(self, shape, context)
        return type(whole)(Traffic(), whole.ots, 0.0, whole.demand)


@dataclass(frozen=True, slots=True)
class OftenWrong(ExactRelu):
    def cost(self, shape, context):
        whole = ExactRelu.cost(self, shape, context)
        return type(whole)(whole.traffic, whole.ots, 0.5, whole.demand)


@dataclass(frozen=True, slots=True)
class Inaccurate(ExactRelu):
    def run(self, x, session):
        return ExactRelu.run(self, x, session) + np.uint64(session.party is Party.SERVER)


@dataclass(frozen=True, slots=True)
class ApproximatesBadly(ExactRelu):
    def true_function(self, x):
        return np.tanh(x)


@dataclass(frozen=True, slots=True)
class SendsItsShare(ExactRelu):
    def cost(self, shape, context):
        whole = ExactRelu.cost(self, shape, context)
        size = 8 * int(np.prod(shape))
        return type(whole).of(Traffic.exchange(size, size)) + whole

    def run(self, x, session):
        session.channel.exchange_array(x)
        return ExactRelu.run(self, x, session)


@dataclass(frozen=True, slots=True)
class ReturnsAnotherShape(ExactRelu):
    def run(self, x, session):
        return ExactRelu.run(self, x, session)[:-1]


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Unnamed, "declares no name"),
        (ForgetsTheSelection, "declares too few correlations: .* where its own `demand` takes"),
        (DeclaresTooMany, "were not used"),
        (DeclaresNoMessages, "measured"),
        (OftenWrong, "failure probability"),
        (Inaccurate, "max_error declares 0"),
        (ApproximatesBadly, "approximation_error declares 0"),
        (SendsItsShare, "the same in two runs"),
        (ReturnsAnotherShape, "run\\(\\) returned"),
    ],
)
def test_a_broken_protocol_is_named(cls, words, parties):
    with pytest.raises(ContractError, match=words):
        check_protocol(cls(bound=8.0), X, parties)


# -- broken packings -----------------------------------------------------------------------


class ForgetsAKey(ColumnBsgsPacking):
    galois_steps = ()


class WantsMoreKeys(ColumnBsgsPacking):
    @property
    def galois_steps(self):
        return (*super().galois_steps, 1000)


class UnderstatesMemory(ColumnBsgsPacking):
    encoded_bytes = 1


class PacksTwice(ColumnBsgsPacking):
    def pack(self, x):
        return tuple(np.concatenate([part, part]) for part in super().pack(x))


class LosesAResult(ColumnBsgsPacking):
    def stream(self, inputs, encoded, keys):
        results = list(super().stream(inputs, encoded, keys))
        return iter(results[:-1])


class WrongOrder(ColumnBsgsPacking):
    def unpack(self, real, imag):
        return tuple(part[::-1].copy() for part in super().unpack(real, imag))


class WrongShape(ColumnBsgsPacking):
    def unpack(self, real, imag):
        return tuple(part[:-1].copy() for part in super().unpack(real, imag))


class TakesAnything(ColumnBsgsPacking):
    def encode_weights(self, weights, diagonal=None):
        full = np.zeros((self.d_in, self.d_out))
        full[: weights.shape[0], : weights.shape[1]] = weights
        return super().encode_weights(full, diagonal)


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (ForgetsAKey, "list the step in the packing's galois_steps"),
        (UnderstatesMemory, "encoded_bytes declares 1"),
        (PacksTwice, "pack\\(\\) gave"),
        (LosesAResult, "the run ended with"),
        (WrongOrder, "PACKING_RMS_ERROR"),
        (WrongShape, "unpack\\(\\) gave shapes"),
        (TakesAnything, "wrong shape pass"),
    ],
)
def test_a_broken_packing_is_named(cls, words, parties):
    with pytest.raises(ContractError, match=words):
        check_packing(cls, 3, 17, 9, parties=parties)


def test_keys_that_nobody_uses_are_shown(parties):
    assert check_packing(WantsMoreKeys, 3, 17, 9, parties=parties).unused_steps == (1000,)


class WastefulProducts(OtProducts):
    name = "wasteful"

    def square_cost(self, count, bounds):
        return self.multiply_cost(count, bounds)

    def square(self, x, session, bounds):
        return self.multiply(x, x, session, bounds)


def test_an_engine_of_products_of_your_own_is_held_to_its_cost():
    gelu = PROTOCOLS[0](bound=8.0)
    wasteful = check_protocol(gelu, X, InsecureLocalParties(WastefulProducts(16)))
    assert wasteful.traffic.sent_bytes > check_protocol(gelu, X).traffic.sent_bytes


def test_wrong_choices_of_the_parties_are_refused():
    with pytest.raises(UsageError, match="choose ot or ckks"):
        InsecureLocalParties("none")
    with pytest.raises(UsageError, match="known: "):
        InsecureLocalParties(parameters="n1")
