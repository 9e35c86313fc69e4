"""Connected ZeroMQ channels for tests: both ends here, or one end in another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transport import Party, ZmqChannel, connect, listen

ANY_PORT = "tcp://127.0.0.1:*"


@contextmanager
def zmq_pair(
    *,
    timeout_s: float = 20.0,
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
        "import time\n"
        "from transport import Party, connect\n"
        f"channel = connect({endpoint!r}, Party.CLIENT, timeout_s=60, connect_timeout_s=20)\n"
        "channel.send(b'h')\n" + body
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
