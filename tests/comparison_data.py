"""Reports as a run would give them, made from a real plan without running it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hybrid.config.loading import Config
from hybrid.machine.environment import describe
from hybrid.models.loading import load_model
from hybrid.planning.plan import OFFLINE, ONLINE, Plan
from hybrid.planning.planner import make_plan
from hybrid.reports.comparison.run import Hooks
from hybrid.reports.run_report import add_phases, phase_row, step_rows, totals, trust_model
from hybrid.runtime.local import LocalSession
from hybrid.runtime.runner import Measured
from tests.tiny_model import write_tiny_config
from transport.traffic import Traffic


def write_pair(folder: Path) -> list[Path]:
    """Two configs of one tiny model with different engines, of the same name."""
    first = write_tiny_config(folder)
    text = first.read_text()
    changes = {"linear: token_periodic": "linear: coefficients", "phase: offline": "phase: online"}
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    second = folder / "ring.yaml"
    second.write_text(text)
    return [first, second]


def quiet_hooks(measure: Any, said: list[str] | None = None) -> Hooks:
    """Shows nothing; sessions start no process."""
    say = (said if said is not None else []).append
    return Hooks(LocalSession, lambda *_: nullcontext(), say, measure)


def made_reports(
    config: Config, count: int, *, slowness: float = 1.0, predicted: bool = True
) -> list[dict[str, Any]]:
    """`count` requests; each takes one part in ten longer than the one before."""
    plan = make_plan(config, load_model(config).public, None)
    return [_report(plan, config, slowness * (1 + 0.1 * i), predicted) for i in range(count)]


def _report(plan: Plan, config: Config, slowness: float, predicted: bool) -> dict[str, Any]:
    costs = [("correlations", OFFLINE, plan.offline_traffic)]
    costs += [(s.offline_name, OFFLINE, s.offline.traffic) for s in plan.steps if s.prepares]
    costs += [(s.node.name, ONLINE, s.cost.traffic) for s in plan.steps]
    measured = [
        Measured(name, slowness * (0.002 + traffic.sent_bytes / 2e7), traffic, phase)
        for name, phase, traffic in costs
    ]
    guesses = {m.name: m.seconds * 1.1 for m in measured}
    offline, online = totals(measured)
    steps = step_rows(plan, measured, guesses if predicted else None)
    for step in steps:
        step["why"] = "the runner-up takes 3 ms more"
    memory = {"peak_memory_bytes_client": "500000000", "peak_memory_bytes_server": "900000000"}
    return {
        "config": config.run.model_dump(mode="json"),
        "environment": describe() | memory,
        "trust_model": trust_model(plan),
        "failure_probability": plan.cost.failure_probability,
        "setup": phase_row(1.5 * slowness, Traffic(1_000_000, 2_000_000, 10, 10, 9)),
        "offline": offline,
        "online": online,
        "total": add_phases(offline, online),
        "steps": steps,
        "accuracy": {
            "reference": "plain float32 model", "cosine": 0.999999, "max_abs_error": 2e-4,
        },
        "counted": {"dealer_bytes": 0, "requests_in_session": 3},
    }  # fmt: skip
