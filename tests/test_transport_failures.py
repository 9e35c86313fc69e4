"""What ends a session of two processes, and how soon the other one knows."""

from __future__ import annotations

import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

from tests.transport_pairs import ANY_PORT, client_process, dial, zmq_pair
from tests.waiting import GUARD_S, wait_until
from transport import (
    ConfigError,
    CurveKeys,
    HandshakeError,
    LinkModel,
    Party,
    PeerLostError,
    UsageError,
    ZmqChannel,
    connect,
    listen,
    loopback_bytes,
)
from transport.wire import Wire

SLEEP = "signal.pause()\n"


def test_a_killed_peer_is_noticed() -> None:
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S)
    try:
        with client_process(server.endpoint, SLEEP) as process:
            assert server.recv() == b"h"
            process.send_signal(signal.SIGKILL)
            with pytest.raises(PeerLostError, match="client is gone"):
                server.recv()
            with pytest.raises(PeerLostError):
                server.send(b"anyone?")
    finally:
        server.close()


def test_a_killed_server_is_noticed_by_sends() -> None:
    with zmq_pair() as (client, server):
        client.send(b"hello")
        assert server.recv() == b"hello"
        server.close()
        with pytest.raises(PeerLostError):
            client.recv()
        with pytest.raises(PeerLostError):
            client.send(b"anyone?")


def test_a_hung_peer_is_noticed_by_its_missing_heartbeat() -> None:
    # The receive timeout is far away: only the heartbeat can end this wait.
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S, heartbeat_s=1.0)
    try:
        with client_process(server.endpoint, SLEEP) as process:
            assert server.recv() == b"h"
            os.kill(process.pid, signal.SIGSTOP)
            with pytest.raises(PeerLostError, match=r"did not answer for 1 s"):
                server.recv()
    finally:
        server.close()


def test_a_peer_that_computes_is_not_lost() -> None:
    # It keeps the GIL, for longer than the heartbeat; those come from ZeroMQ's own thread.
    body = "ctypes.PyDLL(None).sleep(4)\nchannel.send(b'late')\n"
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S, heartbeat_s=3.0)
    try:
        with client_process(server.endpoint, body + SLEEP):
            assert server.recv() == b"h"
            assert server.recv() == b"late"
    finally:
        server.close()


def test_an_aborting_process_is_heard_before_it_exits() -> None:
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S)
    try:
        with client_process(server.endpoint, "channel.abort('ConfigError')\n") as process:
            assert server.recv() == b"h"
            with pytest.raises(PeerLostError, match="client stopped: ConfigError"):
                server.recv()
            assert process.wait(timeout=GUARD_S) == 0
    finally:
        server.close()


@pytest.mark.parametrize("sender", [0, 1], ids=["client", "server"])
def test_a_send_to_a_peer_that_stopped_tells_its_reason(sender: int) -> None:
    with zmq_pair() as ends, ThreadPoolExecutor(1) as pool:
        ends[1].send(b"unread")
        ends[0].send(b"unread")
        aborting = pool.submit(ends[sender].abort, "enough")
        with pytest.raises(PeerLostError, match="stopped: enough"):
            wait_until(lambda: ends[1 - sender].send(b"more"), "the reason")
        aborting.result(timeout=GUARD_S)


def test_abort_is_heard_across_a_flood() -> None:
    with zmq_pair() as (client, server), ThreadPoolExecutor(1) as pool:
        for _ in range(30):
            server.send(bytes(1 << 20))
        aborting = pool.submit(client.abort, "enough")
        with pytest.raises(PeerLostError, match="client stopped: enough"):
            server.recv()
        aborting.result(timeout=GUARD_S)


def has_hung_up(channel: ZmqChannel) -> bool:
    """Whether the peer's end is closed, messages from it left unread."""
    wire = channel._wire
    if channel.party is Party.CLIENT:
        return not wire.is_attached
    return not int(wire.socket.get(zmq.EVENTS)) & zmq.POLLOUT


