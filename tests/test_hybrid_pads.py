"""Linear layers prepared offline: results, traffic of both phases, single use, uniform masks."""

import numpy as np
import pytest

from he_linear.packings.token_periodic import TokenPeriodicPacking
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.models.ranges import Bound
from hybrid.operators.base import Choice
from hybrid.operators.linear import LinearOperator
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.cost import NO_COST
from tests.he_setup import looks_uniform
from tests.parties import plan_context, run_states, shares, value
from transport.errors import UsageError
from transport.traffic import Party

BOUND = Bound(2.0**-20, 2.0, 16.0)


def layer(tokens, d_in, d_out, diagonal=False, offline=True):
    rng = np.random.default_rng(tokens)
    weight = rng.normal(0, d_in**-0.5, (d_in, d_out))
    bias = rng.normal(size=d_out)
    scale, shift = (rng.normal(size=d_in), rng.normal(size=d_in)) if diagonal else (None, None)
    node = Node(
        "l", 0, "linear", ("x",), ("y",), (tokens, d_in, d_out),
        {"input": BOUND, "output": BOUND}, diagonal,
    )  # fmt: skip
    choice = Choice(TokenPeriodicPacking.name, prepared=offline)
    operator = LinearOperator(node, TokenPeriodicPacking, choice, plan_context())
    return operator, LinearMap(weight, bias, scale, shift)


def run(operator, linear, x, sent=None):
    pair = shares(x)

    def role(state):
        channel, own = state.session.channel, pair[state.session.party is Party.SERVER]
        with channel.step("offline"):
            operator.prepare(state)
        traffic = channel.traffic("offline")
        if sent is not None and state.is_client:
            send = type(channel).send_array
            sent["rho"] = state.pads["l"]._arrays[0].copy()
            sent["message"] = own - sent["rho"]
            assert send is not None
        with channel.step("online"):
            outputs = operator.run([own], state)
        return outputs, traffic, channel.traffic("online")

    encoded = {"l": operator.encode(linear)}
    client, server, _ = run_states(role, steps=operator.galois_steps, encoded=encoded)
    return client, server


@pytest.mark.parametrize(
    ("tokens", "d_in", "d_out", "diagonal"),
    [(1, 3, 5, False), (3, 24, 72, True), (8, 40, 24, False), (33, 300, 7, True)],
)
def test_both_phases(tokens, d_in, d_out, diagonal):
    operator, linear = layer(tokens, d_in, d_out, diagonal)
    x = np.random.default_rng(d_in).normal(0, 2, (tokens, d_in))
    (client, offline, online), (server, *_) = run(operator, linear, x)
    assert np.abs(value(client[0], server[0]) - (x @ linear.weight + linear.bias)).max() < 2**-10
    if diagonal:
        expected = x * linear.scale + linear.shift
        assert np.abs(value(client[1], server[1]) - expected).max() < 2**-10
    assert offline == operator.offline_cost().traffic
    assert online == operator.cost().traffic
    assert online.client_payload_bytes == 8 * tokens * d_in
    assert (online.server_payload_bytes, online.rounds) == (0, 1)


def test_one_unit_more_than_the_online_path():
    errors = []
    for offline in (True, False):
        operator, linear = layer(8, 40, 24, offline=offline)
        x = np.random.default_rng(1).normal(0, 2, (8, 40))
        pair = shares(x)

        def role(state, operator=operator, pair=pair, offline=offline):
            if offline:
                operator.prepare(state)
            return operator.run([pair[state.session.party is Party.SERVER]], state)

        encoded = {"l": operator.encode(linear)}
        client, server, _ = run_states(role, steps=operator.galois_steps, encoded=encoded)
        got = value(client[0], server[0])
        errors.append(np.abs(got - (x @ linear.weight + linear.bias)).max() * 2**16)
    assert errors[0] <= errors[1] + 4


def test_a_pad_serves_once_and_only_once():
    pad = LinearPad("layer", np.zeros(3, np.uint64))
    pad.take()
    with pytest.raises(UsageError, match="used already"):
        pad.take()


def test_a_pad_is_consumed_before_anything_is_sent():
    operator, linear = layer(2, 4, 4)

    class StopError(Exception):
        pass

    def role(state):
        operator.prepare(state)
        pad = state.pads["l"]
        if state.is_client:
            state.session.channel.send_array = None
            with pytest.raises(TypeError):
                operator.run([np.zeros((2, 4), np.uint64)], state)
            with pytest.raises(UsageError):
                pad.take()
        return pad

    encoded = {"l": operator.encode(linear)}
    run_states(role, steps=operator.galois_steps, encoded=encoded)


def test_what_travels_online_is_uniform_and_fresh():
    operator, linear = layer(64, 64, 2)
    seen = []
    for _ in range(2):
        sent = {}
        run(operator, linear, np.zeros((64, 64)), sent)
        seen.append(sent)
        assert looks_uniform(sent["message"].ravel())
    assert not (seen[0]["rho"] == seen[1]["rho"]).any()


def test_online_layers_prepare_nothing():
    operator, _ = layer(2, 4, 4, offline=False)
    assert operator.offline_cost() == NO_COST
