"""Process entry points: one server, one client, and the launcher that starts both.

`serve` and `query` know one side each. The launcher of `hybrid run` is an experimenter's
tool: it starts the same two parties as processes of this machine and, knowing both sides,
adds accuracy and the comparison of both ends' counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybrid.config.schema import LoadedConfig
from hybrid.machine.environment import describe, peak_memory_bytes
from hybrid.machine.predict import predicted_seconds
from hybrid.machine.prices import known_prices, prices_for_reports
from hybrid.models.graph import check_tokens
from hybrid.models.loading import (
    calibration_samples,
    model_architecture,
    model_weights,
    text_encoder,
)
from hybrid.models.ranges import calibrate
from hybrid.models.reference import PlainEncoder
from hybrid.planning.catalog import Catalog, load_catalog
from hybrid.planning.plan import Plan, build_plan, traffic_row
from hybrid.planning.search import schedule_for
from hybrid.reports.run_report import (
    add_phases,
    phase_row,
    prediction_summary,
    step_rows,
    totals,
    trust_model,
)
from hybrid.runtime.parties import Answer, ClientSession, ServerModel, ServerSession
from hybrid.runtime.runner import Progress, RequestResult
from transport.channel import SETUP, Channel
from transport.curve import CurveKeys, load_client_keys, load_server_keys
from transport.errors import HybridError, PeerLostError
from transport.traffic import Party
from transport.zmq_channel import ZmqChannel, connect, listen

Json = dict[str, Any]
T = TypeVar("T")


def load_server_model(loaded: LoadedConfig) -> ServerModel:
    """Weights and calibrated bounds."""
    architecture, tokens = model_architecture(loaded), loaded.run.model.tokens
    check_tokens(architecture, tokens)
    weights = model_weights(loaded, architecture)
    samples = calibration_samples(loaded, architecture)
    plain = PlainEncoder(weights, architecture)
    bounds = calibrate(plain, samples, tokens, loaded.run.calibration.margin)
    return ServerModel(architecture, weights, bounds)


def make_plan(loaded: LoadedConfig) -> Plan:
    """The plan as both parties would derive it; runs nothing private."""
    catalog = load_catalog(loaded.run.plugins)
    model = scheduled(load_server_model(loaded), loaded, catalog)
    return build_plan(loaded.run, model.architecture, model.bounds, catalog, model.schedule)


def scheduled(model: ServerModel, loaded: LoadedConfig, catalog: Catalog) -> ServerModel:
    """The model with the schedule that the policy asks for."""
    if loaded.run.scheduler.policy == "fixed":
        return model
    parts = model.architecture, model.bounds, catalog, known_prices()
    return replace(model, schedule=schedule_for(loaded.run, *parts))


class Server:
    """The server's process: loads, listens, serves one session."""

    def __init__(self, loaded: LoadedConfig, progress: Progress | None = None) -> None:
        self._loaded = loaded
        self._catalog = load_catalog(loaded.run.plugins)
        self._progress = progress
        self.model = scheduled(load_server_model(loaded), loaded, self._catalog)
        # Built once before any client comes, so that a config that cannot work says so here.
        public = self.model.architecture, self.model.bounds, self._catalog, self.model.schedule
        build_plan(loaded.run, *public)

    def serve_session(self, channel: Channel, dealer: Channel | None = None) -> Json:
        """One client's session; returns the server's own report."""
        session = ServerSession(self._loaded.run, self._catalog, channel)
        if self._progress:
            session.progress = self._progress
        with reporting_failure(channel):
            start = time.perf_counter()
            plan = session.setup(self.model, dealer)
            setup_s = time.perf_counter() - start
            requests = [
                request_report(plan, self._loaded, channel, result, setup_s)
                for result in session.serve()
            ]
        return session_report(requests, channel, dealer)


