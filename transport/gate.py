"""The door of a listening socket: lets one admitted client in, then refuses everyone.

ZeroMQ asks the handler at `inproc://zeromq.zap.01` of its context about every client in the
middle of its handshake (RFC 27/ZAP), with and without CurveZMQ. The gate answers "yes" to
one client at a time, and never again once that client's handshake has succeeded. A second
client therefore never gets as far as a message.
"""

from __future__ import annotations

import threading
import time

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from transport.curve import CurveKeys
from transport.errors import ConfigError

HANDSHAKE_S = 10.0
"""A connection that has not finished its ZeroMQ handshake by then is closed."""
REFUSED = 400
"""Status that a client with an unlisted key gets."""
BUSY = 500
"""Status that everyone after the first client gets."""
_ADMITTED = 200
_TICK_MS = 100
_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_ZAP_FRAMES = 6
_DOMAIN = b"hybrid"


class Gate:
    """Admits one client to `socket`, from a thread of its own.

    A thread, because clients arrive while the application computes. It owns `monitor`, the
    socket's event stream, until `opened_for_peer` is set or `stop` has returned.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        socket: zmq.Socket[bytes],
        monitor: zmq.Socket[bytes],
        curve: CurveKeys | None,
    ) -> None:
        self.opened_for_peer = threading.Event()
        self._monitor = monitor
        self._admitted = None if curve is None else curve.peers
        self._stopping = threading.Event()
        self._handler = context.socket(zmq.REP)
        self._handler.linger = 0
        try:
            self._handler.bind(_ZAP_ADDRESS)
        except zmq.ZMQError:
            self._handler.close()
            raise ConfigError("this ZeroMQ context already has an authenticator") from None
        socket.set(zmq.ZAP_DOMAIN, _DOMAIN)
        # Without a handler to ask, refuse; the default would be to admit everyone.
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self._thread = threading.Thread(target=self._watch, name="gate", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; ZeroMQ then refuses all further clients by itself."""
        self._stopping.set()
        if self._thread.ident is None:
            self._handler.close()
        else:
            self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._stopping.is_set():
                if self._handler.poll(_TICK_MS):
                    self._serve(self._handler.recv_multipart())
                elif not self.opened_for_peer.is_set():
                    _drain(self._monitor)
        finally:
            self._handler.close()

    def _serve(self, request: list[bytes]) -> None:
        """Answer one client; if it is admitted, see it through its handshake."""
        if self.opened_for_peer.is_set():
            self._answer(request, BUSY)
        elif not self._is_welcome(request):
            self._answer(request, REFUSED)
        else:
            self._answer(request, _ADMITTED)
            if self._peer_came():
                self.opened_for_peer.set()

    def _answer(self, request: list[bytes], status: int) -> None:
        identifier = request[1] if len(request) > 1 else b""
        self._handler.send_multipart(
            [_ZAP_VERSION, identifier, str(status).encode(), b"", b"", b""]
        )

    def _is_welcome(self, request: list[bytes]) -> bool:
        if len(request) < _ZAP_FRAMES or request[0] != _ZAP_VERSION or request[2] != _DOMAIN:
            return False
        mechanism, credentials = request[5], request[6:]
        if self._admitted is None:
            return mechanism == b"NULL" and not credentials
        return (
            mechanism == b"CURVE"
            and len(credentials) == 1
            and z85.encode(credentials[0]) in self._admitted
        )

    def _peer_came(self) -> bool:
        """Whether the admitted client finished its handshake; others wait meanwhile."""
        # Nobody else is admitted now, so the event can only be about this client.
        deadline = time.monotonic() + HANDSHAKE_S + 1.0
        while time.monotonic() < deadline and not self._stopping.is_set():
            if self._monitor.poll(_TICK_MS):
                event = recv_monitor_message(self._monitor)["event"]
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    return True
        return False


def _drain(monitor: zmq.Socket[bytes]) -> None:
    while monitor.poll(0):
        recv_monitor_message(monitor)
