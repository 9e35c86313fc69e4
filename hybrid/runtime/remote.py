"""One party on this machine, the other on another: the server's loop, the client's session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.models.folding import FloatArray
from hybrid.planning.catalog import load_catalog
from hybrid.planning.plan import Plan
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.opened import OpenedElsewhere, Planned
from hybrid.runtime.records import SessionRecord
from hybrid.runtime.runner import Progress
from hybrid.runtime.serving import Client, Server, open_server
from hybrid.runtime.session_checks import checked_texts
from hybrid.runtime.session_parts import no_dealer
from mpc_nonlinear.correlations.dealer import TrustedDealer
from transport.errors import ConfigError, HybridError
from transport.zmq_channel import ZmqChannel

R = TypeVar("R")


def serve_sessions(
    config: Config, endpoint: str, *, keep: bool, say: Callable[[str], None]
) -> Iterator[tuple[Plan, SessionRecord]]:
    """Serve one session, or with `keep` one after the other without end; what each measured."""
    server = Server(config)
    require_no_dealer(config, server.plan)
    for note in server.model.notes:
        say(f"note: {note}")
    told = cautious(say, server.model.caution)
    for record in served(config, endpoint, server.serve_session, keep=keep, say=told):
        say(f"served {len(record.requests)} requests")
        yield server.plan, record


def cautious(say: Callable[[str], None], caution: str) -> Callable[[str], None]:
    """Says a caution after the first line, which is where the server listens."""
    waiting = [caution] if caution else []

    def told(line: str) -> None:
        say(line)
        if waiting:
            say(waiting.pop())

    return told


def require_no_dealer(config: Config, plan: Planned) -> None:
    """`ConfigError` where two machines alone cannot run a plan."""
    if plan.needs_dealer:
        raise ConfigError(no_dealer(config))


def served(
    config: Config,
    endpoint: str,
    serve: Callable[[ZmqChannel], R],
    *,
    keep: bool,
    say: Callable[[str], None],
) -> Iterator[R]:
    """What each session gives, one after the other with `keep`, else of one; said when it listens.

    With `keep` a session that fails is said, and ends nothing.
    """
    while True:
        channel = open_server(config, endpoint)
        try:
            say(f"listening on {channel.endpoint}")
            found = serve(channel)
        except Exception as error:  # One client must not end the service of the next.
            if not keep:
                raise
            ours = isinstance(error, HybridError)
            say(f"session ended: {error if ours else f'internal error: {type(error).__name__}'}")
            continue
        finally:
            channel.close()
        yield found
        if not keep:
            return


class RemoteSession(OpenedElsewhere[Plan, SessionRecord]):
    """The client's session with a server elsewhere; a context manager.

    `embed` and `ask` may be called again and again inside; after it `record` holds what the
    client measured.
    """

    _client: Client

    def __init__(self, config: Config, endpoint: str, on_progress: Progress | None = None) -> None:
        """Load the tokenizer; nothing is sent before the with statement."""
        refuse_dealer(config)
        self.config = config
        self.endpoint = endpoint
        self._client = Client(config, on_progress)
        self._client.warn_of_folder()

    @property
    def prompt(self) -> str | None:
        """Name of what stands before every text, if something does."""
        return self._client.prompt

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids of a text; `ConfigError` when it is too long."""
        return self._client.encode(text, truncate=truncate)

    def embed(self, texts: Sequence[str], *, truncate: bool = False) -> FloatArray:
        """Private answers to texts, (texts, width)."""
        return self.ask([self.encode(t, truncate=truncate) for t in checked_texts(texts)])

    def ask(self, token_ids: Sequence[NDArray[np.int64]]) -> FloatArray:
        """As `embed`, from token ids."""
        self._require_open()
        ids = self._client.checked(token_ids)
        try:
            return self._client.ask(ids)
        except RefusedError:
            raise
        except BaseException:
            self._fail()
            raise

    def __repr__(self) -> str:
        state = self._state(self._channel is not None)
        return f"<RemoteSession {self.config.run.name} at {self.endpoint}: {state}>"


def refuse_dealer(config: Config) -> None:
    """Before anything is sent, where the config itself names the source of correlations."""
    key = "correlations", (config.schedule or {}).get("correlations", config.run.mpc.correlations)
    catalog = load_catalog(config.run.plugins)
    if key in catalog and issubclass(catalog[key], TrustedDealer):
        raise ConfigError(no_dealer(config))
