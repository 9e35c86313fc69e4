"""The report of one request: predicted beside measured, as JSON and as readable Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.planning.plan import CORRELATIONS_STEP, OFFLINE, Plan, offline_name, traffic_row
from hybrid.reports.markdown import environment_lines, plain_cell, table_lines
from hybrid.reports.range_report import range_section
from hybrid.runtime.runner import Measured
from transport.foreign import shown
from transport.traffic import NO_TRAFFIC, Traffic

_SHOWN = 60
"""Characters of a name out of a file."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Distance of the private output from the plain model's."""

    reference: str
    cosine: float
    max_abs_error: float


def compare(private: NDArray[np.float64], plain: NDArray[np.float64]) -> Accuracy:
    """Cosine similarity and largest difference."""
    lengths = float(np.linalg.norm(private) * np.linalg.norm(plain))
    # Of a vector of zeros there is no angle; only another one is like it.
    cosine = float(private @ plain) / lengths if lengths else float(np.array_equal(private, plain))
    return Accuracy("plain float32 model", cosine, float(np.abs(private - plain).max()))


def worst(texts: Iterable[Accuracy]) -> Accuracy:
    """Of all texts of a request."""
    every = list(texts)
    # Unlike `min`, it passes on what is not a number.
    cosine = float(np.min([one.cosine for one in every]))
    error = float(np.max([one.max_abs_error for one in every]))
    return Accuracy(every[0].reference, cosine, error)


SEMI_HONEST = "Two parties that follow the protocol (semi-honest); computational security 128 bits."
DISTILLING = "Whoever may ask many questions can distil the model from the answers."


def trust_model(plan: Plan, batch: int = 1) -> list[str]:
    """Assumptions and declared leakage of a run, one plain sentence each."""
    parameters = plan.context.parameters
    size = parameters.poly_degree, parameters.total_modulus_bits
    return [
        SEMI_HONEST,
        *([lattice_line(*size)] if plan.key_sets or plan.ring_sets else ()),
        plan.source.trust,
        "The server learns the padded number of tokens, "
        + (f"the batch of {batch} texts, " if batch > 1 else "")
        + "the number of requests and timing.",
        "The client learns the architecture, the bounds on every edge (powers of two, from the "
        "server's run on public samples), the polynomials in use and the output.",
        *plan.graph.disclosures,
        DISTILLING,
    ]


def lattice_line(poly_degree: int, modulus_bits: int) -> str:
    """What is assumed of one parameter set."""
    return (
        f"RLWE with uniform ternary secrets, N={poly_degree}, {modulus_bits} modulus bits with the "
        "special prime, and circular security of the rotation and relinearisation keys."
    )


def phase_row(seconds: float, traffic: Traffic) -> dict[str, Any]:
    """One of set-up, offline, online and total."""
    return {
        "seconds": seconds,
        **traffic_row(traffic),
        "client_framing_bytes": traffic.client_framing_bytes,
        "server_framing_bytes": traffic.server_framing_bytes,
    }


