"""Comparisons in coarse steps: any thresholds, any shares, what rides and what is noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks import bit_triples, steps
from mpc_nonlinear.blocks.bit_triples import Conjunctions, conjunctions_cost
from mpc_nonlinear.blocks.steps import SteppedComparison, Steps
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from mpc_nonlinear.protocols.knot_steps import knot_steps
from mpc_nonlinear.protocols.silu import CubicPiecesSilu
from tests import prime_triples
from tests.ot_sources import InsecureLocalSource
from tests.prime_triples import run_products
from tests.test_ot_sources import assert_uniform, recorded
from transport.errors import UsageError
from transport.randomness import SecureRandom
from transport.traffic import Traffic


def with_a_frame(cost):
    """Where the message that rides takes a frame and a round of its own."""
    own = Traffic.exchange(0, 0)
    return cost + Cost.of(own)


def less(numbers, compared, client):
    """Bits (thresholds, n) of numbers from these client's shares."""

    def role(session, x):
        comparison = SteppedComparison(x, compared, session)
        session.channel.next_round()
        return comparison.results(session.channel.exchange(comparison.message))

    numbers: RingArray = np.array(numbers, np.int64).view(np.uint64)
    first = np.array(client, np.uint64)
    cost = with_a_frame(compared.cost(len(numbers)))
    a, b = run_products(role, cost, numbers, shares=[first])
    return a ^ b


@st.composite
def cases(draw):
    low, high = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    room = 1 << (low + high)
    edge = room // 2 - 1
    thresholds = draw(st.lists(st.integers(-edge, edge), min_size=1, max_size=6, unique=True))
    near = st.sampled_from(thresholds).flatmap(lambda t: st.integers(t - 1, t + 1))
    number = st.one_of(st.integers(-edge, edge), near)
    n = draw(st.integers(1, 5))
    numbers = draw(st.lists(number, min_size=n, max_size=n))
    word = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, room - 1, 2**64 - 1]))
    client = draw(st.lists(word, min_size=n, max_size=n))
    return numbers, Steps(tuple(thresholds), low, high), client


@given(cases())
@settings(max_examples=40, deadline=None)
def test_comparisons_are_exact_on_any_shares(case):
    numbers, compared, client = case
    wanted = np.array(numbers)[None] < np.array(compared.thresholds)[:, None]
    assert np.array_equal(less(numbers, compared, client) == 1, wanted)


def test_all_numbers_with_thresholds_of_one_class_and_of_many():
    numbers = list(range(-120, 120))
    for thresholds in ((-96, -48, 0, 16, 48, 96), (-97, -13, 0, 13, 97), (5,)):
        compared = Steps(thresholds, 4, 4)
        client = SecureRandom().uint64((len(numbers),))
        wanted = np.array(numbers)[None] < np.array(thresholds)[:, None]
        assert np.array_equal(less(numbers, compared, client) == 1, wanted)


def test_thresholds_of_one_class_share_table_and_conjunction():
    one, many = Steps((-32, -16, 0, 16, 32), 4, 4), Steps((-29, -16, 0, 17, 34), 4, 4)
    assert [len(one.classes), len(many.classes)] == [1, 4]
    assert [len(parts) for parts in one.shared] == [0, 1, 1]
    assert one.cost(100).ots.total == 100 * (8 + 2 * 2)
    assert many.cost(100).ots.total == 100 * (8 + 4 * 2)
    assert one.cost(100).traffic.sent_bytes < many.cost(100).traffic.sent_bytes
    assert one.cost(100).traffic.rounds == 2


def test_a_digit_longer_than_a_word_is_refused():
    for low, high in ((0, 3), (7, 3), (3, 7)):
        with pytest.raises(UsageError, match="use 1 to 6"):
            Steps((0,), low, high)


