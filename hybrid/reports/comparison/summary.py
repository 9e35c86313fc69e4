"""report.json of a comparison: medians over repetitions, ranking, environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from hybrid.machine.environment import describe
from hybrid.reports.comparison.configs import Options, PlannedRun
from hybrid.reports.comparison.published import RELATIVE, published_rows
from hybrid.reports.comparison.reasons import reasons
from hybrid.reports.range_report import is_wrong
from hybrid.reports.run_report import prediction_summary

Json = dict[str, Any]
SCHEMA = 1
PHASE_NAMES = ("setup", "offline", "online", "total")
COUNTS = ("client_sent_bytes", "server_sent_bytes", "rounds")
_STEP_KEYS = ("name", "layer", "op", "engine", "protocol", "multiply", "shape", "phase")
_ONCE_KEYS = ("predicted", "failure_probability", "predicted_seconds", "why")
_PEAKS = ("peak_memory_bytes_client", "peak_memory_bytes_server")


def document(rows: Sequence[Json], planned: Sequence[PlannedRun], options: Options) -> Json:
    """What is known after some of the planned runs."""
    return {
        "schema": SCHEMA,
        "unit": "token" if planned[0].answers else "request",
        "complete": len(rows) == len(planned),
        "repetitions": options.repetitions,
        "warm_up": options.warm_up,
        "environment": _environment(rows),
        "runs": list(rows),
        "ranking": ranking(rows, planned[0].name),
        "reasons": reasons([r for r in rows if "error" not in r], planned[0].name),
        # Those are of encoders.
        "published": [] if planned[0].answers else published_rows(),
        "published_relative": [] if planned[0].answers else list(RELATIVE),
    }


def run_row(run: PlannedRun, reports: Sequence[Json], paths: Sequence[str]) -> Json:
    """One run: all repetitions of a session without its warm-up."""
    first = reports[0]
    steps = _steps(reports)
    return {
        **_identity(run),
        "config": first["config"],
        "model": first.get("model", ""),
        "trust_model": first["trust_model"],
        "encoded_bytes": first.get("encoded_bytes"),
        **{phase: spread([r[phase] for r in reports]) for phase in PHASE_NAMES},
        "steps": steps,
        "prediction": prediction_summary(steps),
        "traffic_differs": [s["name"] for s in steps if not _as_predicted(s)],
        "accuracy": _accuracy(reports),
        "ranges_exceeded": sum(is_wrong(report.get("ranges")) for report in reports),
        "failure_probability": first["failure_probability"],
        "dealer_bytes_of_session": first["counted"]["dealer_bytes"],
        "requests_in_session": first["counted"]["requests_in_session"],
        "peak_memory_bytes": [int(first["environment"].get(key, 0)) for key in _PEAKS],
        "machine": first["environment"],
        "reports": list(paths),
        "config_file": f"configs/{run.config.path.name}",
    }


def failed_row(run: PlannedRun, error: str) -> Json:
    """A run that ended with an error."""
    return {
        **_identity(run),
        "config": run.config.run.model_dump(mode="json", exclude={"texts"}),
        "config_file": f"configs/{run.config.path.name}",
        "error": error,
    }


def finished(made: Mapping[str, Any]) -> list[Json]:
    """The runs that were measured."""
    return [row for row in made["runs"] if "error" not in row]


def failures(made: Mapping[str, Any]) -> list[Json]:
    """The runs that failed."""
    return [row for row in made["runs"] if "error" in row]


def links_of(made: Mapping[str, Any]) -> list[str]:
    """Links of the measured runs, in their order."""
    return list(dict.fromkeys(row["link"] for row in finished(made)))


def spread(rows: Sequence[Json]) -> Json:
    """Median, least and largest seconds; bytes and rounds, which do not vary."""
    seconds = [row["seconds"] for row in rows]
    return {
        "seconds": median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        **{key: rows[0][key] for key in COUNTS},
    }


def ranking(rows: Sequence[Json], reference: str) -> list[Json]:
    """By link, fastest first; ratios to the first config named."""
    done = [row for row in rows if "error" not in row]
    found = []
    for link in dict.fromkeys(row["link"] for row in done):
        here = sorted(
            (row for row in done if row["link"] == link), key=lambda row: row["total"]["seconds"]
        )
        base = next((row["total"]["seconds"] for row in here if row["name"] == reference), None)
        order = [
            {
                "name": row["name"],
                "seconds": row["total"]["seconds"],
                "ratio": None if base is None else row["total"]["seconds"] / base,
                "ratio_to_fastest": row["total"]["seconds"] / here[0]["total"]["seconds"],
            }
            for row in here
        ]
        found.append({"link": link, "reference": reference, "order": order})
    return found


def _identity(run: PlannedRun) -> Json:
    return {"name": run.name, "link": run.link}


def _steps(reports: Sequence[Json]) -> list[Json]:
    """The same step of all repetitions, as one row each."""
    rows = []
    for same in zip(*(report["steps"] for report in reports), strict=True):
        first = same[0]
        assert all(step["name"] == first["name"] for step in same)
        kept = {key: first[key] for key in _STEP_KEYS}
        kept |= {key: first[key] for key in _ONCE_KEYS if key in first}
        rows.append({**kept, "measured": spread([step["measured"] for step in same])})
    return rows


def _as_predicted(step: Json) -> bool:
    return all(step["measured"][key] == step["predicted"][key] for key in COUNTS)


def _accuracy(reports: Sequence[Json]) -> Json | None:
    """The worst of all repetitions; None where nothing was compared."""
    known = [report["accuracy"] for report in reports if report.get("accuracy")]
    if not known:
        return None
    return {
        "reference": known[0]["reference"],
        # Unlike `min`, they pass on what is not a number.
        "cosine": float(np.min([one["cosine"] for one in known])),
        "max_abs_error": float(np.max([one["max_abs_error"] for one in known])),
    }


def _environment(rows: Sequence[Json]) -> Json:
    """Machine, versions and threads; memory belongs to runs."""
    known = next((row["machine"] for row in rows if "machine" in row), None)
    found = describe() if known is None else known
    return {key: text for key, text in found.items() if not key.startswith("peak_memory")}