class Client:
    """The client's process: reads texts, connects, asks."""

    def __init__(self, loaded: LoadedConfig, progress: Progress | None = None) -> None:
        self._loaded = loaded
        self._progress = progress
        self._catalog = load_catalog(loaded.run.plugins)
        self._encoder = text_encoder(loaded)

    def encode(self, text: str, *, truncate: bool) -> NDArray[np.int64]:
        """Token ids of a text; `ConfigError` when it is too long."""
        return self._encoder.encode(text, truncate=truncate)

    def ask(
        self, channel: Channel, token_ids: list[NDArray[np.int64]], dealer: Channel | None = None
    ) -> Json:
        """One session, `model.batch` texts a request; returns the client's report."""
        session = ClientSession(self._loaded.run, self._catalog, channel)
        if self._progress:
            session.progress = self._progress
        with reporting_failure(channel):
            start = time.perf_counter()
            plan = session.setup(self._encoder.vocabulary, dealer)
            setup_s = time.perf_counter() - start
            requests = []
            for ids in batches(token_ids, self._loaded.run.model.batch):
                answer = session.query(ids)
                row = request_report(plan, self._loaded, channel, answer.result, setup_s)
                row["total"]["seconds"] = answer.seconds
                requests.append({**row, **self.outputs(answer)})
            session.finish()
        return session_report(requests, channel, dealer)

    def outputs(self, answer: Answer) -> Json:
        """The embeddings as the user gets them; without batches one, under a key of its own."""
        found = [finish_embedding(row, self._loaded).tolist() for row in answer.pooled]
        return {"outputs": found} if self._loaded.run.model.batch > 1 else {"output": found[0]}


def batches(texts: Sequence[T], batch: int) -> list[Sequence[T]]:
    """Texts of every request; the last one may have fewer."""
    return [texts[start : start + batch] for start in range(0, len(texts), batch)]


def outputs_of(report: Json) -> list[list[float]]:
    """Embeddings of a client's report of one request, one a text."""
    found: list[list[float]] = report.get("outputs") or [report["output"]]
    return found


def finish_embedding(pooled: NDArray[np.float64], loaded: LoadedConfig) -> NDArray[np.float64]:
    """Scale to unit length where the config says so."""
    if not loaded.run.model.normalize:
        return pooled
    return pooled / max(float(np.linalg.norm(pooled)), 1e-12)


def request_report(
    plan: Plan, loaded: LoadedConfig, channel: Channel, result: RequestResult, setup_s: float
) -> Json:
    """All keys of the report that this party knows."""
    config = loaded.run.model_dump(mode="json")
    config.pop("texts")
    offline, online = totals(result.steps)
    seconds = predicted_seconds(plan, prices_for_reports(), loaded.run.link_model())
    steps = step_rows(plan, result.steps, seconds)
    environment = describe() | {"peak_memory_bytes": str(peak_memory_bytes())}
    return {
        "config": config,
        "environment": environment,
        "trust_model": trust_model(plan, config),
        "failure_probability": plan.cost.failure_probability,
        "encoded_bytes": sum(plan.encoded_bytes().values()),
        "setup": phase_row(setup_s, channel.traffic(SETUP)),
        "offline": offline,
        "online": online,
        "total": add_phases(offline, online),
        "correlations": {
            "client_sends": plan.correlations.client_sends,
            "server_sends": plan.correlations.server_sends,
        },
        "prediction": prediction_summary(steps),
        "steps": steps,
    }


def session_report(requests: list[Json], channel: Channel, dealer: Channel | None) -> Json:
    """All requests of a session, with set-up as counted at its end, and this end's grand total.

    A dealer's bytes are not traffic between the parties and stand apart.

    The words that announce and end requests belong to set-up.
    """
    for request in requests:
        seconds = request["setup"]["seconds"]
        request["setup"] = phase_row(seconds, channel.traffic(SETUP))
    dealt = 0 if dealer is None else dealer.total.sent_bytes
    return {"requests": requests, "counted": traffic_row(channel.total), "dealer_bytes": dealt}


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


def open_server(loaded: LoadedConfig, endpoint: str) -> ZmqChannel:
    """Bind and wait for one client."""
    runtime = loaded.run.runtime
    return listen(
        endpoint,
        Party.SERVER,
        timeout_s=runtime.timeout_s,
        curve=_curve(loaded, load_server_keys),
        link=loaded.run.link_model(),
    )


def open_client(loaded: LoadedConfig, endpoint: str) -> ZmqChannel:
    """Connect to a listening server."""
    runtime = loaded.run.runtime
    return connect(
        endpoint,
        Party.CLIENT,
        timeout_s=runtime.timeout_s,
        connect_timeout_s=runtime.connect_timeout_s,
        curve=_curve(loaded, load_client_keys),
        link=loaded.run.link_model(),
    )


def _curve(loaded: LoadedConfig, load: Callable[[Path], CurveKeys]) -> CurveKeys | None:
    folder = loaded.run.runtime.curve_keys
    return None if folder is None else load(loaded.resolve(folder))