@pytest.mark.parametrize("sender", [0, 1], ids=["client", "server"])
def test_what_was_sent_before_a_close_is_delivered(sender: int) -> None:
    with zmq_pair() as ends:
        for size in range(20):
            ends[sender].send(bytes(size << 16))
        ends[sender].close()
        wait_until(lambda: has_hung_up(ends[1 - sender]), "the end of the connection")
        for size in range(20):
            assert len(ends[1 - sender].recv()) == size << 16
        with pytest.raises(PeerLostError):
            ends[1 - sender].recv()


def test_closing_is_quick_without_a_peer_and_may_be_repeated() -> None:
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S)
    server.abort("nobody listens")
    server.close()
    server.close()
    with pytest.raises(UsageError, match="closed"):
        server.recv()


def test_a_second_client_is_refused_and_disturbs_nothing() -> None:
    with zmq_pair() as (client, server):
        for _ in range(3):
            with pytest.raises(HandshakeError, match="serving another client"):
                dial(server.endpoint)
        client.send(b"still here")
        assert server.recv() == b"still here"
        server.send(b"so am I")
        assert client.recv() == b"so am I"


def test_a_lost_peer_cannot_be_replaced() -> None:
    with zmq_pair() as (client, server):
        client.send(b"x")
        assert server.recv() == b"x"
        client.close()
        with pytest.raises(HandshakeError):
            dial(server.endpoint)
        with pytest.raises(PeerLostError):
            server.recv()


def test_many_clients_at_once_leave_one_peer() -> None:
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S)
    winners = []

    def attempt(name: int) -> None:
        try:
            channel = connect(
                server.endpoint, Party.CLIENT, timeout_s=GUARD_S, connect_timeout_s=GUARD_S
            )
        except HandshakeError:
            return
        winners.append(name)
        channel.send(b"me")
        channel.recv()
        channel.close()

    threads = [threading.Thread(target=attempt, args=(name,)) for name in range(8)]
    try:
        for thread in threads:
            thread.start()
        assert server.recv() == b"me"
        server.send(b"you")
        with pytest.raises(PeerLostError):
            server.recv()
    finally:
        for thread in threads:
            thread.join()
        server.close()
    assert len(winners) == 1


def test_a_client_may_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tried_in_vain = threading.Event()
    give_up = Wire.give_up

    def watched(wire: Wire) -> None:
        tried_in_vain.set()
        give_up(wire)

    monkeypatch.setattr(Wire, "give_up", watched)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(
            connect, endpoint, Party.CLIENT, timeout_s=GUARD_S, connect_timeout_s=GUARD_S
        )
        assert tried_in_vain.wait(GUARD_S)
        server = listen(endpoint, Party.SERVER, timeout_s=GUARD_S)
        client = coming.result()
    client.send(b"early")
    assert server.recv() == b"early"
    client.close()
    server.close()


def test_a_port_can_be_listened_on_again() -> None:
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S)
    endpoint = server.endpoint
    for _ in range(3):
        client = dial(endpoint)
        client.send(b"x")
        assert server.recv() == b"x"
        server.close()
        client.close()
        server = listen(endpoint, Party.SERVER, timeout_s=GUARD_S)
    server.close()


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(PeerLostError, match=r"nobody answered for 0\.3 s; start the server"):
            connect(endpoint, Party.CLIENT, timeout_s=5, connect_timeout_s=0.3)


def test_an_occupied_port() -> None:
    server = listen(ANY_PORT, Party.SERVER, timeout_s=5)
    try:
        with pytest.raises(ConfigError, match=f"{server.endpoint}: the port is occupied"):
            listen(server.endpoint, Party.SERVER, timeout_s=5)
    finally:
        server.close()