@given(st.lists(st.lists(st.integers(0, 15), max_size=9), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_conjunctions_by_one_to_three_bits(drawn):
    wanted = [
        np.array(values, np.uint8) & np.uint8((2 << bits) - 1)
        for bits, values in enumerate(drawn, 1)
    ]
    client = [SecureRandom().bits((len(values),)) * np.uint8(5) & np.uint8(15) for values in wanted]
    client = [c & np.uint8((2 << b) - 1) for b, c in enumerate(client, 1)]

    def role(session):
        own = [c if session.party else c ^ w for c, w in zip(client, wanted, strict=True)]
        both = Conjunctions(own, session)
        session.channel.next_round()
        return both.results(session.channel.exchange(both.message))

    cost = with_a_frame(conjunctions_cost([len(values) for values in wanted]))
    for values, a, b in zip(wanted, *run_products(role, cost), strict=True):
        assert np.array_equal(a ^ b, np.where(values & 1, values >> 1, 0))


@given(st.floats(1, 3), st.floats(3.1, 9), st.floats(0.05, 0.2), st.floats(0.05, 0.2))
@settings(max_examples=60, deadline=None)
def test_knots_are_as_near_whole_steps_as_they_may_be(first, second, near, far):
    found = knot_steps(((first, near), (second, far)), near, 20.0)
    if found is None:
        return
    zero, *places = (k for k in found.compared.thresholds if k >= 0)
    assert zero == 0
    for place, end, slack in zip(places, (first, second), (near, far), strict=True):
        assert abs(place * found.step - end) + found.step * (0.5 + 2.0**-8) <= slack + 1e-9
    assert found.step * (0.5 + 2.0**-8) <= near
    reach = 20.0 / found.step + places[-1] + 2
    assert reach <= 1 << (found.compared.low + found.compared.high)


# -- messages -----------------------------------------------------------------------------------

STEPS = CubicPiecesSilu(20.0, 3.0)._steps().compared
COUNT = 1 << 12
LARGEST = (1 << (STEPS.low + STEPS.high)) - 1 - STEPS.thresholds[-1]
LONGEST = 2**64 - 1
SHARES = [(0, 0), (0, LARGEST), (LARGEST, 0), (LONGEST, LONGEST), (LONGEST, LARGEST + 1)]
"""Of client and server, the same for every number."""


def frames(client, server):
    """All that both send for `COUNT` equal numbers, and the operands that they open together."""

    def role(session, x):
        sent = recorded(session.channel)
        comparison = SteppedComparison(x, STEPS, session)
        session.channel.next_round()
        session.channel.exchange(comparison.message)
        return sent

    first = np.full(COUNT, client, np.uint64)
    whole = first + np.full(COUNT, server, np.uint64)
    asked, offered = run_products(role, with_a_frame(STEPS.cost(COUNT)), whole, shares=[first])
    # Digits and operands; tables and operands.
    assert len(asked) == len(offered) == 2
    sent = [np.frombuffer(frame, np.uint8) for frame in asked + offered]
    return [*sent, sent[1] ^ sent[3]]


def check_messages(client, server):
    """Uniform in one run, in another one, and between them."""
    for one, other in zip(frames(client, server), frames(client, server), strict=True):
        for words in (one, other, one ^ other):
            assert_uniform(words)


@pytest.mark.parametrize(("client", "server"), SHARES)
def test_messages_are_uniform_and_fresh_whatever_the_shares(client, server):
    check_messages(client, server)


def without_index(prepared, kind, count, take=Prepared.masks_receiver):
    ots = take(prepared, kind, count)
    return replace(ots, index=np.zeros_like(ots.index))


@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (Prepared, "masks_receiver", without_index),
        (Prepared, "masks_sender", lambda *of, take=Prepared.masks_sender: 0 * take(*of)),
        (Prepared, "triples", lambda *of, take=Prepared.triples: 0 * take(*of)),
        # The same correlations in every run.
        (prime_triples, "InsecureLocalSource", lambda party, _: InsecureLocalSource(party)),
    ],
    ids=["digits", "tables", "operands", "fresh"],
)
def test_messages_without_masks_of_their_own_are_noticed(monkeypatch, place, name, wrong):
    monkeypatch.setattr(place, name, wrong)
    with pytest.raises(AssertionError, match="chi2"):
        check_messages(0, 0)


def test_a_carry_that_is_forgotten_is_noticed(monkeypatch):
    monkeypatch.setattr(bit_triples, "_products", lambda opened, *_: 0 * opened)
    with pytest.raises(AssertionError):
        test_all_numbers_with_thresholds_of_one_class_and_of_many()


def test_thresholds_in_the_wrong_class_are_noticed(monkeypatch):
    same = property(lambda compared: [list(range(len(compared.thresholds)))])
    monkeypatch.setattr(steps.Steps, "classes", same)
    with pytest.raises(AssertionError):
        test_all_numbers_with_thresholds_of_one_class_and_of_many()
