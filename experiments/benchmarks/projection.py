"""From a run of few layers to all of a model: a PROJECTION, labelled as one.

    hybrid run configs/bert_base_layer.yaml --text "One sentence." --out runs/layer
    python experiments/benchmarks/projection.py runs/layer/report.json --layers 12

Steps of layers are taken times the ratio of layers, steps outside layers once; correlations, made
in one batch, times the ratio of what the steps consume. Layers do the same work whatever stands in
them, but the first one: it has no LayerNorm to fold, and lacks the residual scaling of the others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybrid.planning.plan import CORRELATIONS_STEP
from hybrid.reports.comparison.published import PUBLISHED
from hybrid.reports.files import json_text

KEYS = ("seconds", "client_sent_bytes", "server_sent_bytes", "rounds")
Json = dict[str, Any]


def projected(steps: Sequence[Mapping[str, Any]], layers: int) -> Json:
    """Offline, online and total of `layers` layers; ValueError where the steps hold none."""
    measured = {step["layer"] for step in steps if step["layer"] >= 0}
    if not measured:
        raise ValueError("the report holds no step of a layer; give one of `hybrid run`")
    ratio = layers / len(measured)
    used = sum(step["correlations"] for step in steps)
    inside = sum(step["correlations"] for step in steps if step["layer"] >= 0)
    consumed = 1.0 if not used else (used - inside + inside * ratio) / used
    sums: dict[str, dict[str, float]] = {
        phase: dict.fromkeys(KEYS, 0.0) for phase in ("offline", "online")
    }
    for step in steps:
        is_correlations = step["name"] == CORRELATIONS_STEP
        for key in KEYS:
            factor = ratio if step["layer"] >= 0 else 1.0
            if is_correlations:
                # One batch of messages, however many correlations it makes.
                factor = 1.0 if key == "rounds" else consumed
            sums[step["phase"]][key] += factor * step["measured"][key]
    total = {key: sums["offline"][key] + sums["online"][key] for key in KEYS}
    return {
        "kind": "PROJECTION",
        "layers_measured": len(measured),
        "layers": layers,
        **sums,
        "total": total,
    }


def shown(found: Mapping[str, Any]) -> str:
    """A projection for a reader."""
    lines = [
        f"PROJECTION from {found['layers_measured']} measured to {found['layers']} layers "
        "(not measured):"
    ]
    for phase in ("offline", "online", "total"):
        row = found[phase]
        sent = (row["client_sent_bytes"] + row["server_sent_bytes"]) / 1e9
        lines.append(
            f"  {phase:8} {row['seconds']:8.1f} s {sent:8.3f} GB {row['rounds']:6.0f} rounds"
        )
    return "\n".join(lines)


def published_lines() -> list[str]:
    """Figures of others for BERT-base, with their sources."""
    return [
        f"  {row.system}: "
        + ("" if row.seconds is None else f"{row.seconds:g} s ")
        + ("" if row.gigabytes is None else f"{row.gigabytes:g} GB ")
        + f"({row.machine}; {row.source})"
        for row in PUBLISHED
        if row.shape.startswith("BERT-base")
    ]


def main() -> None:
    """Read, project, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="report.json of `hybrid run`")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.layers < 1:
        parser.error(f"--layers {arguments.layers}: give 1 or more")
    try:
        report = json.loads(arguments.report.read_text(encoding="utf-8"))
        found = projected(report["steps"], arguments.layers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{arguments.report}: not a report of `hybrid run` ({error})")
    measured = report["total"]
    sent = (measured["client_sent_bytes"] + measured["server_sent_bytes"]) / 1e9
    print(f"{report.get('model', 'model not named')}; {report['config']['model']['tokens']} tokens")
    print(f"measured: {measured['seconds']:.1f} s, {sent:.3f} GB, {measured['rounds']} rounds")
    print(shown(found))
    print("published figures of BERT-base, on other machines and networks:")
    print("\n".join(published_lines()))
    if arguments.out:
        arguments.out.write_text(json_text(found), encoding="utf-8")


if __name__ == "__main__":
    main()
