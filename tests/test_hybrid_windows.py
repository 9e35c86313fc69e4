"""Attention that reaches some positions to each side, and positions that start with every text."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hybrid.models.graph import Node
from hybrid.models.ranges import Bound
from hybrid.operators.base import Choice
from hybrid.operators.local_steps import Rotary, RotaryOperator
from hybrid.operators.nonlinear import NonlinearOperator
from hybrid.testing.local_parties import FIXED_POINT, InsecureLocalParties, share_out
from mpc_nonlinear import PROTOCOLS
from tests.test_contract_cases import TakesBits
from transport.local import run_both
from transport.traffic import Party

SOFTMAXES = [cls for cls in PROTOCOLS if cls.op == "softmax"] + [TakesBits]
BOUND, TOKENS, HEADS = 4.0, 9, 2
REAL = np.arange(TOKENS) < np.array([[TOKENS], [3]])
"""Of two texts: one of all tokens, one whose last rows of padding are far from every token."""


def softmax_operator(cls, window, parties):
    """Of both texts' heads."""
    bounds = {"input": Bound(2.0**-20, 2.0, BOUND)}
    shape = (2 * HEADS, TOKENS, TOKENS)
    constants = {} if window is None else {"window": float(window)}
    node = Node(
        "s", 0, "softmax", ("x", "m"), ("y",), shape, bounds, batch=2, constants=constants
    )  # fmt: skip
    choice = Choice(cls.name, parties.context.products.name)
    return NonlinearOperator(node, cls, choice, parties.plan_context())


def run_step(operator, x, real, parties):
    """What the shares of the result add up to, and both shares; exactly the declared traffic."""
    pair, cost, keys = share_out(FIXED_POINT.encode(x)), operator.cost(), parties.product_keys()

    def role(channel):
        state = parties.state(channel, keys, cost.ots)
        state = replace(state, products={operator.multiply: state.session.products})
        is_client = channel.party is Party.CLIENT
        mask = real.astype(np.uint64) * np.uint64(is_client)
        with channel.step("s"):
            (found,) = operator.run([pair[channel.party], mask], state)
        return found, state.session.correlations

    (client, ours), (server, theirs), channel = run_both(role)
    parties.give_back(ours, theirs)
    assert channel.traffic("s") == cost.traffic
    return FIXED_POINT.decode(client + server), (client, server)


def hostile_scores():
    """Hidden scores are the largest that there may be, and others spread over the bound."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-BOUND, BOUND, (2 * HEADS, TOKENS, TOKENS))
    place = np.arange(TOKENS)
    apart = abs(place[:, None] - place)
    x[0][apart > 2] = BOUND
    # Visible ones are all the smallest.
    x[1] = np.where(apart > 2, BOUND, -BOUND)
    x[2][:, 3:] = BOUND
    return x, apart


@pytest.mark.parametrize("window", [0, 2, 7])
@pytest.mark.parametrize("cls", SOFTMAXES, ids=lambda cls: cls.name)
def test_rows_see_tokens_of_their_window_alone(cls, window):
    parties = InsecureLocalParties((cls.product_engines or ("ot",))[0])
    operator = softmax_operator(cls, window, parties)
    assert operator.parameters()["window"] == window
    x, apart = hostile_scores()
    found, shares = run_step(operator, x, REAL, parties)
    near = apart <= window
    seen = np.repeat(near & REAL[:, None], HEADS, axis=0)
    scores = torch.from_numpy(x).masked_fill(torch.from_numpy(~seen), -torch.inf)
    wanted = torch.softmax(scores, -1).numpy()
    # Rows that see no token are padding: they may be anything that spoils no other.
    reads = seen.any(-1)
    assert reads[:2].all()
    assert reads[2:].sum() == HEADS * min(3 + window, TOKENS)
    allowed = cls.max_error + cls.approximation_error_of_rows(TOKENS)
    assert np.abs(found - wanted)[reads].max() <= allowed
    assert np.abs(found).max() <= 1 + allowed
    for share in shares:
        assert not share[:, ~near].any()


def test_a_row_of_padding_far_from_every_token_sees_its_window():
    """So that what is computed for it stays within the bounds that the plain model shows."""
    parties = InsecureLocalParties("ot")
    operator = softmax_operator(SOFTMAXES[0], 1, parties)
    x, apart = hostile_scores()
    found, _ = run_step(operator, x, REAL, parties)
    lonely = torch.from_numpy(x[3, -1]).masked_fill(torch.from_numpy(apart[-1] > 1), -torch.inf)
    assert np.abs(found[3, -1] - torch.softmax(lonely, -1).numpy()).max() < 2**-8


def test_without_a_window_only_padding_is_hidden():
    parties = InsecureLocalParties("ot")
    operator = softmax_operator(SOFTMAXES[0], None, parties)
    assert "window" not in operator.parameters()
    x, _ = hostile_scores()
    found, _ = run_step(operator, x, REAL, parties)
    hidden = torch.from_numpy(~np.repeat(REAL, HEADS, axis=0))[:, None]
    wanted = torch.softmax(torch.from_numpy(x).masked_fill(hidden, -torch.inf), -1).numpy()
    assert np.abs(found - wanted).max() < 2**-8


@pytest.mark.parametrize("batch", [1, 3])
def test_rotary_positions_start_again_with_every_text(batch):
    tokens, heads, size, columns = 4, 2, 6, 15
    constants = {"theta": 10.0, "size": size, "heads": heads, "first": 0}
    wide = {"input": Bound(2.0**-20, 64.0, 64.0)}
    context = InsecureLocalParties().plan_context()
    state = SimpleNamespace(idle=())

    def turned(rows, texts):
        node = Node(
            "r", 0, "rotary", ("x",), ("y",), rows.shape, wide, batch=texts, constants=constants
        )  # fmt: skip
        operator = RotaryOperator(node, Rotary, Choice("local"), context)
        pair = share_out(FIXED_POINT.encode(rows))
        return FIXED_POINT.decode(sum(operator.run([share], state)[0] for share in pair))

    x = np.random.default_rng(batch).normal(0, 9, (batch * tokens, columns))
    alone = np.concatenate([turned(text, 1) for text in np.split(x, batch)])
    assert np.abs(turned(x, batch) - alone).max() <= 4 * FIXED_POINT.unit
    assert np.abs(alone - x)[1:].max() > 1
