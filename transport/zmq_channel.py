"""The channel between two processes: ZeroMQ over TCP, one peer for life.

A message is a 48-byte header frame and the payload in frames of at most `CHUNK_BYTES`, so
that heartbeats get through between them on a slow link and no peer can announce a frame that
would have to be allocated whole. ZeroMQ's own thread sends and answers heartbeats while the
application computes. Nothing reconnects: a lost peer is lost for the session.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path

import zmq
from zmq.utils.monitor import recv_monitor_message

from transport.channel import Channel
from transport.curve import CurveKeys
from transport.endpoint import Endpoint
from transport.errors import (
    ConfigError,
    FrameError,
    HandshakeError,
    PeerLostError,
    ReceiveTimeoutError,
    TransportError,
    UsageError,
)
from transport.foreign import shown
from transport.frame import MAX_PAYLOAD_BYTES, Frame, FrameKind, parse_frame
from transport.gate import BUSY, REFUSED
from transport.link import LinkModel
from transport.traffic import Party
from transport.wire import CHUNK_BYTES, Wire

HEARTBEAT_S = 10.0
"""A peer that does not answer heartbeats this long is lost."""
_COPY_BELOW_BYTES = 1 << 16
_ABORT_GRACE_S = 2.0
_EVENT_WAIT_S = 0.25
_RETRY_S = 0.1
_HANDSHAKE_ATTEMPTS = 3


class ZmqChannel(Channel):
    """One end of a ZeroMQ PAIR connection; made by `listen` and `connect`.

    Used by one thread. `recv` waits `timeout_s` for a connected but silent peer, and the
    first use of a listening channel waits without limit for a client.
    """

    def __init__(
        self,
        party: Party,
        wire: Wire,
        *,
        endpoint: str,
        timeout_s: float,
        link: LinkModel | None,
    ) -> None:
        super().__init__(party, link, timeout_s)
        self.endpoint = endpoint
        """The address in use, with the real port."""
        self._wire = wire

    def _put(self, frame: Frame) -> None:
        self._join()
        parts = [frame.header(), *_chunks(frame.payload)]
        # Only immutable bytes may be sent in place: the caller goes on after `send`.
        copy = not isinstance(frame.payload, bytes) or len(frame.payload) < _COPY_BELOW_BYTES
        if not self._wire.is_attached:
            raise self._lost()
        try:
            self._wire.socket.send_multipart(parts, zmq.NOBLOCK, copy=copy)
        except zmq.Again:
            raise self._lost() from None

    def _get(self) -> Frame:
        self._join()
        deadline = time.monotonic() + self._timeout_s
        while not self._wire.wait(deadline):
            if not self._wire.is_attached:
                raise self._lost()
            if time.monotonic() >= deadline:
                raise ReceiveTimeoutError(
                    f"{self._place()}: nothing from {self._peer_name()} for "
                    f"{self._timeout_s:g} s though it is connected; look at its output, "
                    "or raise timeout_s if its computation takes that long"
                )
        return self._read()

    def _read(self) -> Frame:
        """The next message, known to be there in full."""
        socket = self._wire.socket
        header = socket.recv()
        chunks: list[memoryview] = []
        size = 0
        while socket.get(zmq.RCVMORE):
            chunks.append(socket.recv(copy=False).buffer)
            size += len(chunks[-1])
            if size > MAX_PAYLOAD_BYTES:
                raise FrameError(
                    f"{self._place()}: {self._peer_name()} sent more than {MAX_PAYLOAD_BYTES} "
                    "bytes in one message; restart both parties"
                )
        if not chunks:
            raise FrameError(
                f"{self._place()}: {self._peer_name()} sent a header without payload; "
                "is it this program?"
            )
        return parse_frame(header, b"".join(chunks))

    def abort(self, reason: str) -> None:
        """Tell the peer that this party gives up; waits up to 2 s until the peer knows."""
        if self._wire.is_closed or not self._wire.has_peer:
            self.close()
            return
        with suppress(TransportError):
            self._put(self._abort_frame(reason))
            # Closing with unread data would reset the connection and could destroy the
            # reason on its way; so read on until the peer hangs up.
            self._wire.discard(time.monotonic() + _ABORT_GRACE_S)
        self.close()

    def close(self) -> None:
        """Release the wire; what was sent is delivered, for at most the heartbeat time."""
        self._wire.close()

    def _join(self) -> None:
        if self._wire.is_closed:
            raise UsageError(f"{self._place()}: this channel is closed; open a new one")
        self._wire.join_peer()

    def _lost(self) -> PeerLostError:
        """The error for a peer that is gone, in its own words if it left any."""
        self._wire.give_up()
        # A send may notice the loss before the reason for it has been read.
        while self._wire.has_unread:
            with suppress(FrameError):
                frame = self._read()
                if frame.kind is FrameKind.ABORT:
                    return self._stopped(frame)
        return PeerLostError(
            f"{self._place()}: the connection to {self._peer_name()} is gone: it ended, was "
            f"killed, or did not answer for {self._wire.heartbeat_s:g} s; look at its output "
            "and restart both parties"
        )


def listen(
    endpoint: str,
    party: Party,
    *,
    timeout_s: float,
    curve: CurveKeys | None = None,
    link: LinkModel | None = None,
    heartbeat_s: float = HEARTBEAT_S,
) -> ZmqChannel:
    """Bind `tcp://HOST:PORT` (port 0 or `*`: any free one) and return at once.

    The first client to finish its handshake, with an admitted key where `curve` is given,
    is the peer; everyone after it is refused. `party` is who listens. `ConfigError` when
    the address cannot be used, or is not on the loopback device and lacks `curve`.
    """
    address = _checked(endpoint, curve, link, "listening on")
    wire = Wire(curve, is_server=True, heartbeat_s=heartbeat_s)
    try:
        wire.socket.set(zmq.IPV6, int(address.is_ipv6))
        # The gate answers before the first client can ask.
        assert wire.gate is not None
        wire.gate.start()
        wire.socket.bind(str(address))
        real = wire.socket.get_string(zmq.LAST_ENDPOINT)
    except zmq.ZMQError as error:
        wire.close()
        raise _cannot_listen(address, error) from None
    except BaseException:
        wire.close()
        raise
    return ZmqChannel(party, wire, endpoint=real, timeout_s=timeout_s, link=link)


def connect(
    endpoint: str,
    party: Party,
    *,
    timeout_s: float,
    connect_timeout_s: float = 60.0,
    curve: CurveKeys | None = None,
    link: LinkModel | None = None,
    heartbeat_s: float = HEARTBEAT_S,
) -> ZmqChannel:
    """Connect to a listening party, trying again for `connect_timeout_s` until it is there.

    Returns after the ZeroMQ handshake, encrypted and authenticated where `curve` is given.
    `party` is who connects. `PeerLostError` when nobody listens, `HandshakeError` when the
    peer refuses or is not who it should be, `ConfigError` as `listen`.
    """
    address = _checked(endpoint, curve, link, "connecting to")
    if address.port == 0 or address.host == "*":
        raise ConfigError(f"endpoint {shown(endpoint)}: name the server's host and port")
    deadline = time.monotonic() + connect_timeout_s
    refusals = 0
    while True:
        wire = Wire(curve, is_server=False, heartbeat_s=heartbeat_s)
        try:
            wire.socket.set(zmq.IPV6, 1)
            wire.socket.connect(str(address))
            outcome, status = _await_handshake(wire.monitor, deadline)
        except BaseException:
            wire.close()
            raise
        if outcome == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return ZmqChannel(party, wire, endpoint=str(address), timeout_s=timeout_s, link=link)
        wire.give_up()
        wire.close()
        refusals += outcome in _REFUSALS
        if status is not None or refusals == _HANDSHAKE_ATTEMPTS:
            raise _refused(address, curve, status)
        if time.monotonic() + _RETRY_S >= deadline:
            raise PeerLostError(
                f"{address}: nobody answered for {connect_timeout_s:g} s; start the server "
                "first, check host and port"
            )
        time.sleep(_RETRY_S)


def loopback_bytes() -> int | None:
    """Bytes the loopback device ever sent, TCP/IP headers included; None where unknown.

    Counts all traffic of this network namespace, not only ours.
    """
    try:
        return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())
    except (OSError, ValueError):
        return None


_REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
)


def _await_handshake(
    monitor: zmq.Socket[bytes], deadline_s: float
) -> tuple[int | None, int | None]:
    """The event that decided a connection attempt, and the gate's status if it refused.

    No event at all when the deadline came first.
    """
    outcomes = (zmq.EVENT_HANDSHAKE_SUCCEEDED, *_REFUSALS, zmq.EVENT_CLOSED, zmq.EVENT_DISCONNECTED)
    while (left_s := deadline_s - time.monotonic()) > 0:
        if not monitor.poll(math.ceil(1000 * min(left_s, _EVENT_WAIT_S))):
            continue
        message = recv_monitor_message(monitor)
        event = int(message["event"])
        if event in outcomes:
            refused = event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
            return event, int(message["value"]) if refused else None
    return None, None


def _checked(
    endpoint: str, curve: CurveKeys | None, link: LinkModel | None, doing: str
) -> Endpoint:
    address = Endpoint.parse(endpoint)
    if address.is_loopback:
        return address
    if curve is None:
        raise ConfigError(
            f"{doing} {address} without keys: off this machine the channel must be encrypted; "
            "make keys with `hybrid keygen DIR` and name the folder in runtime.curve_keys"
        )
    if link is not None:
        raise ConfigError(
            f"link model {link.name!r} with {address}: a link is modelled between processes of "
            "one machine only; set `link: none`"
        )
    return address


def _chunks(payload: bytes | memoryview) -> list[bytes | memoryview]:
    if len(payload) <= CHUNK_BYTES:
        return [payload]
    view = memoryview(payload)
    return [view[i : i + CHUNK_BYTES] for i in range(0, len(view), CHUNK_BYTES)]


def _cannot_listen(address: Endpoint, error: zmq.ZMQError) -> ConfigError:
    if error.errno == zmq.EADDRINUSE:
        return ConfigError(
            f"{address}: the port is occupied; stop the program that listens there or choose "
            "another port (`*`: any free one)"
        )
    return ConfigError(
        f"{address}: cannot listen there ({error.strerror}); use an address of this machine, "
        "for example tcp://127.0.0.1:5555"
    )


def _refused(address: Endpoint, curve: CurveKeys | None, status: int | None) -> HandshakeError:
    if status == BUSY:
        return HandshakeError(
            f"{address}: the server is serving another client; try again when it has finished"
        )
    if status == REFUSED and curve is not None:
        return HandshakeError(
            f"{address}: the server does not admit our key; copy this client.pub into the "
            "server's key folder (as client*.pub) and restart the server"
        )
    if curve is not None:
        return HandshakeError(
            f"{address}: the server does not own the key in server.pub, or uses no keys; copy "
            "its server.pub here, or start it with runtime.curve_keys"
        )
    return HandshakeError(
        f"{address}: no ZeroMQ handshake: the server wants keys (set runtime.curve_keys), or "
        "another program listens there"
    )