def step_rows(
    plan: Plan, measured: Sequence[Measured], seconds: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """The plan's rows with what was measured beside what was predicted; seconds where known."""
    rows = []
    for row, seen in zip(plan.rows(), measured, strict=True):
        assert row["name"] == seen.name
        kept = {key: value for key, value in row.items() if key != "parameters"}
        if seconds is not None:
            kept["predicted_seconds"] = seconds[seen.name]
        kept["why"] = plan.schedule.why.get(seen.name, "")
        rows.append({**kept, "measured": {"seconds": seen.seconds, **traffic_row(seen.traffic)}})
    share_offline_cost(rows)
    return rows


_WORTH_PREDICTING_S = 0.01
_CLOSE = 0.25


def prediction_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How far predicted seconds are off, in steps over 10 ms; None where nothing was predicted."""
    pairs = [
        (row["predicted_seconds"], row["measured"]["seconds"])
        for row in rows
        if "predicted_seconds" in row
    ]
    if not pairs:
        return None
    long = [(p, m) for p, m in pairs if m > _WORTH_PREDICTING_S]
    return {
        "predicted_seconds": sum(p for p, _ in pairs),
        "measured_seconds": sum(m for _, m in pairs),
        "steps_over_10_ms": len(long),
        "within_25_percent": sum(abs(p / m - 1) <= _CLOSE for p, m in long),
        "mean_relative_error": sum(abs(p / m - 1) for p, m in long) / max(1, len(long)),
    }


def prediction_line(summary: Mapping[str, Any]) -> str:
    """The summary as a sentence."""
    return (
        f"Predicted {summary['predicted_seconds']:.2f} s, measured "
        f"{summary['measured_seconds']:.2f} s; of {summary['steps_over_10_ms']} steps over 10 ms "
        f"{summary['within_25_percent']} are within 25 % of their prediction, on average "
        f"{summary['mean_relative_error']:.0%} off."
    )


def share_offline_cost(rows: list[dict[str, Any]]) -> None:
    """Spread the offline phase over the steps it was for.

    Correlations by how many a step consumed, or by their bytes where those are known; what a step
    prepared is its own.
    """
    offline = {row["name"]: row["measured"] for row in rows if row["phase"] == OFFLINE}
    produced = offline[CORRELATIONS_STEP]
    consumed = [row.get("correlation_bytes", row["correlations"]) for row in rows]
    used = sum(consumed) or 1
    for row, count in zip(rows, consumed, strict=True):
        part = count / used
        own = offline.get(offline_name(row["name"]), {})
        row["offline_share"] = {
            "seconds": produced["seconds"] * part + own.get("seconds", 0.0),
            "sent_bytes": round(_sent(produced) * part) + (_sent(own) if own else 0),
        }


def _sent(measured: Mapping[str, Any]) -> int:
    return int(measured["client_sent_bytes"] + measured["server_sent_bytes"])


def totals(measured: Sequence[Measured]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Offline and online."""

    def summed(steps: list[Measured]) -> dict[str, Any]:
        traffic = sum((m.traffic for m in steps), NO_TRAFFIC)
        return phase_row(sum(m.seconds for m in steps), traffic)

    offline = [m for m in measured if m.phase == OFFLINE]
    return summed(offline), summed([m for m in measured if m.phase != OFFLINE])


def add_phases(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Total of two phases."""
    return {key: first[key] + second[key] for key in first}


def markdown(report: Mapping[str, Any]) -> str:
    """A report for a reader."""
    lines = [f"# Private inference: {plain_cell(report['config']['name'])}", ""]
    lines += [f"Model: {plain_cell(report['model'])}.", ""] if "model" in report else []
    lines += [f"Note: {plain_cell(note)}.\n" for note in report.get("notes", ())]
    lines += [_prompt_line(report["prompt"]), ""] if "prompt" in report else []
    lines += ["## Trust model", "", *(f"- {line}" for line in report["trust_model"]), ""]
    failure = report["failure_probability"]
    lines += [f"Failure probability of this run, all steps together: at most {failure:.1e}.", ""]
    lines += ["## Totals", "", *table_lines(*phase_table(report)), ""]
    batch = report["config"]["model"].get("batch", 1)
    if batch > 1:
        total, sent = report["total"], _sent(report["total"]) / batch / 1e6
        each = f"{total['seconds'] / batch:.3f} s and {sent:.3f} MB each"
        lines += [f"The request carries {batch} texts, {each}.", ""]
    if report.get("prediction"):
        lines += ["## Prediction", "", prediction_line(report["prediction"]), ""]
    accuracy = report.get("accuracy")
    if accuracy:
        lines += [
            "## Accuracy",
            "",
            f"Against the {accuracy['reference']}: cosine {accuracy['cosine']:.6f}, "
            f"largest difference {accuracy['max_abs_error']:.2e}.",
            "",
        ]
    lines += [f"{plain_cell(line)}\n" for line in class_lines(report)]
    lines += range_section(report)
    lines += ["## By operation", "", *table_lines(*group_table(report["steps"], "op")), ""]
    lines += [
        "## By layer and engine",
        "",
        *table_lines(*group_table(report["steps"], "layer")),
        "",
    ]
    lines += ["## Steps", "", *table_lines(*steps_table(report["steps"])), ""]
    lines += ["## Environment", ""]
    lines += environment_lines(report["environment"])
    return "\n".join(lines) + "\n"


def class_lines(report: Mapping[str, Any]) -> list[str]:
    """What a classifier says of each text, and what the plain model says where that is known."""
    found = report.get("classes", [])
    plain = report.get("accuracy", {}).get("classes", [None] * len(found))
    return [
        f"class of text {index}: {own}"
        + ("" if other is None else f", of the plain model: {other}")
        for index, (own, other) in enumerate(zip(found, plain, strict=True), 1)
    ]


def _prompt_line(name: str) -> str:
    """A name out of a model folder, as code and never as markup."""
    return f"Prompt before every text: `{shown(name, _SHOWN).replace('`', '?')}`."


Table = tuple[list[str], list[list[str]]]


def phase_table(report: Mapping[str, Any]) -> Table:
    """Set-up, offline, online and both together."""
    head = ["phase", "seconds", "client sent MB", "server sent MB", "rounds"]
    rows = []
    for phase in ("setup", OFFLINE, "online", "total"):
        row = report[phase]
        rows.append([phase, *measured_cells(row)])
    return head, rows


def measured_cells(row: Mapping[str, Any]) -> list[str]:
    """Seconds, megabytes each way and rounds, as text."""
    return [
        f"{row['seconds']:.3f}",
        f"{row['client_sent_bytes'] / 1e6:.3f}",
        f"{row['server_sent_bytes'] / 1e6:.3f}",
        rounds_text(row["rounds"]),
    ]


def rounds_text(rounds: float) -> str:
    """A whole number, or two digits where rounds are shared."""
    return str(rounds) if isinstance(rounds, int) else f"{rounds:.2f}"


def group_table(steps: Sequence[Mapping[str, Any]], by: str) -> Table:
    """Steps summed by operation, or by layer and engine."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for step in steps:
        label = _op_name(step) if by == "op" else _layer_name(step["layer"])
        into = groups.setdefault((label, step["engine"]), {"count": 0})
        into["count"] += 1
        for key in ("seconds", "client_sent_bytes", "server_sent_bytes", "rounds"):
            into[key] = into.get(key, 0) + step["measured"][key]
        shared = step["offline_share"]
        into["shared_mb"] = into.get("shared_mb", 0.0) + shared["sent_bytes"] / 1e6
        into["shared_s"] = into.get("shared_s", 0.0) + shared["seconds"]
    head = [by, "engine", "steps", "seconds", "client sent MB", "server sent MB", "rounds"]
    head += ["share of offline MB", "share of offline s"]
    rows = [
        [label, engine, str(g["count"]), *measured_cells(g)]
        + [f"{g['shared_mb']:.3f}", f"{g['shared_s']:.3f}"]
        for (label, engine), g in groups.items()
    ]
    return head, rows


def _op_name(step: Mapping[str, Any]) -> str:
    prepared = step["phase"] == OFFLINE and step["name"] != CORRELATIONS_STEP
    return f"{step['op']} (offline)" if prepared else str(step["op"])


def _layer_name(layer: int) -> str:
    return "outside" if layer < 0 else str(layer)


def steps_table(steps: Sequence[Mapping[str, Any]]) -> Table:
    """Every step, declared beside measured."""
    head = ["step", "engine", "protocol", "shape", "seconds", "client sent bytes"]
    head += ["server sent bytes", "rounds", "traffic as predicted", "predicted seconds"]
    rows = []
    for step in steps:
        seen, declared = step["measured"], step["predicted"]
        same = all(seen[key] == declared[key] for key in declared)
        rows.append(
            [
                step["name"],
                step["engine"],
                step["protocol"],
                "x".join(str(n) for n in step["shape"]),
                f"{seen['seconds']:.4f}",
                str(seen["client_sent_bytes"]),
                str(seen["server_sent_bytes"]),
                str(seen["rounds"]),
                "yes" if same else f"no: {declared}",
                f"{step['predicted_seconds']:.4f}" if "predicted_seconds" in step else "",
            ]
        )
    return head, rows
