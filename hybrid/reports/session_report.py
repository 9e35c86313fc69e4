"""From what parties measured to the report of every request of a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.machine.predict import predicted_seconds
from hybrid.machine.prices import prices_for_reports
from hybrid.models.model import Model
from hybrid.planning.plan import Plan, traffic_row
from hybrid.reports.range_report import range_rows
from hybrid.reports.run_report import (
    add_phases,
    compare,
    phase_row,
    prediction_summary,
    step_rows,
    totals,
    trust_model,
    worst,
)
from hybrid.runtime.local import LocalSession
from hybrid.runtime.records import RequestRecord, SessionRecord
from transport.errors import UsageError

Json = dict[str, Any]


def party_reports(
    config: Config, plan: Plan, session: SessionRecord, prompt: str | None = None
) -> list[Json]:
    """One party's report of every request: all that this party knows.

    prompt: name of what the client put before every text.
    """
    seconds = predicted_seconds(plan.works(), prices_for_reports(), config.run.link_model())
    said = {} if prompt is None else {"prompt": prompt}
    reports = [_report(config, plan, session, request, seconds) for request in session.requests]
    return [{**report, **said} for report in reports]


def _report(
    config: Config,
    plan: Plan,
    session: SessionRecord,
    request: RequestRecord,
    seconds: dict[str, float] | None,
) -> Json:
    offline, online = totals(request.steps)
    steps = step_rows(plan, request.steps, seconds)
    return {
        "config": config.run.model_dump(mode="json", exclude={"texts"}),
        "environment": dict(session.environment),
        "trust_model": trust_model(plan, config.run.model.batch),
        "failure_probability": plan.cost.failure_probability,
        "encoded_bytes": sum(plan.encoded_bytes().values()),
        "setup": phase_row(session.setup_seconds, session.setup),
        "offline": offline,
        "online": online,
        "total": {**add_phases(offline, online), "seconds": request.seconds},
        "correlations": {
            "client_sends": plan.correlations.client_sends,
            "server_sends": plan.correlations.server_sends,
        },
        "prediction": prediction_summary(steps),
        "steps": steps,
        **_outputs(config, plan.graph.labels, request),
    }


def _outputs(config: Config, labels: Sequence[str], request: RequestRecord) -> Json:
    """The answers as the user gets them; without batches one, under a key of its own.

    Of a classifier also the names of the logits, and for each text that of its largest.
    """
    if request.answers is None:
        return {}
    found = request.answers.tolist()
    answers = {"outputs": found} if config.run.model.batch > 1 else {"output": found[0]}
    return answers | _classes(labels, request.answers) if labels else answers


def _classes(labels: Sequence[str], logits: NDArray[np.float64]) -> Json:
    return {"labels": list(labels), "classes": [labels[i] for i in logits.argmax(axis=1)]}


def outputs_of(report: Json) -> list[list[float]]:
    """Answers of a client's report of one request, one a text."""
    found: list[list[float]] = report.get("outputs") or [report["output"]]
    return found


def _plain_classes(model: Model, expected: Sequence[NDArray[np.float64]]) -> Json:
    """What the plain model answers, where it is a classifier."""
    labels = model.public.head.labels
    return {"classes": _classes(labels, np.stack(expected))["classes"]} if labels else {}


def measured_reports(session: LocalSession, ids: Sequence[NDArray[np.int64]]) -> list[Json]:
    """Run a whole session over texts' token ids; the report of each request."""
    with session:
        session.ask(ids)
    return joined_reports(session)


def joined_reports(session: LocalSession) -> list[Json]:
    """The client's report of each request, with accuracy, ranges and both ends' counters."""
    result, config, model = session.result, session.config, session.model
    if result is None:
        raise UsageError("report: the session is still open; leave its with statement first")
    requests = session.asked
    clients = party_reports(config, session.plan, result.client, session.prompt)
    reports = []
    for report, client, server, texts in zip(
        clients, result.client.requests, result.server.requests, requests, strict=True
    ):
        assert client.answers is not None
        head = model.public.head
        plain, checks = zip(*(model.checked(ids) for ids in texts), strict=True)
        expected = [head.finished(answer) for answer in plain]
        pairs = zip(client.answers, expected, strict=True)
        accuracy = worst(compare(private, plain) for private, plain in pairs)
        environment = report["environment"]
        environment["peak_memory_bytes_client"] = environment.pop("peak_memory_bytes")
        peak = result.server.environment["peak_memory_bytes"]
        environment["peak_memory_bytes_server"] = peak
        reports.append(
            {
                **report,
                "model": model.line,
                "notes": list(model.notes),
                "accuracy": asdict(accuracy) | _plain_classes(model, expected),
                "ranges": range_rows(checks, model.caution),
                "counted": {
                    "session_at_client": traffic_row(result.client.total),
                    "session_at_server": traffic_row(result.server.total),
                    "dealer_bytes": result.client.dealer_bytes + result.server.dealer_bytes,
                    "loopback_device_bytes": result.loopback_sent_bytes,
                    "requests_in_session": len(requests),
                },
                "server_seconds": {step.name: step.seconds for step in server.steps},
            }
        )
    return reports
