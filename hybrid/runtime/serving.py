"""One server and one client, each with its own files and one channel to the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.machine.prices import schedule_prices
from hybrid.models.folding import FloatArray
from hybrid.models.loading import load_model, text_encoder
from hybrid.planning.catalog import load_catalog
from hybrid.planning.plan import Plan
from hybrid.planning.planner import make_plan
from hybrid.planning.schedule import Schedule
from hybrid.runtime.parties import ClientSession, ServerSession
from hybrid.runtime.records import RequestRecord, SessionRecord, session_record
from hybrid.runtime.runner import Progress, RequestResult
from hybrid.runtime.text_checks import encoded, warn_of_folder
from transport.channel import Channel
from transport.curve import CurveKeys, load_client_keys, load_server_keys
from transport.errors import HybridError, PeerLostError
from transport.traffic import Party
from transport.zmq_channel import ZmqChannel, connect, listen

T = TypeVar("T")


class Server:
    """The server's process: loads, listens, serves one session after the other."""

    def __init__(self, config: Config, schedule: Schedule | None = None) -> None:
        """schedule: where it has been chosen before."""
        self._config = config
        self._catalog = load_catalog(config.run.plugins)
        self.model = load_model(config)
        # Made once before any client comes, so that a config that cannot work says so here.
        prices = schedule_prices(config.run)
        self.plan: Plan = make_plan(config, self.model.public, prices, schedule)

    def serve_session(self, channel: Channel, dealer: Channel | None = None) -> SessionRecord:
        """One client's session."""
        session = ServerSession(self._config, self._catalog, channel)
        with reporting_failure(channel):
            start = time.perf_counter()
            session.setup(self.model, self.plan.schedule, dealer)
            setup_s = time.perf_counter() - start
            requests = [_record(result) for result in session.serve()]
        return session_record(requests, setup_s, channel, dealer)


def _record(result: RequestResult) -> RequestRecord:
    return RequestRecord(result.steps, sum(step.seconds for step in result.steps))


class Client:
    """The client's process: turns texts into tokens, connects, asks."""

    def __init__(self, config: Config, progress: Progress | None = None) -> None:
        self._config = config
        self._progress = progress
        self._encoder = text_encoder(config)
        self.prompt = self._encoder.prompt.name
        """Name of what stands before every text, if something does."""
        self._requests: list[RequestRecord] = []

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids of a text; `ConfigError` when it is too long."""
        return encoded(self._encoder, text, truncate=truncate)

    def warn_of_folder(self) -> None:
        """Say what the model folder leaves open about texts."""
        warn_of_folder(self._encoder)

    def open(self, channel: Channel, dealer: Channel | None = None) -> Plan:
        """Set a session up; the plan that both parties agree on."""
        self._channel, self._dealer = channel, dealer
        catalog = load_catalog(self._config.run.plugins)
        self._session = ClientSession(self._config, catalog, channel, self._progress)
        self._requests = []
        with reporting_failure(channel):
            start = time.perf_counter()
            plan = self._session.setup(self._encoder, dealer)
            self._setup_s = time.perf_counter() - start
        return plan

    def checked(self, token_ids: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Ids that an open session may be asked; `UsageError` for others."""
        return self._session.checked(token_ids)

    def ask(self, token_ids: Sequence[NDArray[np.int64]]) -> FloatArray:
        """Answers, a row a text; `model.batch` texts a request.

        `RefusedError` where the ranges do not hold what a text sends in: nothing is sent then.
        """
        asked = self.checked(token_ids)
        for index, text in enumerate(asked):
            self._session.check(text, f"text {index + 1}")
        rows: list[FloatArray] = []
        with reporting_failure(self._channel):
            for ids in batches(asked, self._config.run.model.batch):
                answer = self._session.query(ids)
                record = RequestRecord(answer.result.steps, answer.seconds, answer.values)
                self._requests.append(record)
                rows.append(answer.values)
        return np.concatenate(rows)

    def close(self) -> SessionRecord:
        """End the session; what was measured of it."""
        with reporting_failure(self._channel):
            self._session.finish()
        return session_record(self._requests, self._setup_s, self._channel, self._dealer)


def batches(texts: Sequence[T], batch: int) -> list[Sequence[T]]:
    """Texts of every request; the last one may have fewer."""
    return [texts[start : start + batch] for start in range(0, len(texts), batch)]


@contextmanager
def reporting_failure(channel: Channel) -> Iterator[None]:
    """Tell the peer when this side gives up, in words that hold nothing secret."""
    try:
        yield
    except PeerLostError:
        raise
    except HybridError as error:
        channel.abort(type(error).__name__)
        raise
    except BaseException:
        channel.abort("internal error")
        raise


def open_server(config: Config, endpoint: str) -> ZmqChannel:
    """Bind and wait for one client."""
    runtime = config.run.runtime
    return listen(
        endpoint,
        Party.SERVER,
        timeout_s=runtime.timeout_s,
        curve=_curve(config, load_server_keys),
        link=config.run.link_model(),
    )


def open_client(config: Config, endpoint: str) -> ZmqChannel:
    """Connect to a listening server."""
    runtime = config.run.runtime
    return connect(
        endpoint,
        Party.CLIENT,
        timeout_s=runtime.timeout_s,
        connect_timeout_s=runtime.connect_timeout_s,
        curve=_curve(config, load_client_keys),
        link=config.run.link_model(),
    )


def _curve(config: Config, load: Callable[[Path], CurveKeys]) -> CurveKeys | None:
    folder = config.run.runtime.curve_keys
    return None if folder is None else load(config.resolve(folder))
