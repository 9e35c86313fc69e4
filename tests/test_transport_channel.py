"""Counting, rounds and the refusal of bad frames, over every kind of channel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import transport
from tests.transport_pairs import zmq_pair
from tests.waiting import GUARD_S
from transport import (
    FRAME_HEADER_BYTES,
    Channel,
    FrameError,
    LinkModel,
    Party,
    PeerLostError,
    ReceiveTimeoutError,
    Traffic,
    memory_pair,
    run_both,
)
from transport.frame import Frame, FrameKind, parse_frame

Pair = tuple[Channel, Channel]


@contextmanager
def local_pair() -> Iterator[Pair]:
    yield memory_pair(timeout_s=GUARD_S)


@pytest.fixture(params=[local_pair, zmq_pair], ids=["memory", "zmq"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with request.param() as ends:
        yield ends


def both(pair: Pair, role: Callable[[Channel], object]) -> list[object]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(role, pair))


def is_client(channel: Channel) -> bool:
    return channel.party is Party.CLIENT


def exchange(channel: Channel) -> None:
    channel.exchange(bytes(10 if is_client(channel) else 3))


def question(channel: Channel) -> None:
    if is_client(channel):
        channel.send(b"why?")
        channel.recv()
    else:
        channel.recv()
        channel.send(b"42")


def overlapped(channel: Channel) -> None:
    if is_client(channel):
        channel.send(b"one")
        channel.send(b"two")
    else:
        channel.recv()
        channel.recv()


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (exchange, Traffic(10, 3, 1, 1, 1)),
        (question, Traffic(4, 2, 1, 1, 2)),
        (overlapped, Traffic(6, 0, 2, 0, 1)),
    ],
)
def test_both_ends_count_the_same(
    pair: Pair, role: Callable[[Channel], None], expected: Traffic
) -> None:
    def labelled(channel: Channel) -> None:
        with channel.step("talk"):
            role(channel)

    both(pair, labelled)
    for channel in pair:
        assert channel.traffic("talk") == expected
        assert channel.total == expected
        assert channel.labels == ("talk",)


def test_framing_is_counted_apart_from_payload(pair: Pair) -> None:
    both(pair, overlapped)
    total = pair[0].total
    assert total.client_framing_bytes == 2 * FRAME_HEADER_BYTES
    assert total.sent_bytes == 6 + 2 * FRAME_HEADER_BYTES


def test_steps_are_separate_rounds_even_back_to_back(pair: Pair) -> None:
    def role(channel: Channel) -> None:
        for label in ("first", "second"):
            with channel.step(label):
                overlapped(channel)

    both(pair, role)
    assert pair[0].total.rounds == pair[1].total.rounds == 2


Conversation = st.lists(
    st.lists(st.tuples(st.sampled_from(Party), st.integers(0, 40)), max_size=8), max_size=4
)


def longest_chain(steps: list[list[tuple[Party, int]]]) -> int:
    """Rounds by their definition: the longest chain of messages each waiting for the last.

    The script is one order that both parties follow: a message depends on everything its
    sender has received by then, and on everything before the step.
    """
    known = {Party.CLIENT: 0, Party.SERVER: 0}
    for step in steps:
        base = dict(known)
        received = dict.fromkeys(Party, 0)
        sent = dict.fromkeys(Party, 0)
        for sender, _ in step:
            number = max(base[sender], received[sender], sent[sender] - 1) + 1
            sent[sender] = number
            received[sender.peer] = max(received[sender.peer], number)
        for party in Party:
            known[party] = max(base[party], received[party], sent[party])
    return max(known.values())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(Conversation)
def test_random_conversations_count_alike(steps: list[list[tuple[Party, int]]]) -> None:
    def role(channel: Channel) -> None:
        for number, step in enumerate(steps):
            with channel.step(f"step {number}"):
                for sender, size in step:
                    if sender is channel.party:
                        channel.send(bytes(size))
                    else:
                        channel.recv(size)

    client, server = memory_pair(timeout_s=GUARD_S)
    both((client, server), role)
    assert client.labels == server.labels
    for label in client.labels:
        assert client.traffic(label) == server.traffic(label)
    sent = {p: sum(n for s in steps for who, n in s if who is p) for p in Party}
    assert client.total.client_payload_bytes == sent[Party.CLIENT]
    assert client.total.server_payload_bytes == sent[Party.SERVER]
    assert client.total.rounds == longest_chain(steps)


def test_arrays_arrive_as_sent(pair: Pair) -> None:
    array = np.arange(6, dtype=np.uint64).reshape(2, 3) << np.uint64(60)
    received = both(pair, lambda channel: channel.exchange_array(array))
    for other in received:
        assert isinstance(other, np.ndarray)
        assert other.dtype == np.uint64
        np.testing.assert_array_equal(other, array)


def test_sizes_of_memoryviews_are_in_bytes(pair: Pair) -> None:
    values = np.arange(100, dtype=np.uint64)
    pair[0].send(memoryview(values))
    assert pair[1].recv(800) == values.tobytes()
    assert pair[0].total.client_payload_bytes == 800


def test_a_sent_buffer_may_be_reused(pair: Pair) -> None:
    buffer = bytearray(b"x" * 200_000)
    pair[0].send(memoryview(buffer))
    buffer[:] = b"y" * len(buffer)
    assert pair[1].recv() == b"x" * 200_000


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_500_000])
def test_payloads_of_every_size(pair: Pair, size: int) -> None:
    payload = np.random.default_rng(size).bytes(size)
    pair[0].send(payload)
    assert pair[1].recv(size) == payload


def test_wrong_size_names_step_and_sizes(pair: Pair) -> None:
    pair[0].send(b"12345")
    with (
        pair[1].step("layer 3 gelu"),
        pytest.raises(FrameError, match="layer 3 gelu.*5 bytes.*4 were"),
    ):
        pair[1].recv(4)


def test_frames_out_of_order_are_refused(pair: Pair) -> None:
    frame = Frame(FrameKind.DATA, 1, 1, 0, b"")
    pair[0]._put(frame)
    with pytest.raises(FrameError, match="frame 1 .* where 0 was due"):
        pair[1].recv()


def test_a_repeated_frame_is_refused(pair: Pair) -> None:
    frame = Frame(FrameKind.DATA, 0, 1, 0, b"")
    pair[0]._put(frame)
    pair[0]._put(frame)
    pair[1].recv()
    with pytest.raises(FrameError, match="frame 0 .* where 1 was due"):
        pair[1].recv()


@pytest.mark.parametrize("number", [0, 2, 1 << 31])
def test_an_impossible_round_is_refused(pair: Pair, number: int) -> None:
    pair[0]._put(Frame(FrameKind.DATA, 0, number, 0, b""))
    with pytest.raises(FrameError, match="round"):
        pair[1].recv()


def test_silence_ends_with_a_timeout() -> None:
    with (
        zmq_pair(timeout_s=0.2) as (client, _),
        pytest.raises(ReceiveTimeoutError, match=r"server for 0\.2 s"),
    ):
        client.recv()
    with pytest.raises(ReceiveTimeoutError):
        memory_pair(timeout_s=0.05)[0].recv()


def test_abort_reaches_the_peer_with_its_reason(pair: Pair) -> None:
    with ThreadPoolExecutor(1) as pool:
        aborting = pool.submit(pair[0].abort, "PlanError\x1b[2J " + "x" * 500)
        said = r"client stopped: PlanError\\x1b\[2J x+$"
        with pytest.raises(PeerLostError, match=said) as caught:
            pair[1].recv()
        aborting.result()
    assert len(str(caught.value)) < 300


def test_close_wakes_a_blocked_peer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    is_waiting, get = threading.Event(), pair[1]._get

    def reported() -> Frame:
        is_waiting.set()
        return get()

    monkeypatch.setattr(pair[1], "_get", reported)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pair[1].recv)
        assert is_waiting.wait(GUARD_S)
        pair[0].close()
        with pytest.raises(PeerLostError):
            waiting.result(timeout=GUARD_S)


def test_run_both_raises_the_cause_not_its_echo() -> None:
    def role(channel: Channel) -> None:
        if is_client(channel):
            raise KeyError("cause")
        channel.recv()

    with pytest.raises(KeyError, match="cause"):
        run_both(role)


def test_a_link_model_really_delays() -> None:
    link = LinkModel("slow", bandwidth_bps=8e6, latency_s=0.05)
    with zmq_pair(link=link) as ends:
        start = time.monotonic()
        both(ends, question)
        assert time.monotonic() - start >= 2 * link.latency_s
        start = time.monotonic()
        ends[0].send(bytes(200_000))
        ends[0].send(bytes(200_000))
        ends[1].recv()
        ends[1].recv()
        assert time.monotonic() - start >= 400_000 * 8 / link.bandwidth_bps + link.latency_s


def test_a_link_model_does_not_believe_the_future() -> None:
    client, server = memory_pair(link=LinkModel("fast", 1e9, 0.0))
    client._put(Frame(FrameKind.DATA, 0, 1, (1 << 64) - 1, b"now"))
    assert server.recv() == b"now"


def good_header() -> bytes:
    return Frame(FrameKind.DATA, 0, 1, 7, b"abc").header()


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 34), value=st.integers(1, 255))
def test_a_damaged_header_never_parses_as_something_else(position: int, value: int) -> None:
    header = bytearray(good_header())
    header[position] ^= value
    try:
        frame = parse_frame(bytes(header), b"abc")
    except FrameError:
        return
    # What may differ is checked by `recv` (order, round) or read by nobody but the link model.
    assert frame.payload == b"abc"
    assert frame.kind in (FrameKind.DATA, FrameKind.ABORT)


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (b"", b"abc"),
        (good_header()[:-1], b"abc"),
        (good_header() + b"x", b"abc"),
        (bytes(48), b"abc"),
        (b"\xff" * 48, b"abc"),
        (good_header(), b"ab"),
        (good_header(), b"abcd"),
    ],
    ids=["empty", "short", "long", "zeros", "ones", "truncated payload", "longer payload"],
)
def test_malformed_frames_are_refused(header: bytes, payload: bytes) -> None:
    with pytest.raises(FrameError):
        parse_frame(header, payload)


@pytest.mark.parametrize(
    "parts",
    [
        [b"x"],
        [good_header()],
        [good_header(), b"ab"],
        [good_header(), b"a", b"b", b"c", b"d"],
        [bytes(48), b"abc"],
        [b"", b""],
    ],
)
def test_malformed_messages_are_refused_on_the_wire(parts: list[bytes]) -> None:
    with zmq_pair() as (client, server):
        client._wire.socket.send_multipart(parts)
        with pytest.raises(FrameError):
            server.recv()


def test_an_oversized_payload_is_not_sent(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    monkeypatch.setattr("transport.channel.MAX_PAYLOAD_BYTES", 10)
    with pytest.raises(FrameError, match="payload of 11 bytes exceeds 10"):
        pair[0].send(bytes(11))


def test_an_oversized_message_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.zmq_channel.MAX_PAYLOAD_BYTES", 10)
    with zmq_pair() as (client, server):
        client._wire.socket.send_multipart([good_header(), bytes(6), bytes(6)])
        with pytest.raises(FrameError, match="more than 10"):
            server.recv()


def test_an_oversized_frame_ends_the_connection() -> None:
    with zmq_pair() as (client, server):
        client._wire.socket.send_multipart([good_header(), bytes(2 << 20)])
        with pytest.raises(PeerLostError):
            server.recv()


def test_everything_exported_exists() -> None:
    assert len(transport.__all__) == len(set(transport.__all__))
    assert all(hasattr(transport, name) for name in transport.__all__)
