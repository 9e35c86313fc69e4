"""Connected ZeroMQ channels for tests: both ends here, or one end in another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.waiting import GUARD_S
from transport import Party, ZmqChannel, connect, listen

ANY_PORT = "tcp://127.0.0.1:*"


def dial(endpoint: str, **options: Any) -> ZmqChannel:
    """The client end, as soon as somebody listens."""
    return connect(endpoint, Party.CLIENT, timeout_s=GUARD_S, connect_timeout_s=GUARD_S, **options)


@contextmanager
def zmq_pair(
    *,
    timeout_s: float = GUARD_S,
    server_keys: Any = None,
    client_keys: Any = None,
    **options: Any,
) -> Iterator[tuple[ZmqChannel, ZmqChannel]]:
    """Client end and server end over loopback TCP."""
    server = listen(ANY_PORT, Party.SERVER, timeout_s=timeout_s, curve=server_keys, **options)
    try:
        client = connect(
            server.endpoint, Party.CLIENT, timeout_s=timeout_s, curve=client_keys, **options
        )
        try:
            yield client, server
        finally:
            client.close()
    finally:
        server.close()


@contextmanager
def client_process(endpoint: str, body: str) -> Iterator[subprocess.Popen[str]]:
    """A process that connects as `channel`, says hello with one byte and runs `body`."""
    script = (
        "import ctypes, signal\n"
        "from transport import Party, connect\n"
        f"channel = connect({endpoint!r}, Party.CLIENT, timeout_s={GUARD_S})\n"
        "channel.send(b'h')\n" + body
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
