"""What is compared before anything secret moves, and plain public data."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.waiting import GUARD_S
from transport import (
    FrameError,
    HandshakeError,
    UsageError,
    handshake,
    memory_pair,
    recv_public,
    send_public,
)
from transport.handshake import HANDSHAKE_BYTES, PROTOCOL_VERSION

ONE, OTHER = "ab12" * 16, "cd34" * 16


def compare(*facts: dict[str, str]) -> list[BaseException | None]:
    """What the handshake raises at the client and at the server."""
    pair = memory_pair(timeout_s=GUARD_S)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(handshake, *side) for side in zip(pair, facts, strict=True)]
    assert pair[0].total == pair[1].total
    assert pair[0].total.rounds == 1
    return [future.exception() for future in futures]


def test_equal_facts_agree() -> None:
    assert compare({"config": ONE, "plan": OTHER}, {"plan": OTHER, "config": ONE}) == [None, None]


def test_a_different_config_is_named_at_both_ends() -> None:
    errors = compare({"config": ONE}, {"config": OTHER})
    for error, (here, there) in zip(errors, [("ab12", "cd34"), ("cd34", "ab12")], strict=True):
        assert isinstance(error, HandshakeError)
        message = str(error)
        assert f"config is {here * 10}.. at this party and {there * 10}.. at the peer" in message
        assert "start both with the same config" in message


def test_the_first_differing_fact_is_named() -> None:
    errors = compare({"config": ONE, "plan": ONE}, {"config": ONE, "plan": OTHER})
    assert all("handshake: plan is" in str(error) for error in errors)


def test_another_version_comes_before_other_differences() -> None:
    client, server = memory_pair(timeout_s=GUARD_S)
    send_public(server, {"protocol version": "99", "config": OTHER})
    said = f"speaks protocol version 99, this party {PROTOCOL_VERSION}"
    with pytest.raises(HandshakeError, match=said):
        handshake(client, {"config": ONE})


def test_a_missing_fact_is_named() -> None:
    errors = compare({"config": ONE}, {"config": ONE, "plan": ONE})
    assert all("only one party has plan" in str(error) for error in errors)


@pytest.mark.parametrize(
    "facts", [None, [], "text", {}, {"config": ONE}, {"protocol version": 1}, {"a": "b"}]
)
def test_malformed_facts(facts: object) -> None:
    client, server = memory_pair(timeout_s=GUARD_S)
    send_public(server, facts)
    with pytest.raises(HandshakeError, match="did not send its facts"):
        handshake(client, {"config": ONE})


def test_the_peers_words_cannot_steer_a_terminal() -> None:
    (error, _) = compare({"config": ONE}, {"config": "\x1b[2J\n" + "x" * 1000})
    assert str(error).isprintable()
    assert len(str(error)) < 200


def test_facts_are_bounded() -> None:
    client, server = memory_pair(timeout_s=GUARD_S)
    with pytest.raises(UsageError, match=f"at most {HANDSHAKE_BYTES}"):
        handshake(client, {"config": "x" * HANDSHAKE_BYTES})
    server.send(bytes(HANDSHAKE_BYTES + 1))
    with pytest.raises(
        FrameError, match=f"{HANDSHAKE_BYTES + 1} bytes where at most {HANDSHAKE_BYTES}"
    ):
        handshake(client, {})


Plain: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(Plain)
def test_plain_data_arrives_as_sent(data: Any) -> None:
    client, server = memory_pair(timeout_s=GUARD_S)
    send_public(client, data)
    received = recv_public(server, 1 << 16)
    assert received == data
    assert type(received) is type(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_plain_data_or_a_frame_error(data: bytes) -> None:
    client, server = memory_pair(timeout_s=GUARD_S)
    client.send(data)
    try:
        recv_public(server, 100)
    except FrameError:
        return
    assert not isinstance(msgpack.unpackb(data), msgpack.ExtType)


@pytest.mark.parametrize(
    "data",
    [
        (1, 2),
        {1: 2},
        {b"a": 1},
        1 << 64,
        -(1 << 63) - 1,
        pytest.param(object(), id="object"),
        {"a": {1, 2}},
        bytearray(b"x"),
    ],
    ids=repr,
)
def test_other_objects_are_not_sent(data: object) -> None:
    client, _ = memory_pair(timeout_s=GUARD_S)
    with pytest.raises(UsageError):
        send_public(client, data)


def nested(depth: int) -> list[Any]:
    data: list[Any] = []
    for _ in range(depth):
        data = [data]
    return data


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\x81\x01\x02",
        msgpack.packb(msgpack.ExtType(1, b"x")),
        msgpack.packb(msgpack.Timestamp(1)),
        msgpack.packb(1) + b"\x00",
        msgpack.packb("x")[:1],
        b"\xa1\xff",
        b"\xdd\xff\xff\xff\xff",
        msgpack.packb(nested(20)),
        b"\x91" * 5000,
    ],
    ids=lambda packed: packed[:6].hex(),
)
def test_other_msgpack_is_refused(packed: bytes) -> None:
    client, server = memory_pair(timeout_s=GUARD_S)
    client.send(packed)
    with pytest.raises(FrameError):
        recv_public(server, 10_000)


def test_too_deep_data_is_not_sent() -> None:
    with pytest.raises(UsageError, match="nested"):
        send_public(memory_pair()[0], nested(20))
