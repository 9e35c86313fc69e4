"""One party, or the dealer, as a process of its own: `python -m hybrid.runtime.child ROLE FD`.

FD is this end of a pipe to the process that started it, on the same machine and by the same user.
"""

from __future__ import annotations

# Before numpy is imported anywhere: one thread a party unless the user chose otherwise.
from hybrid.machine.environment import limit_threads, settle

limit_threads()

import os  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from contextlib import contextmanager, suppress  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from multiprocessing.connection import Connection  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from hybrid.config.loading import Config  # noqa: E402
from hybrid.models.folding import FloatArray  # noqa: E402
from hybrid.planning.schedule import Schedule  # noqa: E402
from hybrid.runtime.answers import STOP, Asked  # noqa: E402
from hybrid.runtime.dealing import LOOPBACK, deal  # noqa: E402
from hybrid.runtime.generation_serving import AnsweringServer, AskingClient  # noqa: E402
from hybrid.runtime.generation_words import RefusedError  # noqa: E402
from hybrid.runtime.idle import IDLE_S  # noqa: E402
from hybrid.runtime.serving import Client, Server, open_client, open_server  # noqa: E402
from transport.channel import Channel  # noqa: E402
from transport.errors import HybridError, PeerLostError  # noqa: E402
from transport.foreign import cut  # noqa: E402
from transport.traffic import Party  # noqa: E402
from transport.zmq_channel import connect  # noqa: E402

_DEALER_TIMEOUT_S, _DEALER_CONNECT_S = 120.0, 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a child process is told."""

    config: Config
    core: int | None = None
    dealer_endpoint: str | None = None
    server_endpoint: str = ""
    schedule: Schedule | None = None


@contextmanager
def _reporting(pipe: Connection) -> Iterator[None]:
    """Send whatever ends this child to its parent, as one line."""
    try:
        yield
    except HybridError as error:
        _tell(pipe, isinstance(error, PeerLostError), str(error))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        # The parent went away or the user pressed a key.
        _tell(pipe, True, "interrupted")
    except Exception as error:
        _tell(pipe, False, f"internal error: {type(error).__name__}: {cut(str(error))}")
        raise
    finally:
        pipe.close()


def _tell(pipe: Connection, lost_peer: bool, message: str) -> None:
    # Where the parent is gone, nobody is left to be told.
    with suppress(OSError):
        pipe.send(("error", (lost_peer, message)))


def server_role(task: Task, pipe: Connection) -> None:
    """Load, announce the endpoint, serve one session."""
    if task.config.run.generation is not None:
        _answering(task, pipe)
        return
    server = Server(task.config, task.schedule)
    channel = open_server(task.config, LOOPBACK)
    pipe.send(("endpoint", channel.endpoint))
    with _dealer_channel(task, Party.SERVER) as dealer:
        pipe.send(("record", server.serve_session(channel, dealer)))
    channel.close()


def client_role(task: Task, pipe: Connection) -> None:
    """Connect, then ask whatever token ids come through the pipe, until None does."""
    if task.config.run.generation is not None:
        _asking(task, pipe)
        return
    client = Client(task.config, _progress(pipe))
    channel = open_client(task.config, task.server_endpoint)
    with _dealer_channel(task, Party.CLIENT) as dealer:
        client.open(channel, dealer)
        pipe.send(("ready", None))
        try:
            while (ids := pipe.recv()) is not None:
                pipe.send(("answers", _answers(client, ids)))
        except (EOFError, KeyboardInterrupt):
            channel.abort("the client was interrupted")
            raise
        pipe.send(("record", client.close()))
    channel.close()


def _answers(client: Client, ids: Sequence[NDArray[np.int64]]) -> FloatArray | str:
    """Rows; a refusal in words."""
    try:
        return client.ask(ids)
    except RefusedError as error:
        return str(error)


def _answering(task: Task, pipe: Connection) -> None:
    """As `server_role`, for prompts; its shares of logits go to who started both parties."""
    server = AnsweringServer(task.config, task.schedule)
    channel = open_server(task.config, LOOPBACK)
    pipe.send(("endpoint", channel.endpoint))
    with _dealer_channel(task, Party.SERVER) as dealer:
        found = server.serve_session(channel, dealer, keep_shares=True)
        pipe.send(("record", found))
    channel.close()


def _asking(task: Task, pipe: Connection) -> None:
    """As `client_role`, for prompts; while none comes, what the next ones need is prepared."""
    client = AskingClient(task.config, _progress(pipe), keep_shares=True)
    channel = open_client(task.config, task.server_endpoint)
    with _dealer_channel(task, Party.CLIENT) as dealer:
        client.open(channel, dealer)
        pipe.send(("ready", None))
        try:
            while (asked := _next(pipe, client)) is not None:
                try:
                    _tell_tokens(asked, client, pipe)
                except RefusedError as error:
                    pipe.send(("token", str(error)))
                    continue
                pipe.send(("token", None))
        except (EOFError, KeyboardInterrupt):
            channel.abort("the client was interrupted")
            raise
        pipe.send(("record", client.close()))
    channel.close()


def _tell_tokens(asked: Asked, client: AskingClient, pipe: Connection) -> None:
    """The tokens of an answer, until there is something else in the pipe."""
    ids, tokens, forced, beside = asked.ids, asked.tokens, asked.forced, asked.beside
    for found in client.answer(ids, tokens, fresh=asked.fresh, forced=forced, beside=beside):
        pipe.send(("token", (found.tokens, found.record)))
        if pipe.poll():
            return


def _next(pipe: Connection, client: AskingClient) -> Asked | None:
    """The next question; ahead of need only once nobody has asked for a moment."""
    while True:
        while not pipe.poll(IDLE_S):
            if not client.ahead():
                break
        # Where it stops an answer, that has ended by itself meanwhile.
        if (asked := pipe.recv()) != STOP:
            found: Asked | None = asked
            return found


def dealer_role(task: Task, pipe: Connection) -> None:
    """The trusted dealer, with one channel to each party."""
    runtime = task.config.run.runtime
    deal(lambda endpoint: pipe.send(("endpoint", endpoint)), max(runtime.timeout_s, runtime.idle_s))
    pipe.send(("record", None))


@contextmanager
def _dealer_channel(task: Task, party: Party) -> Iterator[Channel | None]:
    if task.dealer_endpoint is None:
        yield None
        return
    channel = connect(
        task.dealer_endpoint,
        party,
        timeout_s=_DEALER_TIMEOUT_S,
        connect_timeout_s=_DEALER_CONNECT_S,
    )
    try:
        yield channel
    finally:
        channel.close()


def _end_with_parent(pipe: Connection) -> None:
    with suppress(OSError, EOFError):
        pipe.recv()
    os._exit(1)


def _progress(pipe: Connection) -> Callable[[str, int], None]:
    return lambda step, layer: pipe.send(("progress", (step, layer)))


ROLES = {"server": server_role, "client": client_role, "dealer": dealer_role}


def main(arguments: Sequence[str]) -> None:
    """Read the task from the pipe, do it, report."""
    role, descriptor = arguments
    pipe = Connection(int(descriptor))
    task: Task = pipe.recv()
    settle(task.core)
    if role != "client":
        # Nothing more comes; where the parent goes away, waiting for a peer would never end.
        threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    with _reporting(pipe):
        ROLES[role](task, pipe)


if __name__ == "__main__":
    main(sys.argv[1:])