def test_a_stranger_that_speaks_no_zeromq_does_not_take_the_seat() -> None:
    server = listen(ANY_PORT, Party.SERVER, timeout_s=GUARD_S)
    port = int(server.endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
        client = connect(
            server.endpoint, Party.CLIENT, timeout_s=GUARD_S, connect_timeout_s=GUARD_S
        )
        client.send(b"x")
        assert server.recv() == b"x"
        client.close()
    server.close()


def test_a_server_that_speaks_no_zeromq_is_not_a_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            for _ in range(3):
                connection, _address = other.accept()
                with connection:
                    connection.sendall(b"220 welcome to another protocol entirely\r\n" * 3)
                    connection.recv(100)

        with ThreadPoolExecutor(1) as pool:
            answering = pool.submit(answer)
            endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(HandshakeError, match="no ZeroMQ handshake"):
                dial(endpoint)
            answering.result(timeout=GUARD_S)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost:5555",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:x",
        "tcp://:5555",
        "tcp://[127.0.0.1]:5555",
        "tcp://[::zz]:1",
        "tcp://[1:2]:1",
        "ipc:///somewhere",
        "tcp://127.0.0.1:1;tcp://127.0.0.1:2",
        "tcp://127.0.0.1:1\n",
    ],
)
def test_malformed_addresses(endpoint: str) -> None:
    for open_ in (listen, connect):
        with pytest.raises(ConfigError, match="endpoint .*write"):
            open_(endpoint, Party.SERVER, timeout_s=5)


def test_connecting_needs_a_host_and_a_port() -> None:
    with pytest.raises(ConfigError, match="name the server's host and port"):
        connect("tcp://127.0.0.1:*", Party.CLIENT, timeout_s=5)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:0",
        "tcp://*:0",
        "tcp://192.0.2.1:5555",
        "tcp://server.example:5555",
        "tcp://[2001:db8::1]:5555",
        "tcp://127.0.0.1.example:5555",
        "tcp://[::]:5555",
    ],
)
def test_off_this_machine_keys_are_required(endpoint: str) -> None:
    for open_ in (listen, connect):
        with pytest.raises(ConfigError, match="hybrid keygen DIR"):
            open_(endpoint, Party.SERVER, timeout_s=5)


def any_keys() -> CurveKeys:
    public, secret = zmq.curve_keypair()
    return CurveKeys(public, secret, frozenset({public}))


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigError, match="cannot listen there"):
        listen("tcp://192.0.2.1:0", Party.SERVER, timeout_s=5, curve=any_keys())


def test_localhost_and_other_loopback_addresses_need_no_keys() -> None:
    for host in ("localhost", "127.1.2.3"):
        server = listen(f"tcp://{host}:*", Party.SERVER, timeout_s=5)
        client = connect(
            server.endpoint, Party.CLIENT, timeout_s=GUARD_S, connect_timeout_s=GUARD_S
        )
        client.close()
        server.close()


def test_a_link_model_is_refused_off_this_machine() -> None:
    link = LinkModel("wan3", 1e8, 0.04)
    for open_ in (listen, connect):
        with pytest.raises(ConfigError, match="link model 'wan3'.*one machine"):
            open_("tcp://192.0.2.1:1", Party.SERVER, timeout_s=5, curve=any_keys(), link=link)


@pytest.mark.alone
def test_the_loopback_device_agrees_with_what_was_counted() -> None:
    if loopback_bytes() is None:
        pytest.skip("this system does not show its loopback counter")
    ratios = []
    # Other programs use the device too: one undisturbed transfer of five is enough.
    while len(ratios) < 5 and not any(1.0 <= ratio < 1.02 for ratio in ratios):
        ratios.append(_device_bytes_per_counted_byte())
        assert ratios[-1] >= 1.0
    assert min(ratios) < 1.02


def _device_bytes_per_counted_byte() -> float:
    before = loopback_bytes()
    with zmq_pair() as (client, server):
        for _ in range(10):
            client.send(bytes(1_000_000))
            server.recv()
            server.send(bytes(1_000_000))
            client.recv()
        counted = client.total.sent_bytes
        assert counted == server.total.sent_bytes == 20 * 1_000_048
        after = loopback_bytes()
    assert before is not None
    assert after is not None
    return (after - before) / counted
