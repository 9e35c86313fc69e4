"""The ZeroMQ socket under a channel: options, liveness, and a bounded end."""

from __future__ import annotations

import math
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

from transport.curve import CurveKeys
from transport.errors import ConfigError
from transport.gate import HANDSHAKE_S, Gate

CHUNK_BYTES = 1 << 20
"""Largest piece of a payload in one ZeroMQ frame."""
_FRAME_LIMIT_BYTES = CHUNK_BYTES + 1024
"""The socket drops a peer that announces a larger frame; CurveZMQ adds tens of bytes."""
_TICK_S = 0.25
_GRACE_MS = 1000
_DISCARD_TICK_MS = 20
_NEVER_MS = (1 << 31) - 1

Context = zmq.Context[zmq.Socket[bytes]]
Socket = zmq.Socket[bytes]


class Wire:
    """A PAIR socket with its context, event stream and, when listening, its gate."""

    def __init__(self, curve: CurveKeys | None, *, is_server: bool, heartbeat_s: float) -> None:
        self.heartbeat_s = heartbeat_s
        self.is_closed = False
        self._is_lost = False
        self._has_joined = False
        self._context: Context = zmq.Context()
        self.socket: Socket = self._context.socket(zmq.PAIR)
        _set_options(self.socket, heartbeat_s)
        if curve is not None:
            _set_curve(self.socket, curve, is_server)
        self.monitor = _monitor(self.socket)
        self._poller = zmq.Poller()
        self._poller.register(self.socket, zmq.POLLIN)
        self._poller.register(self.monitor, zmq.POLLIN)
        self.gate: Gate | None = None
        if is_server:
            self.gate = Gate(self._context, self.socket, self.monitor, curve)

    @property
    def has_peer(self) -> bool:
        """Whether a peer has ever connected."""
        return self.gate is None or self.gate.opened_for_peer.is_set()

    @property
    def is_attached(self) -> bool:
        """Whether the peer is still connected, or was and left messages to read."""
        self._note_events()
        if self.gate is None:
            return not self._is_lost
        # Without high-water mark, a bound PAIR socket is writable exactly while it has its
        # peer. Events alone would not tell whose connection ended.
        return not self._is_lost and bool(self.socket.get(zmq.EVENTS))

    @property
    def has_unread(self) -> bool:
        """Whether a message waits to be read."""
        return _is_readable(self.socket)

    def join_peer(self) -> None:
        """Wait for the first client of a listening socket."""
        if self.gate is None or self._has_joined:
            return
        # In slices, so that an interrupt from the keyboard gets through everywhere.
        while not self.gate.opened_for_peer.wait(_TICK_S):
            pass
        self._has_joined = True
        # The event precedes the pipe by an instant.
        self.socket.poll(_GRACE_MS, zmq.POLLIN | zmq.POLLOUT)

    def wait(self, deadline_s: float) -> bool:
        """True when a message is there; False at the deadline or when the peer is gone."""
        while not _is_readable(self.socket):
            if not self.is_attached:
                # The event of a connection's end may precede its last message by an instant.
                return self.gate is None and bool(self.socket.poll(_GRACE_MS))
            left_s = deadline_s - time.monotonic()
            if left_s <= 0.0:
                return False
            self._poller.poll(math.ceil(1000 * min(left_s, 4 * _TICK_S)))
        return True

    def discard(self, deadline_s: float) -> None:
        """Read and drop everything until the peer is gone or the deadline."""
        while time.monotonic() < deadline_s and self.is_attached:
            if self.socket.poll(_DISCARD_TICK_MS):
                self.socket.recv_multipart(copy=False)

    def _note_events(self) -> None:
        """Empty the event stream; a connecting socket's only connection may have ended."""
        while _is_readable(self.monitor):
            event = recv_monitor_message(self.monitor)["event"]
            if self.gate is None and event == zmq.EVENT_DISCONNECTED:
                self._is_lost = True

    def give_up(self) -> None:
        """The peer is lost: nothing is worth delivering."""
        self._is_lost = True

    def close(self) -> None:
        """Close everything; blocks until sent messages left, at most the heartbeat time."""
        if self.is_closed:
            return
        self.is_closed = True
        if self.gate is not None:
            self.gate.stop()
        attached = self.has_peer and self.is_attached
        linger_s = self.heartbeat_s if attached else 0.0
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=int(1000 * linger_s))
        self._context.term()


def _is_readable(socket: Socket) -> bool:
    # Several times cheaper than `poll(0)`, and asked before and after every message.
    return bool(int(socket.get(zmq.EVENTS)) & zmq.POLLIN)


def _set_options(socket: Socket, heartbeat_s: float) -> None:
    heartbeat_ms = int(1000 * heartbeat_s)
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.MAXMSGSIZE, _FRAME_LIMIT_BYTES)
    socket.set(zmq.LINGER, 0)
    # No second connection: the first attempt to reconnect is weeks away. Turning attempts off
    # with -1 would make ZeroMQ throw away what a lost peer has sent and we have not yet read.
    socket.set(zmq.RECONNECT_IVL, _NEVER_MS)
    # Of the time until a hung peer is noticed, a fifth between pings, the rest for an answer.
    socket.set(zmq.HEARTBEAT_IVL, heartbeat_ms // 5)
    socket.set(zmq.HEARTBEAT_TIMEOUT, heartbeat_ms * 4 // 5)
    socket.set(zmq.HANDSHAKE_IVL, int(1000 * HANDSHAKE_S))


def _set_curve(socket: Socket, curve: CurveKeys, is_server: bool) -> None:
    socket.set(zmq.CURVE_SECRETKEY, curve.secret)
    socket.set(zmq.CURVE_PUBLICKEY, curve.public)
    if is_server:
        socket.set(zmq.CURVE_SERVER, 1)
        return
    if len(curve.peers) != 1:
        raise ConfigError(f"a client trusts one server key, got {len(curve.peers)}")
    socket.set(zmq.CURVE_SERVERKEY, next(iter(curve.peers)))


def _monitor(socket: Socket) -> Socket:
    """The socket's event stream, unbounded so that events never hold up ZeroMQ's thread."""
    address = f"inproc://monitor-{id(socket)}"
    socket.monitor(address, zmq.EVENT_ALL)
    monitor: Socket = socket.context.socket(zmq.PAIR)
    monitor.set(zmq.RCVHWM, 0)
    monitor.connect(address)
    return monitor
