"""Tutorial 5: what a run's report.json holds, and a plot of it.

    hybrid run tiny.yaml --text "A sentence." --out runs/first
    python 05_read_a_report.py runs/first/report.json --out bytes.png

`session.reports()` of tutorial 1 is the same in Python.

The keys that matter, all numbers in seconds, bytes (framing included) and rounds:

- setup, offline, online, total: one row each; set-up serves a session, total is the other two.
- steps: one row a step and phase, with `predicted` beside `measured`, the protocol and its shape.
- offline_share of a step: its part of making correlations and all of its own preparation. Add it
  to the step's measured bytes to compare protocols that shift work offline with those that do not.
- counted: what both ends of the channel counted; the sum of all steps and set-up is the same.
- accuracy: written by `hybrid run` alone, which knows both sides.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def sent(row: Json) -> int:
    """Bytes of both directions."""
    return int(row["client_sent_bytes"] + row["server_sent_bytes"])


def by_operation(steps: list[Json]) -> dict[str, Json]:
    """Offline and online bytes, rounds and seconds of every operation, largest first."""
    groups: dict[str, Json] = {}
    for step in steps:
        group = groups.setdefault(
            step["op"], {"offline": 0, "online": 0, "rounds": 0, "seconds": 0.0}
        )
        group[step["phase"]] += sent(step["measured"])
        group["rounds"] += step["measured"]["rounds"]
        group["seconds"] += step["measured"]["seconds"]
    ordered = sorted(groups.items(), key=lambda item: -item[1]["offline"] - item[1]["online"])
    return dict(ordered)


def differences(steps: list[Json]) -> list[str]:
    """Steps that sent something else than their plan said."""
    return [
        step["name"]
        for step in steps
        if any(step["measured"][key] != value for key, value in step["predicted"].items())
    ]


def plot(groups: dict[str, Json], title: str, out: Path) -> None:
    """Stacked bars, offline and online megabytes of every operation."""
    import matplotlib

    matplotlib.use("Agg")  # A file, no screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    names = list(groups)[::-1]
    offline = [groups[name]["offline"] / 1e6 for name in names]
    online = [groups[name]["online"] / 1e6 for name in names]
    axes.barh(names, offline, label="offline", color="#9ab5d6")
    axes.barh(names, online, left=offline, label="online", color="#31588f")
    axes.set_xlabel("megabytes, both directions, framing included")
    axes.set_title(title)
    axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def main() -> None:
    """Print breakdowns, write the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="report.json of a run")
    parser.add_argument("--out", type=Path, help="file for the plot: .png, .pdf or .svg")
    arguments = parser.parse_args()
    try:
        report = json.loads(arguments.report.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        parser.error(f"{arguments.report}: {error}; make one with `hybrid run`")

    for phase in ("setup", "offline", "online", "total"):
        row = report[phase]
        megabytes = sent(row) / 1e6
        print(f"{phase:8} {row['seconds']:8.3f} s {megabytes:9.3f} MB {row['rounds']:5} rounds")
    groups = by_operation(report["steps"])
    print(f"\n{'operation':14} {'offline MB':>10} {'online MB':>10} {'rounds':>6} {'seconds':>8}")
    for name, group in groups.items():
        print(
            f"{name:14} {group['offline'] / 1e6:10.3f} {group['online'] / 1e6:10.3f} "
            f"{group['rounds']:6} {group['seconds']:8.3f}"
        )
    slowest = sorted(report["steps"], key=lambda step: -step["measured"]["seconds"])[:3]
    print("\nslowest steps:", ", ".join(step["name"] for step in slowest))
    print("steps that differ from their plan:", ", ".join(differences(report["steps"])) or "none")
    if "accuracy" in report:
        print(f"cosine to the plain model: {report['accuracy']['cosine']:.6f}")
    if arguments.out:
        plot(groups, f"{report['config']['name']}: bytes by operation", arguments.out)
        print(f"plot: {arguments.out}")


if __name__ == "__main__":
    main()
